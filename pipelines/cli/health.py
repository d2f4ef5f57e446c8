"""`yard verify`: a line for each part of the platform, Healthy or why not, and a run of `hello` to prove the whole.

What must be there is read from the committed manifests and `platform.yaml`; what is there, from the cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.cli.addresses import checkout
from pipelines.cli.kubectl import Kubectl, Object
from pipelines.cli.show import duration, table
from pipelines.errors import Exit, YardError
from pipelines.platform import Platform

HEALTHY, WAITING, DEGRADED, MISSING = "Healthy", "Waiting", "Degraded", "Missing"
FOLDERS = ("argocd", "argo-workflows", "argo-events", "cert-manager", "applications", "mlops")
CONTROLLERS = ("argocd", "cert-manager", "argo", "argo-events")  # each has something that runs
OTHERS = ("kube-system", "mlops", "mlops-release")
NOT_RELEASED = (
    "app path does not exist",
    "unable to resolve",
    "remote repository is empty",
)  # what Argo CD says before the first release
HELLO_PATIENCE = 300.0  # seconds; it takes some ten, and an image may have to be pulled
PAUSE = 2.0


class Row(NamedTuple):
    component: str
    state: str
    why: str = ""

    @property
    def well(self) -> bool:
        """A service that has not been released yet is no fault of the platform."""
        return self.state in (HEALTHY, WAITING)


def verify(kubectl: Kubectl, platform: Platform, *, hello: bool = True, as_json: bool = False) -> Exit:
    """Print the table; UNAVAILABLE if a line of it is not well."""
    wanted = list(committed(checkout()))
    rows = look(kubectl, platform, wanted)
    if hello:
        rows.append(say_hello(kubectl, wanted))
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        table(("COMPONENT", "STATE", "WHY"), rows)
    bad = [row.component for row in rows if not row.well]
    if bad and not as_json:
        print(f"not healthy: {', '.join(bad)}")
    return Exit.UNAVAILABLE if bad else Exit.OK


def look(kubectl: Kubectl, platform: Platform, wanted: list[Object]) -> list[Row]:
    """Everything but `hello`; only reads. Raises YardError(UNAVAILABLE) if the cluster does not answer."""
    return [
        *nodes(kubectl, platform),
        crds(kubectl, wanted),
        *workloads(kubectl, ("cert-manager",) if platform.tls.issuer == "none" else ()),
        *events(kubectl),
        *certificates(kubectl),
        *secrets(kubectl, wanted),
        *applications(kubectl),
    ]


def committed(root: Path) -> Iterator[Object]:
    """The manifests of the checkout, but for those of add-ons that are off: they have no Application."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.yaml")):
            name = path.relative_to(root).parts[1]
            if folder == "applications" and not (root / f"argocd/applications/{name}.yaml").exists():
                continue
            for body in yaml.safe_load_all(path.read_text()):
                if isinstance(body, dict) and "apiVersion" in body and "kind" in body:
                    yield body


# ---- nodes


def nodes(kubectl: Kubectl, platform: Platform) -> Iterator[Row]:
    found, labels = {node["metadata"]["name"]: node for node in kubectl.list("nodes")}, platform.node_labels()
    for wanted in platform.nodes:
        node = found.pop(wanted.name, None)
        name = f"node {wanted.name}"
        if node is None:
            yield Row(name, MISSING, "the cluster has no such node")
            continue
        ready = _condition(node, "Ready")
        told = f"{node['status']['nodeInfo']['kubeletVersion']}, {'+'.join(wanted.roles)}"
        there = node["metadata"].get("labels", {})
        wrong = [key for key, value in labels[wanted.name].items() if there.get(key, "") != value]
        gpus = node["status"].get("capacity", {}).get("nvidia.com/gpu", "0")
        if ready.get("status") != "True":
            yield Row(name, DEGRADED, _said(ready) or "not Ready")
        elif wrong:
            yield Row(name, DEGRADED, f"{', '.join(wrong)}: not the label that platform.yaml asks for: yard up")
        elif wanted.gpu and gpus == "0":
            yield Row(name, DEGRADED, "shows no nvidia.com/gpu: addons.gpu, the driver, nvidia-container-toolkit")
        else:
            yield Row(name, HEALTHY, f"{told}, {gpus} GPU" if wanted.gpu else told)
    for name in found:
        yield Row(f"node {name}", DEGRADED, "is not in platform.yaml: nothing says what may run there")


