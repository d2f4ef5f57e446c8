"""The rules of monitoring, by Prometheus' own tool: each speaks when it must and only then."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.serving.metrics import Metrics
from pipelines.templates.addons import dashboard, rules

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=str(ROOT / ".tools/bin"))
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None,
    reason="promtool is missing: install Debian's package prometheus (it has it), or put it in .tools/bin",
)
TESTS = sorted((HERE / "rules").glob("*.yaml"))
ALL = [rule for group in rules.GROUPS.values() for rule in group]
# what scrapes give that is not ours: which of upstream's documents has it
UPSTREAM = {
    "argo_workflows_": "argo-workflows 4.1, docs/metrics.md, and the metrics of our templates",
    "argo_events_": "argo-events 1.9, docs/metrics.md",
    "argocd_app_info": "argo-cd 3.5, docs/operator-manual/metrics.md",
    "certmanager_certificate_": "cert-manager 1.21, internal/collectors",
    "container_": "the kubelet, /metrics/cadvisor",
    "kube_": "kube-state-metrics 2.20, docs/metrics",
    "kubelet_volume_stats_": "the kubelet, /metrics",
    "ALERTS": "Prometheus itself",
    "up": "Prometheus itself",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rules-under-test.yaml").write_text(yaml.safe_dump(rules.groups()))
    for file in TESTS:
        shutil.copy(file, tmp_path)
    return tmp_path


def promtool(folder, *words):
    return subprocess.run([str(PROMTOOL), *words], cwd=folder, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_prometheus_reads_the_rules(folder):
    done = promtool(folder, "check", "rules", "rules-under-test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALL)} rules found" in done.stdout


@needs_promtool
def test_each_rule_speaks_when_it_must_and_only_then(folder):
    done = promtool(folder, "test", "rules", *(file.name for file in TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_rule_that_says_too_much_or_nothing_is_found(folder):
    groups = rules.groups()
    groups["groups"][0]["rules"][0]["expr"] = "vector(1)"
    (folder / "rules-under-test.yaml").write_text(yaml.safe_dump(groups))
    assert "WorkflowsFail" in promtool(folder, "test", "rules", *(file.name for file in TESTS)).stderr


@needs_promtool
def test_prometheus_reads_what_the_dashboard_asks(folder):
    asked = [{"record": f"panel:{number}", "expr": panel.expr} for number, panel in enumerate(dashboard.PANELS)]
    (folder / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))
    done = promtool(folder, "check", "rules", "--lint=none", "panels.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_is_tried_with_what_sets_it_off():
    tried = [
        case["alertname"]
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    ]
    assert set(tried) == {rule.alert for rule in ALL}


def test_each_rule_says_what_to_do():
    assert len({rule.alert for rule in ALL}) == len(ALL)
    for rule in ALL:
        assert rule.severity in ("warning", "critical")
        assert rule.summary
        assert rule.todo


def test_each_number_comes_from_somewhere():
    metrics = Metrics({"name": "digits", "version": "1", "lock": "l", "bundle": "b"})
    metrics.count(200, 1, 0.1)
    ours = set(re.findall(rb"^(\w+)[{ ]", metrics.text(), re.M))
    words = [rule.expr for rule in ALL] + [panel.expr for panel in dashboard.PANELS]
    names = {name for text in words for name in re.findall(r"\b([a-zA-Z_]+)(?=[{\[])", text)} - {"by"}
    assert len(names) > 15
    for name in names:
        assert name.encode() in ours or any(name.startswith(known) for known in UPSTREAM), name


def test_what_the_gate_refuses_is_counted_where_the_rule_reads_it():
    text = (ROOT / "mlops/templates/ct.yaml").read_text()
    (gate,) = (t for t in yaml.safe_load(text)["spec"]["templates"] if "metrics" in t)
    (counted,) = gate["metrics"]["prometheus"]
    assert gate["name"] == "gate"
    assert counted["when"] == "{{status}} == Failed"
    (rule,) = (rule for rule in ALL if rule.alert == "GateRefuses")
    assert f"argo_workflows_{counted['name']}[" in rule.expr
    assert f"by ({counted['labels'][0]['key']})" in rule.expr
