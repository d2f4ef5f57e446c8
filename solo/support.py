"""The one table of what solo makes of each manifest field: honoured, noted or refused. `yard solo support` and
docs/support.md print it.

*honoured*: done as Kubernetes or Argo does it. *noted*: isolation, placement or capacity, meaningless for a process
on one machine; listed at
start. Everything that is not in the table is *refused* before anything runs. In a field, `[]` is any element of a
list, `*` any key of a map, `x*` any that begins with x;
`…` at the end covers everything below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from solo.events import support_rows
from solo.manifests import Field
from solo.store import Object


class Rule(NamedTuple):
    """A row of the table: these fields of these kinds get this verdict, for this reason."""

    kinds: str
    verdict: str
    fields: str
    why: str = ""


ISOLATION = "a process of this user has the rights of this user"
PLACEMENT = "there is one machine"
CAPACITY = "nothing limits or reserves memory and processors of a process"
GUARD = "nobody but this user can reach solo"

META = "apiVersion kind metadata.name metadata.namespace metadata.labels.* metadata.annotations.*"

_PROBE = "httpGet.path httpGet.port periodSeconds failureThreshold successThreshold initialDelaySeconds timeoutSeconds"
_CONTAINER = " ".join(
    [
        "name image command[] args[] workingDir",
        "env[].name env[].value env[].valueFrom.configMapKeyRef.… env[].valueFrom.secretKeyRef.… env[].valueFrom.fieldRef.fieldPath",
        "envFrom[].configMapRef.name envFrom[].configMapRef.optional envFrom[].secretRef.name envFrom[].secretRef.optional",
        "volumeMounts[].name volumeMounts[].mountPath volumeMounts[].subPath",
        "ports[].name ports[].containerPort ports[].protocol",
        *(
            f"{probe}.{field}"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
            for field in _PROBE.split()
        ),
    ]
)
_CONTAINER_NOTED = {
    ISOLATION: "securityContext.… volumeMounts[].readOnly",
    CAPACITY: "resources.…",
    "an image is on this host or it is not": "imagePullPolicy",
}
_VOLUMES = " ".join(
    [
        "volumes[].name volumes[].emptyDir volumes[].configMap.name volumes[].configMap.optional",
        "volumes[].configMap.items[].key volumes[].configMap.items[].path",
        "volumes[].secret.secretName volumes[].secret.optional volumes[].secret.items[].key volumes[].secret.items[].path",
    ]
)
_POD_NOTED = {
    PLACEMENT: "nodeSelector.* tolerations[].… affinity.… topologySpreadConstraints[].… priorityClassName",
    ISOLATION: "serviceAccountName automountServiceAccountToken securityContext.… executor.serviceAccountName",
}
_PARAMETERS = "parameters[].name parameters[].value parameters[].default"
_ARGUMENTS = f"{_PARAMETERS} artifacts[].name artifacts[].from artifacts[].raw.data artifacts[].optional"
_TEMPLATE = " ".join(
    [
        "name",
        "inputs.parameters[].name inputs.parameters[].value inputs.parameters[].default",
        "inputs.artifacts[].name inputs.artifacts[].path inputs.artifacts[].optional inputs.artifacts[].raw.data inputs.artifacts[].mode",
        "inputs.artifacts[].archive.none inputs.artifacts[].archive.tar.…",
        "outputs.parameters[].name outputs.parameters[].valueFrom.path outputs.parameters[].valueFrom.default",
        "outputs.parameters[].valueFrom.parameter outputs.parameters[].valueFrom.expression",
        "outputs.artifacts[].name outputs.artifacts[].path outputs.artifacts[].optional outputs.artifacts[].from",
        "outputs.artifacts[].fromExpression outputs.artifacts[].archive.none outputs.artifacts[].archive.tar.…",
        "dag.failFast dag.tasks[].name dag.tasks[].template dag.tasks[].templateRef.name dag.tasks[].templateRef.template",
        "dag.tasks[].depends dag.tasks[].dependencies[] dag.tasks[].when dag.tasks[].withParam dag.tasks[].withItems[].…",
        *(f"dag.tasks[].arguments.{field}" for field in _ARGUMENTS.split()),
        "retryStrategy.limit retryStrategy.retryPolicy retryStrategy.expression",
        "retryStrategy.backoff.duration retryStrategy.backoff.factor retryStrategy.backoff.maxDuration",
        "activeDeadlineSeconds timeout podSpecPatch parallelism failFast metadata.labels.* metadata.annotations.*",
        "synchronization.mutexes[].name synchronization.mutexes[].namespace suspend suspend.duration",
        *(f"container.{field}" for field in _CONTAINER.split()),
        *(f"script.{field}" for field in [*_CONTAINER.split(), "source"]),
        *(f"initContainers[].{field}" for field in _CONTAINER.split()),
        _VOLUMES,
    ]
)
_WORKFLOW = " ".join(
    [
        "entrypoint onExit activeDeadlineSeconds parallelism suspend shutdown ttlStrategy.secondsAfterCompletion",
        "ttlStrategy.secondsAfterSuccess ttlStrategy.secondsAfterFailure workflowTemplateRef.name",
        "workflowMetadata.labels.* workflowMetadata.annotations.* workflowMetadata.labelsFrom.*.expression",
        "podMetadata.labels.* podMetadata.annotations.* podSpecPatch",
        "synchronization.mutexes[].name synchronization.mutexes[].namespace",
        *(f"arguments.{field}" for field in _ARGUMENTS.split()),
        _VOLUMES,
        *(f"templates[].{field}" for field in _TEMPLATE.split()),
    ]
)
_WORKFLOW_NOTED = {
    **_POD_NOTED,
    "solo keeps each pod's log until the Workflow is deleted": "archiveLogs podGC.…",
    "nothing on this machine collects numbers": "metrics.… templates[].metrics.…",
}


def _each(prefix: str, fields: str) -> str:
    return " ".join(f"{prefix}{field}" for field in fields.split())


def _workflow(kinds: str, prefix: str) -> list[Rule]:
    rules = [Rule(kinds, "honoured", _each(prefix, _WORKFLOW))]
    for why, fields in _WORKFLOW_NOTED.items():
        rules.append(Rule(kinds, "noted", _each(prefix, fields), why))
    for why, fields in _POD_NOTED.items():
        rules.append(Rule(kinds, "noted", _each(f"{prefix}templates[].", fields), why))
    for why, fields in _CONTAINER_NOTED.items():
        for place in ("container", "script", "initContainers[]"):
            rules.append(Rule(kinds, "noted", _each(f"{prefix}templates[].{place}.", fields), why))
    return rules


def _deployment() -> list[Rule]:
    pod = "spec.template.spec."
    return [
        Rule(
            "Deployment",
            "honoured",
            "spec.replicas spec.revisionHistoryLimit spec.progressDeadlineSeconds spec.minReadySeconds spec.strategy.type"
            " spec.strategy.rollingUpdate.maxSurge spec.strategy.rollingUpdate.maxUnavailable spec.selector.matchLabels.*"
            " spec.template.metadata.labels.* spec.template.metadata.annotations.* spec.template.spec.terminationGracePeriodSeconds "
            + _each(pod, _VOLUMES)
            + " "
            + _each(f"{pod}containers[].", _CONTAINER)
            + " "
            + _each(f"{pod}initContainers[].", _CONTAINER),
        ),
        Rule(
            "Deployment",
            "noted",
            f"{pod}containers[].lifecycle.preStop.sleep.seconds",
            "solo's proxy leaves a pod before the pod is told to stop",
        ),
        *(Rule("Deployment", "noted", _each(pod, fields), why) for why, fields in _POD_NOTED.items()),
        *(
            Rule("Deployment", "noted", _each(f"{pod}{place}[].", fields), why)
            for why, fields in _CONTAINER_NOTED.items()
            for place in ("containers", "initContainers")
        ),
    ]


RULES: list[Rule] = [
    Rule("Namespace", "noted", "metadata.labels.pod-security*", f"what a pod may ask for: {ISOLATION}"),
    Rule("*", "honoured", META),
    *_workflow("Workflow WorkflowTemplate", "spec."),
    Rule(
        "CronWorkflow",
        "honoured",
        "spec.schedules[] spec.timezone spec.concurrencyPolicy spec.startingDeadlineSeconds spec.suspend"
        " spec.workflowMetadata.labels.* spec.workflowMetadata.annotations.*",
    ),
    Rule(
        "CronWorkflow",
        "noted",
        "spec.successfulJobsHistoryLimit spec.failedJobsHistoryLimit",
        "ttlStrategy says how long Workflows are kept",
    ),
    *_workflow("CronWorkflow", "spec.workflowSpec."),
    *(Rule(kind, verdict, field, why) for kind, verdict, field, why in support_rows()),
    Rule("EventBus", "noted", "spec.…", "the bus is a table of solo's database: one machine, no replicas"),
    Rule(
        "Application",
        "honoured",
        "spec.project spec.source.repoURL spec.source.path spec.source.targetRevision spec.source.directory.recurse"
        " spec.destination.server spec.destination.namespace spec.syncPolicy.automated.prune spec.syncPolicy.automated.selfHeal"
        " spec.syncPolicy.retry.limit spec.syncPolicy.retry.backoff.duration spec.syncPolicy.retry.backoff.factor"
        " spec.syncPolicy.retry.backoff.maxDuration",
    ),
    Rule("Application", "honoured", "spec.revisionHistoryLimit"),
    Rule("Application", "noted", "spec.syncPolicy.syncOptions[]", "solo applies one way"),
    Rule(
        "AppProject",
        "honoured",
        "spec.description spec.sourceRepos[] spec.destinations[].server spec.destinations[].namespace"
        " spec.namespaceResourceWhitelist[].group spec.namespaceResourceWhitelist[].kind"
        " spec.clusterResourceWhitelist[].group spec.clusterResourceWhitelist[].kind",
    ),
    *_deployment(),
    Rule(
        "Service",
        "honoured",
        "spec.selector.* spec.ports[].name spec.ports[].port spec.ports[].targetPort spec.ports[].protocol spec.type",
    ),
    Rule("ConfigMap", "honoured", "data.* binaryData.*"),
    Rule("Secret", "honoured", "type data.* stringData.*"),
    Rule("ServiceAccount", "noted", "automountServiceAccountToken", ISOLATION),
    Rule("ServiceAccount", "noted", "imagePullSecrets[].name", "an image is on this host or it is not"),
    Rule("Role RoleBinding ClusterRole ClusterRoleBinding", "noted", "rules[].… roleRef.… subjects[].…", GUARD),
    Rule("NetworkPolicy", "noted", "spec.…", "a process has the network of this machine"),
    Rule("Namespace", "honoured", "spec.…"),
    Rule("PodDisruptionBudget", "noted", "spec.…", "nothing evicts a process here"),
    Rule("HorizontalPodAutoscaler ResourceQuota LimitRange", "noted", "spec.…", CAPACITY),
]


class Verdict(NamedTuple):
    """What solo makes of one field of one object."""

    field: Field
    verdict: str
    why: str

    def name(self) -> str:
        """The field as a person writes it: `spec.templates[2].container`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.field).lstrip(".")