# ---- what the cluster must know


def crds(kubectl: Kubectl, wanted: Iterable[Object]) -> Row:
    """Of every kind that a committed manifest has."""
    found = {}
    for crd in kubectl.list("customresourcedefinitions"):
        spec = crd["spec"]
        found[spec["group"], spec["names"]["kind"]] = _condition(crd, "Established").get("status") == "True"
    kinds = {(group, body["kind"]) for body in wanted if (group := _group(body))}
    absent = sorted(f"{kind}.{group}" for group, kind in kinds if not found.get((group, kind)))
    if absent:
        return Row("kinds", MISSING, f"the cluster does not know {', '.join(absent)}")
    return Row("kinds", HEALTHY, f"{len(kinds)} of other projects, all known")


def _group(body: Object) -> str:
    """The API group of a kind that is not Kubernetes' own, nor a file for kustomize."""
    group = str(body["apiVersion"]).partition("/")[0] if "/" in str(body["apiVersion"]) else ""
    own = group.endswith(".k8s.io") or "." not in group
    return "" if own or group.endswith("kustomize.config.k8s.io") else group


# ---- what runs


def workloads(kubectl: Kubectl, without: tuple[str, ...] = ()) -> Iterator[Row]:
    """A line for each namespace of the platform; `without` are components that the settings leave out."""
    there = {entry["metadata"]["name"] for entry in kubectl.list("namespaces")}
    deployed = {
        app["spec"]["destination"].get("namespace", "") for app in kubectl.list("applications.argoproj.io", "-A")
    }
    items = kubectl.list("deployments,statefulsets,daemonsets", "-A")
    pods = kubectl.list("pods", "-A")
    for namespace in dict.fromkeys((*CONTROLLERS, *OTHERS, *sorted(deployed - {""}))):
        if namespace in without:
            continue
        own = [item for item in items if item["metadata"]["namespace"] == namespace]
        if namespace not in there or (not own and namespace in CONTROLLERS):
            yield Row(namespace, MISSING, "nothing runs there" if namespace in there else "no such namespace")
            continue
        bad = [why for item in own if (why := _not_ready(item, pods))]
        if bad:
            yield Row(namespace, DEGRADED, "; ".join(bad))
        elif own:
            yield Row(namespace, HEALTHY, f"{len(own)} of {len(own)} ready")


def _not_ready(item: Object, pods: list[Object]) -> str:
    """Why a Deployment, StatefulSet or DaemonSet is not what it should be, else nothing."""
    spec, status = item["spec"], item.get("status", {})
    if item["kind"] == "DaemonSet":
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    else:
        wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if ready >= wanted and seen:
        return ""
    name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
    chosen = spec["selector"].get("matchLabels", {}).items()
    why = next(
        (
            f": {told}"
            for pod in pods
            if pod["metadata"]["namespace"] == namespace
            and chosen <= pod["metadata"].get("labels", {}).items()
            and (told := _stuck(pod))
        ),
        "",
    )
    return f"{item['kind'].lower()} {name} {ready} of {wanted}{why}"


def _stuck(pod: Object) -> str:
    """What keeps a pod from being ready, as the kubelet or the scheduler says it."""
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting, ended = container["state"].get("waiting", {}), container.get("lastState", {}).get("terminated", {})
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            code = f", exit code {ended['exitCode']}" if "exitCode" in ended else ""
            return f"{waiting['reason']}{code} {waiting.get('message', '')}".strip()
    unscheduled = _condition(pod, "PodScheduled")
    return str(unscheduled.get("message", "")) if unscheduled.get("status") == "False" else ""


