"""What is refused before anything runs, and where."""

import copy

import pytest
from event_world import GITHUB, SENSOR, STAGES

from solo.events import check, support_rows


@pytest.mark.parametrize("manifest", [GITHUB, STAGES, SENSOR])
def test_good_manifests_have_no_problems(manifest):
    assert check(manifest) == []


def changed(manifest, path, value):
    """A copy with one field set (or taken away, for None)."""
    manifest = copy.deepcopy(manifest)
    *way, last = path.split("/")
    here = manifest["spec"]
    for part in way:
        here = here[int(part) if part.isdigit() else part]
    last = int(last) if last.isdigit() else last
    if value is None:
        del here[last]
    else:
        here[last] = value
    return manifest


DATA, TEMPLATE, K8S = "dependencies/0/filters/data", "triggers/0/template", "triggers/0/template/k8s"


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        ("dependencies/0/filter", {"data": []}, "spec.dependencies[0].filter", "did you mean 'filters'?"),
        ("dependencies/0/filters/script", "return true", "spec.dependencies[0].filters.script", "does not support"),
        ("dependencies/0/transform", {"jq": "."}, "spec.dependencies[0].transform", "does not support"),
        ("dependencies/0/filters", {}, "spec.dependencies[0].filters", "filters nothing"),
        ("dependencies/0/name", "in", "spec.dependencies[0].name", "condition language"),
        ("dependencies/1/name", "pushed", "spec.dependencies[1].name", "already"),
        ("dependencies/0/eventName", None, "spec.dependencies[0].eventName", "is required"),
        (f"{DATA}/0/type", "integer", "spec.dependencies[0].filters.data[0].type", "'integer' is not supported"),
        (f"{DATA}/0/comparator", "==", "spec.dependencies[0].filters.data[0].comparator", "not '=='"),
        (f"{DATA}/0/path", "a.*", "spec.dependencies[0].filters.data[0].path", "unexpected '*'"),
        (f"{DATA}/0/value", "main", "spec.dependencies[0].filters.data[0].value", "must be a list"),
        (f"{DATA}/0/value", [], "spec.dependencies[0].filters.data[0].value", "is required"),
        (f"{DATA}/0/value/0", "([", "spec.dependencies[0].filters.data[0].value[0]", "solo does not read"),
        (f"{DATA}/0/value/0", 7, "spec.dependencies[0].filters.data[0].value[0]", "put it in quotes"),
        (f"{DATA}/2/value/0", "maybe", "spec.dependencies[0].filters.data[2].value[0]", "neither true nor false"),
        (f"{DATA}/0/template", "{{ x }}", "spec.dependencies[0].filters.data[0].template", "no function 'x'"),
        ("triggers", [], "spec.triggers", "is required"),
        (f"{TEMPLATE}/conditions", "pushed && missed", "spec.triggers[0].template.conditions", "more than solo reads"),
        (f"{TEMPLATE}/conditions", "nobody", "spec.triggers[0].template.conditions", "no dependency of this Sensor"),
        (f"{TEMPLATE}/conditions", None, "spec.triggers[0].template.conditions", "all dependencies together"),
        (f"{TEMPLATE}/slack", {}, "spec.triggers[0].template.slack", "does not support"),
        (f"{K8S}/operation", "patch", "spec.triggers[0].template.k8s.operation", "'patch' is not supported"),
        (f"{K8S}/source/resource/kind", "Pod", "spec.triggers[0].template.k8s.source.resource", "Workflows"),
        (f"{K8S}/source/s3", {}, "spec.triggers[0].template.k8s.source.s3", "does not support"),
        (f"{K8S}/parameters/0/operation", "replace", "spec.triggers[0].template.k8s.parameters[0].operation", "append"),
        (
            f"{K8S}/parameters/3/dest",
            'spec.arguments.parameters.#(name=="shaa").value',
            "spec.triggers[0].template.k8s.parameters[3].dest",
            "nothing would be set",
        ),
        (
            f"{K8S}/parameters/0/src",
            {"dependencyName": "nobody", "dataKey": "body"},
            "spec.triggers[0].template.k8s.parameters[0].src.dependencyName",
            "no dependency",
        ),
        (
            f"{K8S}/parameters/0/src",
            {"dependencyName": "pushed"},
            "spec.triggers[0].template.k8s.parameters[0].src",
            "names no dataKey",
        ),
        ("triggers/0/dlqTrigger", {}, "spec.triggers[0].dlqTrigger", "does not support"),
        ("eventBusName", "other", "spec.eventBusName", "'other' is not supported"),
    ],
)
def test_a_sensor_that_would_not_do_what_it_says_is_refused_with_the_place(path, value, field, message):
    problems = check(changed(SENSOR, path, value))
    assert field in [problem.field for problem in problems]
    assert any(message in problem.message for problem in problems if problem.field == field)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("v == '2024-01-02'", "govaluate makes a number of the date"),
        ("v ? 1 : 2", "unexpected"),
        ("w == 1", "'w' is not declared"),
        ("v ==", "ends too early"),
    ],
)
def test_an_expression_that_solo_does_not_read_is_refused(expr, message):
    filters = {"exprs": [{"expr": expr, "fields": [{"name": "v", "path": "body.v"}]}]}
    (problem,) = check(changed(SENSOR, "dependencies/0/filters", filters))
    assert problem.field == "spec.dependencies[0].filters.exprs[0].expr"
    assert message in problem.message


@pytest.mark.parametrize(
    ("manifest", "path", "value", "field"),
    [
        (GITHUB, "kafka", {}, "spec.kafka"),
        (GITHUB, "github/push/filter", {"expression": "true"}, "spec.github.push.filter"),
        (GITHUB, "github/push/webhook", None, "spec.github.push.webhook"),
        (GITHUB, "github/push/webhook/port", "x", "spec.github.push.webhook.port"),
        (GITHUB, "github/push/webhookSecret", {"name": "s"}, "spec.github.push.webhookSecret.key"),
        (GITHUB, "github", {}, "spec"),
        (STAGES, "webhook/push/method", "PUT", "spec.webhook.push.method"),
        (STAGES, "webhook/push/endpoint", None, "spec.webhook.push.endpoint"),
        (STAGES, "webhook/push/endpoint", "push", "spec.webhook.push.endpoint"),
        (STAGES, "webhook/push/maxPayloadSize", 0, "spec.webhook.push.maxPayloadSize"),
        (STAGES, "webhook/again", STAGES["spec"]["webhook"]["push"], "spec.webhook.again.endpoint"),
    ],
)
def test_an_event_source_that_cannot_run_is_refused_with_the_place(manifest, path, value, field):
    assert field in [problem.field for problem in check(changed(manifest, path, value))]


def test_every_supported_field_says_why_it_is_only_noted():
    rows = support_rows()
    assert ("Sensor", "honoured", "spec.dependencies[].filters.data[].path", "") in rows
    assert all(why for _, verdict, _, why in rows if verdict == "noted")
