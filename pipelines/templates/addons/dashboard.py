"""Grafana's one dashboard: the way of a push from left to right, the box below. PANELS is the table."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Manifest = dict[str, Any]
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT = 6, 7  # of Grafana's 24 columns


class Panel(NamedTuple):
    title: str
    expr: str
    legend: str = ""
    unit: str = "short"
    kind: str = "timeseries"


PANELS = [
    Panel("Webhooks taken", "sum by (event_name) (increase(argo_events_events_sent_total[1h]))", "{{event_name}}"),
    Panel(
        "Workflows started",
        "sum by (sensor_name) (increase(argo_events_action_triggered_total[1h]))",
        "{{sensor_name}}",
    ),
    Panel(
        "Workflows ended",
        "sum by (name, phase) (increase("
        'argo_workflows_workflowtemplate_triggered_total{phase=~"Succeeded|Failed|Error"}[1h]))',
        "{{name}} {{phase}}",
    ),
    Panel("Gate said no", "sum by (service) (increase(argo_workflows_trainyard_gate_refused[1d]))", "{{service}}"),
    Panel("Workflows now", "sum by (phase) (argo_workflows_gauge)", "{{phase}}"),
    Panel("Pods of steps now", "sum by (phase) (argo_workflows_pods_gauge)", "{{phase}}"),
    Panel("Applications not in order", 'sum by (name) (argocd_app_info{health_status!="Healthy"})', "{{name}}"),
    Panel("Alerts", 'ALERTS{alertstate="firing"}', "{{alertname}} {{namespace}} {{name}}", kind="table"),
    Panel(
        "Answers",
        "sum by (namespace, code) (rate(trainyard_infer_requests_total[5m]))",
        "{{namespace}} {{code}}",
        "reqps",
    ),
    Panel(
        "Answer in (99 %)",
        "histogram_quantile(0.99, sum by (namespace, le) (rate(trainyard_infer_seconds_bucket[5m])))",
        "{{namespace}}",
        "s",
    ),
    Panel("Rows predicted", "sum by (namespace) (rate(trainyard_infer_rows_total[5m]))", "{{namespace}}"),
    Panel("Model that is served", "max by (namespace, name, version) (trainyard_model_info)", kind="table"),
    Panel(
        "Disk used",
        'max by (node, device) (container_fs_usage_bytes{id="/"} / container_fs_limit_bytes{id="/"})',
        "{{node}} {{device}}",
        "percentunit",
    ),
    Panel(
        "Memory used",
        'sum by (namespace) (container_memory_working_set_bytes{container!=""})',
        "{{namespace}}",
        "bytes",
    ),
    Panel(
        "Processor used",
        'sum by (namespace) (rate(container_cpu_usage_seconds_total{container!=""}[5m]))',
        "{{namespace}}",
    ),
    Panel(
        "Age of the last copy",
        'time() - max by (cronjob) (kube_cronjob_status_last_successful_time{cronjob=~"backup-.+"})',
        "{{cronjob}}",
        "s",
    ),
]


def dashboard() -> str:
    """The dashboard as Grafana's JSON."""
    body = {
        "uid": "trainyard",
        "title": "Trainyard",
        "schemaVersion": 41,
        "editable": False,  # it is made from Git
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": []},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(body, indent=1)


def _panel(number: int, panel: Panel) -> Manifest:
    row, column = divmod(number, 24 // WIDTH)
    target: Manifest = {"refId": "A", "datasource": SOURCE, "expr": panel.expr, "legendFormat": panel.legend}
    if panel.kind == "table":
        target |= {"format": "table", "instant": True}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": [target],
    }