def events(kubectl: Kubectl) -> Iterator[Row]:
    for kind in ("EventBus", "EventSource", "Sensor"):
        plural = {"EventBus": "eventbus"}.get(kind, f"{kind.lower()}s")
        found = kubectl.list(f"{plural}.argoproj.io", "-A")
        if not found:
            yield Row(kind, MISSING, "there is none")
        bad = [why for item in found if (why := _unmet(item))]
        if found:
            names = ", ".join(item["metadata"]["name"] for item in found)
            yield Row(kind, DEGRADED, "; ".join(bad)) if bad else Row(kind, HEALTHY, names)


def _unmet(item: Object) -> str:
    conditions = item.get("status", {}).get("conditions", [])
    name = item["metadata"]["name"]
    if not conditions:
        return f"{name}: its controller has not looked at it"
    bad = [entry for entry in conditions if entry["status"] != "True"]
    return f"{name}: {_said(bad[0]) or bad[0]['type']}" if bad else ""


def certificates(kubectl: Kubectl) -> Iterator[Row]:
    for item in kubectl.list("certificates.cert-manager.io", "-A"):
        ready = _condition(item, "Ready")
        names = ", ".join(item["spec"].get("dnsNames", []))
        name = f"certificate {item['metadata']['name']}"
        well = ready.get("status") == "True"
        yield Row(name, HEALTHY, names) if well else Row(name, DEGRADED, _said(ready) or "not issued yet")


# ---- secrets


def secrets(kubectl: Kubectl, wanted: Iterable[Object]) -> Iterator[Row]:
    """What a committed manifest names and the cluster does not have. Only names and keys leave the cluster."""
    each = '{{.metadata.namespace}}/{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}{{"\\n"}}'
    form = "{{range .items}}" + each + "{{end}}"
    lines = kubectl.run("get", "secrets", "-A", "-o", f"go-template={form}").splitlines()
    there = {name: set(keys.split()) for name, _, keys in (line.partition(" ") for line in lines)}
    namespaces = {entry["metadata"]["name"] for entry in kubectl.list("namespaces")}
    named = {(body["metadata"].get("namespace", ""), *use) for body in wanted for use in _uses(body)}
    needed = sorted(use for use in named if use[0] in namespaces)  # a namespace that is missing is told elsewhere
    absent = []
    for namespace, name, key in needed:
        keys = there.get(f"{namespace}/{name}")
        if keys is None or (key and key not in keys):
            absent.append(f"{namespace}/{name}" + (f" {key}" if key else ""))
    if absent:
        yield Row("secrets", MISSING, f"{', '.join(absent)}: yard secrets list says how to get them")
    else:
        yield Row("secrets", HEALTHY, f"{len(needed)} named, all there")