def check(obj: Object) -> Iterator[Verdict]:
    """A verdict for each leaf of the object (and for each empty map or list); `status` and what an API server adds
    are passed over.
    """
    kind = obj["kind"]
    rules = _rules(kind)
    if not any(kind in rule.kinds.split() for rule in RULES):
        yield Verdict(("kind",), "refused", f"solo does not know {kind}")
        return
    for field in _leaves({key: value for key, value in obj.items() if key != "status"}, ()):
        if field[:1] == ("metadata",) and field[1:2] not in (("name",), ("namespace",), ("labels",), ("annotations",)):
            continue
        text = "".join("[]" if isinstance(part, int) else f"\x1f{part}" for part in field).lstrip("\x1f")
        for pattern, rule in rules:
            if pattern.fullmatch(text):
                yield Verdict(field, rule.verdict, rule.why)
                break
        else:
            yield Verdict(field, "refused", "solo does not support this field")


def refused(obj: Object) -> list[Verdict]:
    return [verdict for verdict in check(obj) if verdict.verdict == "refused"]


@cache
def _rules(kind: str) -> list[tuple[re.Pattern[str], Rule]]:
    return [
        (_pattern(field), rule)
        for rule in RULES
        if rule.kinds == "*" or kind in rule.kinds.split()
        for field in rule.fields.split()
    ]


def _pattern(field: str) -> re.Pattern[str]:
    """Also matches a prefix of the field: an empty map or list on the way is a leaf of its own."""
    parts = [part for name in field.split(".") for part in ([name[:-2], "[]"] if name.endswith("[]") else [name])]
    text, depth = "", 0
    for index, part in enumerate(parts):
        if part == "…":
            piece = ".*"
        elif part == "[]":
            piece = r"\[\]"
        else:
            name = "[^\x1f\\[]+" if part == "*" else re.escape(part).replace(r"\*", "[^\x1f\\[]*")
            piece = ("\x1f" if index else "") + name
        if index:
            text += "(?:"
            depth += 1
        text += piece
    return re.compile(text + ")?" * depth, re.DOTALL)


def _leaves(value: Any, field: Field) -> Iterator[Field]:
    children: Mapping[Any, Any] = (
        value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    )
    if not children:
        yield field
    for key, child in children.items():
        yield from _leaves(child, (*field, key))


def table() -> list[tuple[str, str, str, str]]:
    """Rows (kinds, verdict, field, why) for people, in the table's order, each field once."""
    return list(
        dict.fromkeys((rule.kinds, rule.verdict, field, rule.why) for rule in RULES for field in rule.fields.split())
    )
