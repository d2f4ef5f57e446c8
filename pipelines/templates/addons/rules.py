"""What monitoring warns of: one Rule a line of the table, with the words that a person gets.

Tested with Prometheus' own promtool: tests/addons/rules/ feeds each rule the series that must set it off, and those
that must not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Manifest = dict[str, Any]


class Rule(NamedTuple):
    """`warning`: look at it this week. `critical`: pushes or answers are being lost now."""

    alert: str
    expr: str
    minutes: int
    severity: str
    summary: str
    todo: str


FAILED = 'phase=~"Failed|Error"'

GROUPS: dict[str, list[Rule]] = {
    "pipelines": [
        Rule(
            "WorkflowsFail",
            f"sum by (name) (increase(argo_workflows_workflowtemplate_triggered_total{{{FAILED}}}[1h])) >= 3",
            0,
            "warning",
            "{{ $labels.name }} failed {{ $value | humanize }} times in an hour",
            "yard runs, then yard logs RUN",
        ),
        Rule(
            "WorkflowsPending",
            'sum(argo_workflows_gauge{phase="Pending"}) > 0',
            30,
            "warning",
            "Workflows have waited for half an hour",
            "kubectl -n mlops get pods: is a node full, or a quota reached?",
        ),
        Rule(
            "StepsPending",
            'sum(argo_workflows_pods_gauge{phase="Pending"}) > 0',
            15,
            "warning",
            "pods of steps have been pending for 15 minutes",
            "kubectl -n mlops describe pod: an image that cannot be pulled, or no node with room (or a GPU)",
        ),
        Rule(
            "GateRefuses",
            "sum by (service) (increase(argo_workflows_trainyard_gate_refused[1d])) >= 3",
            0,
            "warning",
            "the gate refused {{ $labels.service }} {{ $value | humanize }} times in a day",
            "yard models, and the run's decision: did the data change, or the thresholds?",
        ),
        Rule(
            "ReconcileStopped",
            'increase(argo_workflows_cronworkflows_triggered_total{name="reconcile"}[30m]) == 0',
            0,
            "warning",
            "no reconcile for half an hour: pushes that were missed stay missed",
            "kubectl -n mlops get cronworkflow reconcile",
        ),
        Rule(
            "ControllerDown",
            'absent(up{job="workflow-controller"} == 1)',
            5,
            "critical",
            "the workflow controller does not answer: no run goes on",
            "kubectl -n argo get pods",
        ),
    ],
    "events": [
        Rule(
            "EventSourceDown",
            'absent(up{job="eventsource"} == 1)',
            5,
            "critical",
            "no EventSource answers: webhooks are refused, and GitHub does not send them again",
            "kubectl -n argo-events get eventsources,pods",
        ),
        Rule(
            "SensorDown",
            'absent(up{job="sensor"} == 1)',
            5,
            "critical",
            "no Sensor answers: events wait in the bus",
            "kubectl -n argo-events get sensors,pods",
        ),
        Rule(
            "EventBusDown",
            'absent(up{job="eventbus"} == 1)',
            5,
            "critical",
            "the bus does not answer: webhooks are refused",
            "kubectl -n argo-events get eventbus,pods",
        ),
        Rule(
            "TriggersFail",
            "sum by (sensor_name) (increase(argo_events_action_failed_total[15m])) > 0",
            0,
            "warning",
            "{{ $labels.sensor_name }} could not start a Workflow",
            "kubectl -n argo-events logs -l sensor-name={{ $labels.sensor_name }}",
        ),
    ],
    "serving": [
        Rule(
            "ServiceErrors",
            'sum by (namespace) (rate(trainyard_infer_requests_total{code=~"5.."}[5m]))'
            " / sum by (namespace) (rate(trainyard_infer_requests_total[5m])) > 0.01",
            5,
            "critical",
            "{{ $labels.namespace }}: {{ $value | humanizePercentage }} of the answers are errors of the server",
            "kubectl -n {{ $labels.namespace }} logs deployment/…, then yard trace SHA",
        ),
        Rule(
            "ServiceSlow",
            "histogram_quantile(0.99, sum by (namespace, le) (rate(trainyard_infer_seconds_bucket[5m]))) > 0.5",
            10,
            "warning",
            "{{ $labels.namespace }}: one answer in a hundred takes longer than {{ $value | humanizeDuration }}",
            "more replicas, or more processor for each",
        ),
        Rule(
            "ServiceNotReady",
            'kube_deployment_status_replicas_unavailable{namespace=~".+-(dev|stage|prod)"} > 0',
            10,
            "critical",
            "{{ $labels.namespace }}: {{ $value }} pods are not ready",
            "kubectl -n {{ $labels.namespace }} describe pods",
        ),
    ],
    "deployment": [
        Rule(
            "ApplicationUnhealthy",
            'sum by (name) (argocd_app_info{health_status!~"Healthy|Progressing|Suspended"}) > 0',
            10,
            "warning",
            "{{ $labels.name }} is not healthy in Argo CD",
            "make verify",
        ),
        Rule(
            "ApplicationOutOfSync",
            'sum by (name) (argocd_app_info{sync_status!="Synced"}) > 0',
            30,
            "warning",
            "{{ $labels.name }} is not what Git says",
            "look at it in Argo CD: a manifest that is refused, or a Git host that does not answer",
        ),
    ],
    "box": [
        Rule(
            "DiskFills",
            'max by (node, device) (container_fs_usage_bytes{id="/"} / container_fs_limit_bytes{id="/"}) > 0.8',
            15,
            "warning",
            "{{ $labels.node }}: {{ $labels.device }} is {{ $value | humanizePercentage }} full",
            "at 85 % the kubelet deletes images, then it evicts pods: docs/operations.md",
        ),
        Rule(
            "VolumeFills",
            "min by (namespace, persistentvolumeclaim)"
            " (kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes) < 0.15",
            15,
            "warning",
            "{{ $labels.namespace }}/{{ $labels.persistentvolumeclaim }} has {{ $value | humanizePercentage }} left",
            "make the volume larger, or delete what is old",
        ),
        Rule(
            "PodRestarts",
            "sum by (namespace, pod) (increase(kube_pod_container_status_restarts_total[1h])) > 5",
            0,
            "warning",
            "{{ $labels.namespace }}/{{ $labels.pod }} started again {{ $value | humanize }} times in an hour",
            "kubectl -n {{ $labels.namespace }} logs {{ $labels.pod }} --previous",
        ),
        Rule(
            "CertificateExpires",
            "min by (namespace, name) (certmanager_certificate_expiration_timestamp_seconds) - time() < 14 * 24 * 3600",
            60,
            "critical",
            "{{ $labels.namespace }}/{{ $labels.name }} expires in {{ $value | humanizeDuration }}",
            "kubectl -n {{ $labels.namespace }} describe certificate {{ $labels.name }}: it renews at two thirds",
        ),
        Rule(
            "BackupOld",
            'time() - max by (namespace, cronjob) (kube_cronjob_status_last_successful_time{cronjob=~"backup-.+"})'
            " > 2 * 24 * 3600",
            60,
            "critical",
            "{{ $labels.cronjob }}: the last good copy is {{ $value | humanizeDuration }} old",
            "kubectl -n {{ $labels.namespace }} logs job/…: docs/operations.md",
        ),
        Rule(
            "BackupNever",
            'kube_cronjob_created{cronjob=~"backup-.+"} < time() - 2 * 24 * 3600'
            " unless on (namespace, cronjob) kube_cronjob_status_last_successful_time",
            60,
            "critical",
            "{{ $labels.cronjob }}: there is no copy yet, after two days",
            "kubectl -n {{ $labels.namespace }} logs job/…: docs/operations.md",
        ),
    ],
}


def groups() -> Manifest:
    """As Prometheus reads them, and the operator: `groups` of a rule file and of a PrometheusRule."""
    return {
        "groups": [
            {"name": f"trainyard-{name}", "rules": [_rule(rule) for rule in rules]} for name, rules in GROUPS.items()
        ]
    }


def _rule(rule: Rule) -> Manifest:
    wait = {"for": f"{rule.minutes}m"} if rule.minutes else {}
    return {
        "alert": rule.alert,
        "expr": rule.expr,
        **wait,
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary, "todo": rule.todo},
    }