def _uses(node: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """(Secret, key) that a manifest cannot do without; a key of "" is any."""
    if isinstance(node, list):
        for entry in node:
            yield from _uses(entry, at)
    if not isinstance(node, dict) or node.get("optional"):
        return
    if (at == "secretKeyRef" or at.endswith("Secret")) and isinstance(node.get("key"), str) and "name" in node:
        yield node["name"], node["key"]
    elif at == "secret" and "secretName" in node:
        yield node["secretName"], ""
    elif at == "secretRef" and "name" in node:
        yield node["name"], ""
    for key, value in node.items():
        yield from _uses(value, key)


# ---- Argo CD


def applications(kubectl: Kubectl) -> list[Row]:
    """One that only waits for Applications that wait is not worse than they are."""
    found = {app["metadata"]["name"]: app for app in kubectl.list("applications.argoproj.io", "-A")}
    rows = {name: _application(app) for name, app in found.items()}
    for _ in found:
        for name, app in found.items():
            own = [rows[child] for child in _children(app) if child in rows]
            states = {row.state for row in own}
            if _synced(app) and not rows[name].well and WAITING in states and states <= {HEALTHY, WAITING}:
                names = ", ".join(row.component.removeprefix("application ") for row in own if row.state == WAITING)
                rows[name] = Row(rows[name].component, WAITING, f"for {names}")
    return list(rows.values()) or [Row("applications", MISSING, "Argo CD has none")]


def _children(app: Object) -> list[str]:
    return [entry["name"] for entry in app.get("status", {}).get("resources", []) if entry["kind"] == "Application"]


def _synced(app: Object) -> bool:
    status = app.get("status", {})
    operation = status.get("operationState", {}).get("phase", "Succeeded")
    return bool(status.get("sync", {}).get("status") == "Synced" and operation == "Succeeded")


def _application(app: Object) -> Row:
    """Both of its states count: one whose manifests cannot be built says Healthy."""
    status, name = app.get("status", {}), f"application {app['metadata']['name']}"
    sync, health = status.get("sync", {}).get("status", "Unknown"), status.get("health", {})
    if (sync, health.get("status")) == ("Synced", "Healthy"):
        return Row(name, HEALTHY, status["sync"].get("revision", "")[:12])
    told = [entry["message"] for entry in status.get("conditions", [])]
    operation = status.get("operationState", {})
    if operation.get("phase") in ("Running", "Failed", "Error"):
        told.append(operation.get("message", ""))
    told.append(health.get("message", ""))
    why = "; ".join([f"{sync}, {health.get('status', 'Unknown')}", *list(filter(None, told))[:3]])
    if app["spec"].get("project") == "services" and any(text in why for text in NOT_RELEASED):
        return Row(name, WAITING, "nothing is released yet: push the service")
    return Row(name, DEGRADED, why)


# ---- hello


def say_hello(kubectl: Kubectl, wanted: Iterable[Object], patience: float = HELLO_PATIENCE) -> Row:
    """Run WorkflowTemplate `hello`, and delete the run."""
    templates = (body["metadata"] for body in wanted if body["kind"] == "WorkflowTemplate")
    namespace = next((meta["namespace"] for meta in templates if meta["name"] == "hello"), "mlops")
    body = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "hello-", "namespace": namespace},
        "spec": {"workflowTemplateRef": {"name": "hello"}},
    }
    try:
        name = kubectl.run("create", "-f", "-", "-o", "name", given=json.dumps(body)).strip()
    except YardError as error:
        return Row("hello", MISSING, error.what)
    began, ends = time.monotonic(), time.monotonic() + patience
    try:
        while True:
            run = kubectl.get("-n", namespace, name) or {}
            status = run.get("status", {})
            phase = status.get("phase", "Pending")
            if phase in ("Succeeded", "Failed", "Error"):
                break
            if time.monotonic() > ends:
                return Row("hello", DEGRADED, f"{phase} after {duration(patience)}: {_at(status)}")
            time.sleep(PAUSE)
        took = duration(time.monotonic() - began)
        if phase != "Succeeded":
            return Row("hello", DEGRADED, f"{phase}: {_at(status)}")
        return Row("hello", HEALTHY, f"Succeeded in {took}{_heard(kubectl, run)}")
    finally:
        kubectl.ask("-n", namespace, "delete", name, "--wait=false")


def _at(status: Object) -> str:
    """The message that explains most: of the pods, else of the run."""
    nodes = (status.get("nodes") or {}).values()
    told = [
        f"{node['displayName']}: {node['message']}" for node in nodes if node.get("message") and node["type"] == "Pod"
    ]
    return "; ".join(told) or status.get("message") or "no pod was started: does the workflow controller run?"


def _heard(kubectl: Kubectl, run: Object) -> str:
    """What the last step printed, if its pod is still there."""
    selector = f"workflows.argoproj.io/workflow={run['metadata']['name']}"
    said = kubectl.ask("-n", run["metadata"]["namespace"], "logs", "-c", "main", "-l", selector, "--tail=5")
    heard = [line for line in said.stdout.splitlines() if line.startswith("heard:")]
    return f", {heard[0]}" if heard else ""


def _condition(item: Object, kind: str) -> Object:
    found: list[Object] = item.get("status", {}).get("conditions", [])
    return next((entry for entry in found if entry["type"] == kind), {})


def _said(condition: Object) -> str:
    return ": ".join(filter(None, (condition.get("reason", ""), condition.get("message", ""))))
