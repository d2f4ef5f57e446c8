"""`python -m pipelines.templates.lint`: what no schema sees in the manifests, for it takes two files, and our policies.

Read are the files that `render` writes, as they are on disk, and what a release of each service would put into Git.
RULES is the table of what is checked, EXCEPTIONS names what may be otherwise, and why. Of the pods that Argo Events
makes itself only what we can say of them is seen: not their images, not their volumes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines import config, secret_values
from pipelines import platform as settings
from pipelines.errors import YardError
from pipelines.manifests import SETTINGS, config_digest, release_files
from pipelines.registry import AXES, Lock
from pipelines.templates import addons, lint_applications
from pipelines.templates._parts import TO
from pipelines.templates.namespaces import POD_SECURITY, POD_SECURITY_VERSION
from pipelines.templates.pod_security import LEVELS, offences
from pipelines.templates.render import OWNED, ROOT, VERSIONS

Body = dict[str, Any]
LARGEST = 5 * 1024 * 1024  # bytes of a file in Git
RELEASES = "pipelines/manifests.py"  # what makes the files of a release, which stand in another repository

INSTALLED = {"kube-system", "cnpg-system"}  # namespaces that come with the cluster, and with an operator

# pods of upstream's installations that policies speak of: namespace → labels
UPSTREAM = {
    "argo": ({"app": "argo-server"}, {"app": "workflow-controller"}, {"cnpg.io/cluster": "archive"}),
    "harbor": ({"cnpg.io/cluster": "harbor"},),
    "monitoring": ({"app.kubernetes.io/name": "prometheus"},),
    "argo-events": ({"app": "controller-manager"},),
    "cert-manager": ({"app": "webhook"},),
}

# Services that come with such an installation and are reached from outside, and the names of their ports
INSTALLED_SERVICES = {("argo", "argo-server"): {"web"}, ("argocd", "argocd-server"): {"http", "https"}}
INSTALLED_ACCOUNTS = {("argo", "argo-server")}

# what a person puts beside a service: the variables that its mlops.yaml names under `secrets`
SERVICE_SECRETS = "-secrets"

VALUES = "values.yaml"  # of a chart: no manifest

# (rule, file, field) → why it may be so
_CT, _RELEASE = "mlops/templates/ct.yaml", "mlops/templates/release.yaml"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("non-root", "mlops/templates/ci.yaml", "spec.templates[build].container.securityContext.runAsNonRoot"): (
        "Kaniko takes its own pod's root directory apart to build an image"
    ),
    ("resources", _CT, "spec.templates[train-cpu].container.resources"): "step `plan` patches in those of mlops.yaml",
    ("resources", _CT, "spec.templates[train-gpu].container.resources"): "step `plan` patches in those of mlops.yaml",
    ("unused", _RELEASE, "spec.arguments.parameters[attempt]"): "`yard rerun` reads it from the Workflow",
    ("unused", _RELEASE, "spec.arguments.parameters[delivery]"): "every event's delivery is told to its Workflow",
    ("unused", "mlops/templates/verify.yaml", "spec.arguments.parameters[delivery]"): "the same",
    **{
        ("default-deny", f"applications/{name}/namespace.yaml", "metadata.name"): why
        for name, why in {
            "gpu": "pods of upstream's chart, which nobody calls",
            "nfs": "they have the node's own network, which no policy holds",
            "harbor": "who calls it is said; out, it fetches images and lists of weaknesses from anywhere",
            "monitoring": "who calls it is said; out, it asks every part, and tells whom a person names",
            "tunnel": "who calls it is said; out, it reaches Cloudflare, whose addresses change",
        }.items()
    },
    **{
        ("pod-security", f"applications/{name}/namespace.yaml", f"metadata.labels.{POD_SECURITY}/{mode}"): why
        for name, why in {"gpu": "hands out the node's devices", "nfs": "mounts for the node"}.items()
        for mode in ("enforce", "audit", "warn")
    },
    ("default-deny", "namespaces/argocd.yaml", "metadata.name"): "upstream's installation says who may call whom there",
    **{
        (
            "limits",
            f"namespaces/{name}.yaml",
            "metadata.name",
        ): "a default would be a guess at what upstream's pods need"
        for name in ("argo", "argocd", "cert-manager")
    },
    ("services", "argo-workflows/install/metrics.yaml", "spec.selector"): "upstream's manifests have the pod",
}


class Problem(NamedTuple):
    """What is wrong in a file, and what to do; `field` is a path in which a list's entry goes by its name."""

    file: str
    field: str
    what: str
    todo: str


class Rule(NamedTuple):
    name: str
    proves: str
    check: Callable[[Tree], Iterator[Problem]]


@dataclass(frozen=True)
class Manifest:
    file: str
    body: Body

    @property
    def kind(self) -> str:
        return str(self.body.get("kind"))

    @property
    def name(self) -> str:
        return str(self.body.get("metadata", {}).get("name", ""))

    @property
    def namespace(self) -> str:
        return str(self.body.get("metadata", {}).get("namespace", ""))

    def problem(self, field: str, what: str, todo: str) -> Problem:
        return Problem(self.file, field, what, todo)


@dataclass
class Tree:
    """All that the rules look at: manifests, the images of versions.yaml, file → bytes of what is in Git, and the keys
    of Secrets that `yard secrets apply` or a controller makes.
    """

    manifests: list[Manifest]
    images: set[str]
    sizes: dict[str, int]
    secrets: set[secret_values.Place]

    def of(self, *kinds: str) -> Iterator[Manifest]:
        return (manifest for manifest in self.manifests if manifest.kind in kinds)

    def one(self, kind: str, namespace: str, name: str) -> Manifest | None:
        return next((m for m in self.of(kind) if (m.namespace, m.name) == (namespace, name)), None)

    def destinations(self) -> set[str]:
        """The services' namespaces."""
        services = (m for m in self.of("Application") if m.file.startswith("applications/services/"))
        return {m.body["spec"]["destination"]["namespace"] for m in services}


@dataclass(frozen=True)
class Flow:
    """The spec of a Workflow, wherever it stands: a template, a schedule, what a Sensor creates."""

    manifest: Manifest
    field: str
    namespace: str
    spec: Body

    def templates(self) -> dict[str, Body]:
        return {template["name"]: template for template in self.spec.get("templates", [])}

    def arguments(self) -> dict[str, Body]:
        return _named(self.spec.get("arguments", {}).get("parameters"))

    def problem(self, field: str, what: str, todo: str) -> Problem:
        return self.manifest.problem(f"{self.field}.{field}", what, todo)


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest will make: `spec` as Kubernetes gets it but for the containers, which have their fields."""

    manifest: Manifest
    field: str
    namespace: str
    labels: dict[str, str]
    spec: Body
    containers: list[tuple[str, Body]]


def load(root: Path = ROOT) -> Tree:
    """Raises YardError if a file is not YAML, or `root` is no Git checkout."""
    manifests = []
    for path in sorted(path for owned in OWNED for path in (root / owned).rglob("*.yaml")):
        name = path.relative_to(root).as_posix()
        if path.name == VALUES:
            continue
        try:
            manifests += [Manifest(name, body) for body in yaml.safe_load_all(path.read_text()) if body]
        except yaml.YAMLError as error:
            raise YardError(f"not YAML: {error}", where=name, todo="make render") from None
    images: dict[str, str] = yaml.safe_load((root / VERSIONS).read_text())["images"]
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        raise YardError(listed.stderr.strip(), where=str(root), todo="run it in a Git checkout")
    tracked = [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    platform = settings.load(root / settings.FILE)
    manifests += _releases(platform, images)
    sizes = {name: (root / name).stat().st_size for name in tracked}
    made = {
        secret_values.Place(secret.namespace, secret.name, key) for secret in addons.secrets() for key in secret.keys
    }
    return Tree(manifests, set(images.values()), sizes, secret_values.places(platform) | made)


def _releases(platform: settings.Platform, images: dict[str, str]) -> Iterator[Manifest]:
    """What a release of each service would be, with all that an mlops.yaml may ask for."""
    digest = f"sha256:{'0' * 64}"
    for service in platform.services:
        lock = Lock(
            service=service.name,
            repo=service.repo,
            branch=service.branch,
            sha="0" * 40,
            attempt=1,
            image=f"registry.invalid/{service.repo}@{digest}",
            versions={axis: {"name": service.name, "number": 1, "digest": digest} for axis in AXES},  # type: ignore[misc]
            platform={"version": "0", "templates": digest, "image": images["pipelines"], "architecture": "amd64"},
            seed=0,
            params={},
            params_digest=digest,
            metrics={},
            thresholds={},
            decision={},
            workflows={},
        )
        for environment in service.environments:
            scale = config.Scale(min=2, max=4)
            knobs = config.Deploy(scale=scale, spread="zone", env={"THREADS": "2"}, secrets=["TOKEN"])
            given = config.Config.model_construct(deploy={environment: knobs})
            files = release_files(lock, digest, given, environment, images=images, record={})
            for name, text in files.items():
                where = f"{RELEASES} (services/{service.name}/{environment}/{name})"
                yield Manifest(where, yaml.safe_load(text))


def problems(tree: Tree, rules: list[Rule] | None = None) -> Iterator[tuple[Rule, Problem]]:
    """What the rules (all, if not given) find, but for what EXCEPTIONS names."""
    for rule in RULES if rules is None else rules:
        for problem in rule.check(tree):
            if (rule.name, problem.file, problem.field) not in EXCEPTIONS:
                yield rule, problem


# ---- how the parts are found


def _named(entries: list[Body] | None) -> dict[str, Body]:
    return {entry["name"]: entry for entry in entries or []}


def _strings(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Each text in a value with its field."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{field}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            name = inner.get("name", index) if isinstance(inner, dict) else index
            yield from _strings(inner, f"{field}[{name}]")


def _flows(tree: Tree) -> Iterator[Flow]:
    for manifest in tree.manifests:
        spec = manifest.body.get("spec", {})
        if manifest.kind in ("WorkflowTemplate", "Workflow"):
            yield Flow(manifest, "spec", manifest.namespace, spec)
        elif manifest.kind == "CronWorkflow":
            yield Flow(manifest, "spec.workflowSpec", manifest.namespace, spec["workflowSpec"])
        elif manifest.kind == "Sensor":
            for name, trigger in _triggers(manifest):
                resource = trigger["k8s"]["source"]["resource"]
                field = f"spec.triggers[{name}].template.k8s.source.resource.spec"
                yield Flow(manifest, field, resource["metadata"]["namespace"], resource["spec"])


def _triggers(sensor: Manifest) -> Iterator[tuple[str, Body]]:
    for trigger in sensor.body["spec"]["triggers"]:
        yield trigger["template"]["name"], trigger["template"]


def _target(tree: Tree, flow: Flow) -> Flow | None:
    """The WorkflowTemplate that a Workflow names."""
    found = tree.one("WorkflowTemplate", flow.namespace, flow.spec.get("workflowTemplateRef", {}).get("name", ""))
    return Flow(found, "spec", found.namespace, found.body["spec"]) if found else None


def _tasks(flow: Flow) -> Iterator[tuple[Body, str, Body]]:
    """(template, field, task) of each task."""
    for template in flow.templates().values():
        for task in template.get("dag", {}).get("tasks", []):
            yield template, f"templates[{template['name']}].dag.tasks[{task['name']}]", task


def _pods(tree: Tree) -> Iterator[Pod]:
    for manifest in tree.of("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"):
        job, field = manifest.body["spec"], "spec.template.spec"
        if manifest.kind == "CronJob":
            job, field = job["jobTemplate"]["spec"], "spec.jobTemplate.spec.template.spec"
        template = job["template"]
        spec = template["spec"]
        containers = [
            (f"{field}.{kind}[{body['name']}]", body)
            for kind in ("initContainers", "containers")
            for body in spec.get(kind, [])
        ]
        labels = template.get("metadata", {}).get("labels", {})
        yield Pod(manifest, field, manifest.namespace, labels, spec, containers)
    for flow in _flows(tree):
        for name, template in flow.templates().items():
            field = f"{flow.field}.templates[{name}]"
            containers = [(f"{field}.{kind}", template[kind]) for kind in ("container", "script") if kind in template]
            for kind in ("initContainers", "sidecars"):
                containers += [(f"{field}.{kind}[{body['name']}]", body) for body in template.get(kind, [])]
            if containers:
                labels = template.get("metadata", {}).get("labels", {})
                yield Pod(flow.manifest, field, flow.namespace, labels, _pod_spec(flow.spec, template), containers)


def _made_pods(tree: Tree) -> Iterator[Pod]:
    """What we say of the pods that Argo Events makes (pkg/reconciler, v1.9.11)."""
    for manifest in tree.of("EventSource", "Sensor"):
        kind, spec = manifest.kind.lower(), manifest.body["spec"].get("template", {})
        labels = {"controller": f"{kind}-controller", f"{kind}-name": manifest.name}
        containers = [("spec.template.container", spec.get("container", {}))]
        yield Pod(manifest, "spec.template", manifest.namespace, labels, spec, containers)
    for manifest in tree.of("EventBus"):
        spec = manifest.body["spec"]["jetstream"]
        labels = {"controller": "eventbus-controller", "eventbus-name": manifest.name}
        names = ("containerTemplate", "reloaderContainerTemplate", "metricsContainerTemplate")
        containers = [(f"spec.jetstream.{name}", spec.get(name, {})) for name in names]
        yield Pod(manifest, "spec.jetstream", manifest.namespace, labels, spec, containers)


def _pod_spec(workflow: Body, template: Body) -> Body:
    """A template's pod: its own words come before the workflow's, those of the patch before both."""
    text = template.get("podSpecPatch", "{}")
    patch: Body = {} if "{{" in text else json.loads(text)
    sources = (workflow, template, patch)
    spec: Body = {}
    for source in sources:
        spec |= {key: source[key] for key in ("hostNetwork", "hostPID", "hostIPC") if key in source}
    spec["volumes"] = [volume for source in sources for volume in source.get("volumes", [])]
    spec["securityContext"] = {k: v for source in sources for k, v in source.get("securityContext", {}).items()}
    return spec


# ---- cross-file rules


_KINDS = {
    *("Application", "AppProject", "ConfigMap", "CronWorkflow", "Deployment", "EventBus", "EventSource"),
    *("HorizontalPodAutoscaler", "Kustomization", "LimitRange", "Namespace", "NetworkPolicy"),
    "PersistentVolumeClaim",
    *("PodDisruptionBudget", "ResourceQuota", "Role", "RoleBinding", "Secret", "Sensor", "Service", "ServiceAccount"),
    "WorkflowTemplate",
    *lint_applications.KINDS,
    # of the add-ons. The operators' own pods are made by them: their images are looked at, and what they ask for
    *("Alertmanager", "Certificate", "Cluster", "ClusterRole", "ClusterRoleBinding", "CronJob", "Ingress", "Issuer"),
    *("Job", "PodMonitor", "Prometheus", "PrometheusRule", "ServiceMonitor", "StorageClass"),
}
_OPERATED = {"Alertmanager": "image", "Cluster": "imageName", "Prometheus": "image"}  # kind → where its image stands
_VOLUMES = {"name", "configMap", "emptyDir", "hostPath", "persistentVolumeClaim", "secret"}


def _known(tree: Tree) -> Iterator[Problem]:
    todo = "teach the rules of pipelines/templates/lint.py to read it"
    for manifest in tree.manifests:
        if manifest.kind not in _KINDS:
            yield manifest.problem("kind", f"no rule looks into a {manifest.kind}", todo)
    for flow in _flows(tree):
        for name, template in flow.templates().items():
            if not template.keys() & {"dag", "container", "script"}:
                yield flow.problem(f"templates[{name}]", "no rule looks into a template of this type", todo)
    for pod in _pods(tree):
        for volume in pod.spec.get("volumes", []):
            for kind in sorted(volume.keys() - _VOLUMES):
                field = f"{pod.field}.volumes[{volume['name']}]"
                yield pod.manifest.problem(field, f"no rule looks into a volume of type {kind}", todo)


def _arguments(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        target = _target(tree, flow)
        if target is None:
            continue
        declared, given = target.arguments(), flow.arguments()
        field, where = "arguments.parameters", target.manifest.file
        for name in sorted(given.keys() - declared.keys()):
            yield flow.problem(f"{field}[{name}]", f"{where} takes no such argument", "declare it there, or remove it")
        for name, entry in declared.items():
            if "value" not in entry and name not in given:
                yield flow.problem(field, f"{where} needs the argument {name}, and nobody gives it", "add it")
    for sensor in tree.of("Sensor"):
        for name, trigger in _triggers(sensor):
            field = f"spec.triggers[{name}].template.k8s"
            given = _named(trigger["k8s"]["source"]["resource"]["spec"].get("arguments", {}).get("parameters"))
            filled = set()
            for parameter in trigger["k8s"].get("parameters", []):
                dest = parameter["dest"]
                found = re.fullmatch(r'spec\.arguments\.parameters\.#\(name=="([^"]+)"\)\.value', dest)
                filled.add(found[1] if found else "")
                if dest.startswith("spec.arguments") and not (found and found[1] in given):
                    what = f"{dest} is no argument of the resource: the value would go nowhere, without a word"
                    yield sensor.problem(f"{field}.parameters", what, 'write #(name=="…").value with a name from there')
            for key, entry in given.items():
                if entry.get("value") == "" and key not in filled:
                    yield sensor.problem(f"{field}.source", f"argument {key} is empty, and nothing fills it", "fill it")


def _sensor_events(tree: Tree) -> Iterator[Problem]:
    for sensor in tree.of("Sensor"):
        dependencies = _named(sensor.body["spec"]["dependencies"])
        for name, dependency in dependencies.items():
            source = tree.one("EventSource", sensor.namespace, dependency["eventSourceName"])
            kinds = source.body["spec"].values() if source else ()
            events = {key for kind in kinds if isinstance(kind, dict) for key in kind}
            if dependency["eventName"] not in events:
                what = f"no EventSource {dependency['eventSourceName']} has an event {dependency['eventName']}"
                yield sensor.problem(f"spec.dependencies[{name}]", what, "name one of argo-events/sources")
        for name, trigger in _triggers(sensor):
            used = set(re.findall(r"[\w-]+", trigger.get("conditions", "")))
            used |= {parameter["src"]["dependencyName"] for parameter in trigger["k8s"].get("parameters", [])}
            for word in sorted(used - dependencies.keys()):
                yield sensor.problem(
                    f"spec.triggers[{name}]", f"no dependency is called {word}", "name one that exists"
                )


def _template_names(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        wanted = flow.spec.get("workflowTemplateRef", {}).get("name")
        if wanted and not _target(tree, flow):
            what = f"there is no WorkflowTemplate {wanted} in namespace {flow.namespace}"
            yield flow.problem("workflowTemplateRef", what, "correct the name or the namespace")
        if wanted:
            continue
        templates = flow.templates()
        called: list[tuple[str, str]] = [(key, flow.spec[key]) for key in ("entrypoint", "onExit") if key in flow.spec]
        for _, field, task in _tasks(flow):
            if "templateRef" not in task:
                called.append((f"{field}.template", task.get("template", "")))
                continue
            other = tree.one("WorkflowTemplate", flow.namespace, task["templateRef"]["name"])
            if not other or task["templateRef"]["template"] not in _named(other.body["spec"]["templates"]):
                yield flow.problem(f"{field}.templateRef", "names no template that exists", "correct the name")
        for field, name in called:
            if name not in templates:
                yield flow.problem(field, f"there is no template {name!r}", f"known here: {', '.join(templates)}")


def _task_arguments(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        templates = flow.templates()
        for _, field, task in _tasks(flow):
            inputs = templates.get(task.get("template", ""), {}).get("inputs", {})
            for kind in ("parameters", "artifacts"):
                declared, given = _named(inputs.get(kind)), _named(task.get("arguments", {}).get(kind))
                at = f"{field}.arguments.{kind}"
                for name in sorted(given.keys() - declared.keys()):
                    yield flow.problem(f"{at}[{name}]", "the template has no such input", "declare it, or remove this")
                for name, entry in declared.items():
                    if name not in given and not entry.keys() & {"value", "default", "valueFrom", "optional", "raw"}:
                        yield flow.problem(at, f"the template needs {name}, and nobody gives it", "add it")


_TAG = re.compile(r"\{\{(.*?)\}\}")
_OUTPUT = re.compile(r"tasks\.([\w-]+)\.outputs\.(parameters|artifacts)\.([\w-]+)")
_NAME = re.compile(r"\b(?:inputs|tasks|workflow)\.[\w.-]+")  # in an expression
_EXPRESSION = re.compile(r"""tasks\[['"]([\w-]+)['"]\]""")
_OF_THE_NODE = {"status", "exitCode", "duration", "retries"}  # what a template's metrics may count by
_WORKFLOW = re.compile(r"workflow\.(name|namespace|uid|status|serviceAccountName|creationTimestamp|duration|failures)")


def _tags(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        whole: Body = {key: value for key, value in flow.spec.items() if key != "templates"}
        scopes: list[tuple[str, Body, Body]] = [(flow.field, whole, {})]
        scopes += [(f"{flow.field}.templates[{name}]", body, body) for name, body in flow.templates().items()]
        for start, part, template in scopes:
            for field, text in _strings(part, start):
                tags = _tags_of(text)
                if field.endswith(".fromExpression"):
                    plain = _EXPRESSION.sub(r"tasks.\1", text)
                    tags += [found[0] for found in _OUTPUT.finditer(plain)]
                for tag in tags:
                    if ".metrics." in field and tag in _OF_THE_NODE:
                        continue
                    if not _resolves(tag, flow, template):
                        todo = "name an input, an argument, or an output of a task beside it"
                        yield flow.manifest.problem(field, f"{{{{{tag}}}}} stands for nothing", todo)


def _tags_of(text: str) -> list[str]:
    """What is in `{{…}}`; of an expression, `{{=…}}`, the names in it."""
    found = (tag.strip() for tag in _TAG.findall(text))
    return [name for tag in found for name in (_NAME.findall(tag) if tag.startswith("=") else [tag])]


def _resolves(tag: str, flow: Flow, template: Body) -> bool:
    if found := re.fullmatch(r"inputs\.(parameters|artifacts)\.([\w-]+)", tag):
        return found[2] in _named(template.get("inputs", {}).get(found[1]))
    if found := re.fullmatch(r"workflow\.parameters\.([\w-]+)", tag):
        return found[1] in flow.arguments()
    if found := _OUTPUT.fullmatch(tag):
        task = _named(template.get("dag", {}).get("tasks")).get(found[1], {})
        called = flow.templates().get(task.get("template", ""), {})
        return found[3] in _named(called.get("outputs", {}).get(found[2]))
    if found := re.fullmatch(r"tasks\.([\w-]+)\.status", tag):
        return found[1] in _named(template.get("dag", {}).get("tasks"))
    return bool(_WORKFLOW.fullmatch(tag))


def _unused(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        todo = "use it, or stop handing it over"
        for name, template in flow.templates().items():
            tags = {tag for _, text in _strings(template, "") for tag in _tags_of(text)}
            kinds = (
                ("parameters", "artifacts") if "dag" in template else ("parameters",)
            )  # a pod finds artifacts by path
            for kind in kinds:
                for key in _named(template.get("inputs", {}).get(kind)):
                    if f"inputs.{kind}.{key}" not in tags:
                        yield flow.problem(f"templates[{name}].inputs.{kind}[{key}]", "nothing uses it", todo)
        if flow.templates():
            everywhere = {tag for _, text in _strings(flow.spec, "") for tag in _tags_of(text)}
            for key in flow.arguments():
                if f"workflow.parameters.{key}" not in everywhere:
                    yield flow.problem(f"arguments.parameters[{key}]", "nothing uses it", todo)


_STATES = {"Succeeded", "Failed", "Errored", "Skipped", "Omitted", "Daemoned", "AnySucceeded", "AllFailed"}


def _depends(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        for template, field, task in _tasks(flow):
            tasks = _named(template["dag"]["tasks"])
            for name, state in re.findall(r"([\w-]+)(?:\.(\w+))?", task.get("depends", "")):
                if name not in tasks or (state and state not in _STATES):
                    what = f"{name}{'.' if state else ''}{state} is no task, or no end that a task can have"
                    yield flow.problem(f"{field}.depends", what, f"tasks here: {', '.join(tasks)}")
            before = _before(task["name"], tasks)
            if task["name"] in before:
                yield flow.problem(f"{field}.depends", "it waits for itself", "cut the circle")
            used = {name for _, text in _strings(task, "") for name in re.findall(r"\{\{\s*tasks\.([\w-]+)\.", text)}
            for name in sorted(used - before):
                todo = f"add {name}.Succeeded to depends"
                yield flow.problem(field, f"uses what {name} puts out, and does not wait for it", todo)


def _before(name: str, tasks: dict[str, Body]) -> set[str]:
    """The tasks that end before this one starts."""
    found: set[str] = set()
    todo = [name]
    while todo:
        direct = set(re.findall(r"([\w-]+)(?:\.\w+)?", tasks.get(todo.pop(), {}).get("depends", "")))
        todo += direct - found
        found |= direct
    return found


def _secrets(tree: Tree) -> Iterator[Problem]:
    for manifest, field, namespace, name, key in _secret_uses(tree):
        of_service = namespace in tree.destinations() and manifest.kind == "Deployment"
        if of_service and name == f"{manifest.name}{SERVICE_SECRETS}" and key:
            continue
        place = secret_values.Place(namespace, name, key)
        if place not in tree.secrets:
            what = f"Secret {name}, key {key or '?'}, in namespace {namespace}: nobody is told to make it"
            todo = "correct it, or add it to pipelines/secret_values.py; what a controller makes, to its add-on"
            yield manifest.problem(field, what, todo)


def _secret_uses(tree: Tree) -> Iterator[tuple[Manifest, str, str, str, str]]:
    """(manifest, field, namespace, Secret, key) of each; without items the keys are the files it is told of."""
    for pod in _pods(tree):
        volumes = {volume["name"]: volume["secret"] for volume in pod.spec.get("volumes", []) if "secret" in volume}
        mounted = {mount["name"] for _, container in pod.containers for mount in container.get("volumeMounts", [])}
        for name in sorted(volumes.keys() - mounted):
            yield pod.manifest, f"{pod.field}.volumes[{name}]", pod.namespace, volumes[name]["secretName"], ""
        for field, container in pod.containers:
            for entry in container.get("envFrom", []):
                if "secretRef" in entry:  # every key at once: none of ours may be read so
                    yield pod.manifest, f"{field}.envFrom", pod.namespace, entry["secretRef"]["name"], ""
            for name, entry in _named(container.get("env")).items():
                if ref := entry.get("valueFrom", {}).get("secretKeyRef"):
                    yield pod.manifest, f"{field}.env[{name}]", pod.namespace, ref["name"], ref["key"]
            told = " ".join(text for key in ("env", "args", "command") for _, text in _strings(container.get(key), ""))
            for mount in container.get("volumeMounts", []):
                secret = volumes.get(mount["name"])
                if secret:
                    pattern = rf"{re.escape(mount['mountPath'])}/([\w.-]+)"
                    items = {item["path"]: item["key"] for item in secret.get("items", [])}
                    keys = {items.get(file, file) for file in re.findall(pattern, told)} | set(items.values()) or {""}
                    at = f"{field}.volumeMounts[{mount['name']}]"
                    for key in sorted(keys):
                        yield pod.manifest, at, pod.namespace, secret["secretName"], key
    for account in tree.of("ServiceAccount"):
        for entry in account.body.get("imagePullSecrets", []):
            yield account, "imagePullSecrets", account.namespace, entry["name"], ".dockerconfigjson"
    for source in tree.of("EventSource"):
        for kind, events in source.body["spec"].items():
            for name, event in events.items() if isinstance(events, dict) else ():
                for key, ref in event.items() if isinstance(event, dict) else ():
                    if key.endswith(("Secret", "Token")):
                        yield source, f"spec.{kind}[{name}].{key}", source.namespace, ref["name"], ref["key"]
    for manifest in _controllers(tree):
        store = yaml.safe_load(manifest.body["data"]["artifactRepository"])
        if ref := store.get("gcs", {}).get("serviceAccountKeySecret"):
            for namespace in sorted({flow.namespace for flow in _flows(tree)}):
                yield manifest, "data.artifactRepository", namespace, ref["name"], ref["key"]


def _controllers(tree: Tree) -> Iterator[Manifest]:
    return (manifest for manifest in tree.of("ConfigMap") if manifest.name == "workflow-controller-configmap")


def _default_class(tree: Tree) -> Iterator[Problem]:
    key = "storageclass.kubernetes.io/is-default-class"
    for manifest in tree.of("StorageClass"):
        if manifest.body["metadata"].get("annotations", {}).get(key) != "false":
            what = "volumes that ask for no class could be made of it"
            yield manifest.problem(f"metadata.annotations[{key}]", what, 'write "false": k3s has a default class')


def _accounts(tree: Tree) -> Iterator[Problem]:
    for manifest, field, namespace, name in _account_uses(tree):
        if not tree.one("ServiceAccount", namespace, name) and (namespace, name) not in INSTALLED_ACCOUNTS:
            what = f"there is no ServiceAccount {name} in namespace {namespace}"
            yield manifest.problem(field, what, "correct it, or add the account to mlops/accounts (cluster.py)")
    for binding in tree.of("RoleBinding", "ClusterRoleBinding"):
        role = binding.body["roleRef"]
        if not tree.one(role["kind"], binding.namespace if role["kind"] == "Role" else "", role["name"]):
            yield binding.problem("roleRef", f"there is no {role['kind']} {role['name']}", "correct the name")


def _account_uses(tree: Tree) -> Iterator[tuple[Manifest, str, str, str]]:
    """(manifest, field, namespace, account)."""
    for flow in _flows(tree):
        if not flow.templates():
            continue
        yield (
            flow.manifest,
            f"{flow.field}.serviceAccountName",
            flow.namespace,
            flow.spec.get("serviceAccountName", "default"),
        )
        for at, body in (("", flow.spec), *((f".templates[{name}]", t) for name, t in flow.templates().items())):
            if "executor" in body:
                account = body["executor"]["serviceAccountName"]
                yield flow.manifest, f"{flow.field}{at}.executor", flow.namespace, account
            if at and "serviceAccountName" in body:
                field = f"{flow.field}{at}.serviceAccountName"
                yield flow.manifest, field, flow.namespace, body["serviceAccountName"]
    for pod in (*_pods(tree), *_made_pods(tree)):
        if (
            pod.manifest.kind in ("Deployment", "Sensor", "EventSource", "EventBus")
            and "serviceAccountName" in pod.spec
        ):
            yield pod.manifest, f"{pod.field}.serviceAccountName", pod.namespace, pod.spec["serviceAccountName"]
    for binding in tree.of("RoleBinding", "ClusterRoleBinding"):
        for subject in binding.body["subjects"]:
            if subject["kind"] == "ServiceAccount":
                yield binding, f"subjects[{subject['name']}]", subject.get("namespace", ""), subject["name"]


def _executors(tree: Tree) -> Iterator[Problem]:
    for flow in _flows(tree):
        if not flow.templates():
            continue
        for at, body in (("", flow.spec), *((f"templates[{name}].", t) for name, t in flow.templates().items())):
            account = body.get("executor", {}).get("serviceAccountName")
            if account is None:
                if not at:
                    todo = "set executor.serviceAccountName"
                    yield flow.problem("executor", "the executor would use the account of the code that it runs", todo)
                continue
            secret = tree.one("Secret", flow.namespace, f"{account}.service-account-token")
            bound = secret.body["metadata"].get("annotations", {}) if secret else {}
            if bound.get("kubernetes.io/service-account.name") != account:
                what = f"no Secret {account}.service-account-token holds the executor's token in {flow.namespace}"
                yield flow.problem(f"{at}executor", what, "add it to mlops/accounts (cluster.py)")
            if not {"create", "patch"} <= _verbs(tree, flow.namespace, account, "workflowtaskresults"):
                what = f"{account} may not report results in {flow.namespace}: every step would end as an error"
                yield flow.problem(f"{at}executor", what, "grant create and patch on workflowtaskresults")


def _verbs(tree: Tree, namespace: str, account: str, resource: str) -> set[str]:
    found: set[str] = set()
    for binding in tree.of("RoleBinding"):
        subjects = {(subject.get("namespace"), subject["name"]) for subject in binding.body["subjects"]}
        role = tree.one("Role", namespace, binding.body["roleRef"]["name"])
        if binding.namespace == namespace and role and (namespace, account) in subjects:
            for rule in role.body["rules"]:
                found |= set(rule["verbs"]) if resource in rule["resources"] else set()
    return found


def _mounts(tree: Tree) -> Iterator[Problem]:
    for pod in _pods(tree):
        volumes = _named(pod.spec.get("volumes"))
        for field, container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    at = f"{field}.volumeMounts[{mount['name']}]"
                    yield pod.manifest.problem(at, "no volume has this name", f"volumes here: {', '.join(volumes)}")
        for name, volume in volumes.items():
            for kind, key, of in (
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
                ("ConfigMap", "configMap", "name"),
            ):
                if key in volume and not tree.one(kind, pod.namespace, volume[key][of]):
                    what = f"there is no {kind} {volume[key][of]} in namespace {pod.namespace}"
                    yield pod.manifest.problem(f"{pod.field}.volumes[{name}]", what, "correct it, or render it there")


def _config_maps(tree: Tree) -> Iterator[Problem]:
    for pod in _pods(tree):
        for field, container in pod.containers:
            known = set(_named(container.get("env")))
            wanted = [(ref, "") for e in container.get("envFrom", []) if (ref := e.get("configMapRef"))]
            for entry in container.get("env", []):
                if ref := entry.get("valueFrom", {}).get("configMapKeyRef"):
                    wanted.append((ref, ref["key"]))
            for ref, key in wanted:
                found = tree.one("ConfigMap", pod.namespace, ref["name"])
                keys = set(found.body.get("data", {})) if found else set()
                known |= keys if not key else set()
                if not ref.get("optional") and (found is None or (key and key not in keys)):
                    what = (
                        f"there is no ConfigMap {ref['name']} {f'with {key} ' * bool(key)}in namespace {pod.namespace}"
                    )
                    yield pod.manifest.problem(field, what, "correct the name, or render the ConfigMap there")
            for at, text in _strings({key: container.get(key) for key in ("command", "args", "env")}, field):
                for name in sorted(set(re.findall(r"\$\(([A-Z_][A-Z0-9_]*)\)", text)) - known):
                    yield pod.manifest.problem(at, f"$({name}) is in no variable of the container", "correct the name")


def _services(tree: Tree) -> Iterator[Problem]:
    pods = list(_pods(tree))
    for manifest in tree.of("Service", "PodDisruptionBudget", "Deployment"):
        spec = manifest.body["spec"]
        selector = spec["selector"] if manifest.kind == "Service" else spec["selector"]["matchLabels"]
        mine = [pod for pod in pods if pod.namespace == manifest.namespace and selector.items() <= pod.labels.items()]
        if not mine or (manifest.kind == "Deployment" and manifest not in [pod.manifest for pod in mine]):
            yield manifest.problem("spec.selector", f"no pod has the labels {selector}", "select what the pod has")
        for port in spec["ports"] if manifest.kind == "Service" else ():
            target = port.get("targetPort", port["port"])
            for pod in mine:
                ports = [port for _, container in pod.containers for port in container.get("ports", [])]
                if target not in {value for entry in ports for value in (entry.get("name"), entry["containerPort"])}:
                    what = f"{pod.manifest.name} does not listen on {target}"
                    yield manifest.problem(f"spec.ports[{port.get('name')}]", what, "name a port of the container")
    for source in tree.of("EventSource"):
        spec = source.body["spec"]
        open_ports = {str(port["targetPort"]) for port in spec["service"]["ports"]}
        for kind, events in spec.items():
            for name, event in events.items() if kind in SENDERS else ():
                port = event.get("webhook", event)["port"]
                if port not in open_ports:
                    field = f"spec.{kind}[{name}]"
                    yield source.problem(
                        field, f"listens on {port}, which no port of the Service is", "make them equal"
                    )


# kind of an EventSource → the fields without which it takes an event from anybody
SENDERS = {
    "github": ("webhookSecret",),
    # without the last two Argo Events 1.9 does not compare the first
    "gitlab": ("secretToken", "accessToken", "webhook.url"),
    "webhook": ("authSecret",),
}


def _senders(tree: Tree) -> Iterator[Problem]:
    for source in tree.of("EventSource"):
        for kind, events in source.body["spec"].items():
            for name, event in events.items() if kind in SENDERS else ():
                known = {*event, *(f"webhook.{key}" for key in event.get("webhook", {}))}
                for key in SENDERS[kind]:
                    if key not in known:
                        what = "whoever reaches it can send events"
                        yield source.problem(f"spec.{kind}[{name}].{key}", what, "add it")


def _ingresses(tree: Tree) -> Iterator[Problem]:
    open_ports = dict(INSTALLED_SERVICES)
    for service in tree.of("Service"):
        names = {port[key] for port in service.body["spec"]["ports"] for key in ("name", "port") if key in port}
        open_ports[service.namespace, service.name] = names
    for source in tree.of("EventSource"):
        names = {port["name"] for port in source.body["spec"]["service"]["ports"]}
        # `webhook` is how the steps talk to each other
        inside = "webhook" in source.body["spec"]
        open_ports[source.namespace, f"{source.name}-eventsource-svc"] = set() if inside else names
    for manifest in tree.of("Ingress"):
        spec = manifest.body["spec"]
        safe = {host for entry in spec.get("tls", []) for host in entry["hosts"]}
        notes = manifest.body["metadata"].get("annotations", {})
        for rule in spec["rules"]:
            field = f"spec.rules[{rule['host']}]"
            if rule["host"] not in safe or "cert-manager.io/cluster-issuer" not in notes:
                yield manifest.problem(field, "no certificate is made for it", "add it to tls, and name the issuer")
            for path in rule["http"]["paths"]:
                to = path["backend"]["service"]
                (port,) = to["port"].values()
                if port not in open_ports.get((manifest.namespace, to["name"]), ()):
                    what = f"{to['name']} has no port {port} that the world may reach"
                    yield manifest.problem(f"{field}{path['path']}", what, "name a Service and the name of its port")


def _bus(tree: Tree) -> Iterator[Problem]:
    for bus in tree.of("EventBus"):
        spec = bus.body["spec"]["jetstream"]
        stream = yaml.safe_load(spec["streamConfig"])
        if stream.get("replicas") != spec["replicas"]:
            what = "the stream does not have as many copies as the bus: it never starts, or dies with one node"
            yield bus.problem("spec.jetstream.streamConfig", what, "make both numbers of replicas equal")
        if spec["replicas"] % 2 == 0:
            yield bus.problem("spec.jetstream.replicas", "half of an even number decides nothing", "write 1 or 3")
        if spec["replicas"] > 1 and "podAntiAffinity" not in spec.get("affinity", {}):
            yield bus.problem("spec.jetstream.affinity", "all copies may be on one node", "keep them apart")


_INSIDE = re.compile(r"https?://([^./:]+)\.([^./:]+)(?:\.svc(?:\.cluster\.local)?)?:(\d+)(?:/.*)?")


def _addresses(tree: Tree) -> Iterator[Problem]:
    open_ports: dict[tuple[str, str], set[str]] = {}
    for manifest in tree.of("Service"):
        ports = {str(port["port"]) for port in manifest.body["spec"]["ports"]}
        open_ports[manifest.name, manifest.namespace] = ports
        if manifest.namespace in tree.destinations():  # SERVING_URL stands for each of them
            known = open_ports.setdefault(("{service}", "{namespace}"), ports)
            open_ports["{service}", "{namespace}"] = known & ports
    for source in tree.of("EventSource"):
        ports = {str(port["port"]) for port in source.body["spec"]["service"]["ports"]}
        open_ports[f"{source.name}-eventsource-svc", source.namespace] = ports
    ours = {namespace for _, namespace in open_ports}
    for manifest in tree.of("ConfigMap"):
        for key, value in manifest.body["data"].items() if manifest.name == "endpoints" else ():
            found = _INSIDE.fullmatch(value)
            if found and found[2] in ours and found[3] not in open_ports.get((found[1], found[2]), ()):
                what = f"no Service is {found[1]} in {found[2]} on port {found[3]}"
                yield manifest.problem(f"data.{key}", what, "correct it in platform.yaml")


def _images(tree: Tree) -> Iterator[Problem]:
    for manifest, field, image in _image_uses(tree):
        if image not in tree.images:
            yield manifest.problem(field, f"image {image} is not in {VERSIONS}", f"add it there: {VERSIONS} pins all")


def _image_uses(tree: Tree) -> Iterator[tuple[Manifest, str, str]]:
    """(manifest, field, image), but for those that a parameter gives as a whole."""
    for pod in _pods(tree):
        for field, container in pod.containers:
            image = container.get("image", "")
            if not re.fullmatch(r"\{\{[^{}]*\}\}", image):
                yield pod.manifest, f"{field}.image", image
    for manifest in tree.of(*_OPERATED):
        key = _OPERATED[manifest.kind]
        yield manifest, f"spec.{key}", manifest.body["spec"].get(key, "")
    for manifest in tree.of("ConfigMap"):
        for key, value in manifest.body.get("data", {}).items():
            if key.endswith("_IMAGE"):
                yield manifest, f"data.{key}", value


def _namespaces(tree: Tree) -> Iterator[Problem]:
    known = {manifest.name for manifest in tree.of("Namespace")} | INSTALLED
    for manifest in tree.manifests:
        used = {"metadata.namespace": manifest.namespace} if manifest.namespace else {}
        if manifest.kind == "Application":
            used["spec.destination.namespace"] = manifest.body["spec"]["destination"]["namespace"]
        if manifest.kind == "Sensor":
            for name, trigger in _triggers(manifest):
                field = f"spec.triggers[{name}].template.k8s.source.resource.metadata.namespace"
                used[field] = trigger["k8s"]["source"]["resource"]["metadata"].get("namespace", "")
        for field, namespace in used.items():
            if namespace not in known:
                yield manifest.problem(field, f"nothing makes the namespace {namespace!r}", "correct it, or render it")


def _applications(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Application"):
        spec = manifest.body["spec"]
        project = tree.one("AppProject", manifest.namespace, spec["project"])
        if project is None or manifest.file.startswith("argocd/"):  # lint_applications looks at both
            continue
        kinds = {(entry["group"], entry["kind"]) for entry in project.body["spec"]["namespaceResourceWhitelist"]}
        released = [m for m in tree.manifests if m.file.startswith(f"{RELEASES} ({spec['source']['path']}/")]
        if not released:
            yield manifest.problem("spec.source.path", "a release puts nothing there", "correct the path")
        for part in released:
            group = part.body["apiVersion"].rpartition("/")[0]
            if (group, part.kind) not in kinds:
                yield part.problem(
                    "kind", f"{project.file} does not allow {part.kind}", "allow it there, or leave it out"
                )


# ---- policies


def _image_versions(tree: Tree) -> Iterator[Problem]:
    for manifest, field, image in _image_uses(tree):
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if tag == "latest" or not (tag or re.search(r"@sha256:[0-9a-f]{64}$", image)):
            yield manifest.problem(field, f"image {image!r} can be another one tomorrow", "name a version, or a digest")


def _secret_data(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Secret"):
        for key in sorted(manifest.body.keys() & {"data", "stringData"}):
            yield manifest.problem(
                key, "a secret in Git", "remove it, and take it out of use: whoever has cloned has it"
            )


def _host(tree: Tree) -> Iterator[Problem]:
    for pod in _pods(tree):
        todo = "do without: it opens the node to the pod"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield pod.manifest.problem(f"{pod.field}.{key}", "the pod would have the node's own", todo)
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield pod.manifest.problem(f"{pod.field}.volumes[{volume['name']}]", "a directory of the node", todo)
        for field, container in pod.containers:
            context = container.get("securityContext", {})
            if context.get("privileged") or context.get("allowPrivilegeEscalation"):
                yield pod.manifest.problem(f"{field}.securityContext", "more rights than its own", todo)
            if any("hostPort" in port for port in container.get("ports", [])):
                yield pod.manifest.problem(f"{field}.ports", "a port of the node", todo)


def _resources(tree: Tree) -> Iterator[Problem]:
    pods = [*_pods(tree), *_made_pods(tree)]
    found = [(pod.manifest, field, container) for pod in pods for field, container in pod.containers]
    found += [(m, "data.executor", yaml.safe_load(m.body["data"]["executor"])) for m in _controllers(tree)]
    found += [(m, "spec", m.body["spec"]) for m in tree.of(*_OPERATED)]
    for manifest, field, container in found:
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
            what = "the scheduler is not told what it needs, or nothing ends it when it takes more memory"
            yield manifest.problem(f"{field}.resources", what, "set requests (cpu, memory) and limits.memory")


def _probes(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Deployment"):
        for container in manifest.body["spec"]["template"]["spec"]["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in container:
                    field = f"spec.template.spec.containers[{container['name']}].{probe}"
                    yield manifest.problem(field, "nobody asks whether it works", "add the probe")


def _budgets(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Deployment"):
        labels = manifest.body["spec"]["template"]["metadata"]["labels"]
        budgets = (budget for budget in tree.of("PodDisruptionBudget") if budget.namespace == manifest.namespace)
        covered = any(b.body["spec"]["selector"]["matchLabels"].items() <= labels.items() for b in budgets)
        most = manifest.body["spec"].get("replicas", 1)
        for scaler in _scalers(tree, manifest):
            most = max(most, scaler.body["spec"]["maxReplicas"])
        if most > 1 and not covered:
            what = "all replicas may be taken away at once when nodes are drained"
            yield manifest.problem("spec.replicas", what, "add a PodDisruptionBudget that selects its pods")
    for budget in tree.of("PodDisruptionBudget"):
        if "minAvailable" in budget.body["spec"]:
            what = "where as many pods run as it asks for, no node can be drained"
            yield budget.problem("spec.minAvailable", what, "write maxUnavailable: 1")


def _scalers(tree: Tree, deployment: Manifest) -> list[Manifest]:
    found = []
    for scaler in tree.of("HorizontalPodAutoscaler"):
        target = scaler.body["spec"]["scaleTargetRef"]
        same = (target["apiVersion"], target["kind"], target["name"]) == ("apps/v1", "Deployment", deployment.name)
        if same and scaler.namespace == deployment.namespace:
            found.append(scaler)
    return found


def _scaling(tree: Tree) -> Iterator[Problem]:
    scaled = set()
    for deployment in tree.of("Deployment"):
        scalers = _scalers(tree, deployment)
        scaled |= {id(scaler) for scaler in scalers}
        if scalers and "replicas" in deployment.body["spec"]:
            what = "Argo CD would put back what the autoscaler changes"
            yield deployment.problem("spec.replicas", what, "leave it out")
    for scaler in tree.of("HorizontalPodAutoscaler"):
        spec = scaler.body["spec"]
        if id(scaler) not in scaled:
            yield scaler.problem("spec.scaleTargetRef", "names no Deployment that is here", "correct the name")
        if not 1 <= spec["minReplicas"] <= spec["maxReplicas"]:
            yield scaler.problem("spec.minReplicas", "is not from 1 to maxReplicas", "correct the two")


def _settings(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Deployment"):
        template = manifest.body["spec"]["template"]
        given = template["metadata"].get("annotations", {}).get(SETTINGS)
        for container in template["spec"]["containers"]:
            names = [entry.get("configMapRef", {}).get("name", "") for entry in container.get("envFrom", [])]
            found = next((tree.one("ConfigMap", manifest.namespace, n) for n in names if n.endswith("-env")), None)
            if found and given != config_digest(found.body["data"]):
                what = f"is not the digest of {found.name}: a change of it would start no pods"
                field = f"spec.template.metadata.annotations[{SETTINGS}]"
                yield manifest.problem(field, what, "write config_digest(data)")


def _spread(tree: Tree) -> Iterator[Problem]:
    for pod in _pods(tree):
        for index, entry in enumerate(pod.spec.get("topologySpreadConstraints", [])):
            field = f"{pod.field}.topologySpreadConstraints[{index}]"
            if not entry["labelSelector"]["matchLabels"].items() <= pod.labels.items():
                yield pod.manifest.problem(f"{field}.labelSelector", "does not select its own pod", "correct it")
            if entry["whenUnsatisfiable"] != "ScheduleAnyway":
                what = "on one node no second pod would start"
                yield pod.manifest.problem(f"{field}.whenUnsatisfiable", what, "write ScheduleAnyway")


def _wildcards(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Role", "ClusterRole", "AppProject"):
        rights = {key: manifest.body[key] for key in ("rules",) if key in manifest.body}
        if manifest.kind == "AppProject":
            rights = {f"spec.{key}": value for key, value in manifest.body["spec"].items() if key != "description"}
        for key, value in rights.items():
            for field, text in _strings(value, key):
                if "*" in text:
                    yield manifest.problem(field, f"{text!r} grants what nobody has thought of", "name what is needed")


def _exec(tree: Tree) -> Iterator[Problem]:
    into = {"pods/exec", "pods/attach", "pods/ephemeralcontainers"}
    for manifest in tree.of("Role", "ClusterRole"):
        for index, rule in enumerate(manifest.body["rules"]):
            for resource in sorted(into & set(rule.get("resources", []))):
                field = f"rules[{index}].resources"
                yield manifest.problem(field, f"{resource}: whoever has it has the pods' secrets", "leave it out")


def _non_root(tree: Tree) -> Iterator[Problem]:
    for pod in (*_pods(tree), *_made_pods(tree)):
        for field, container in pod.containers:
            at = f"{field}.securityContext"
            context = pod.spec.get("securityContext", {}) | container.get("securityContext", {})
            if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
                todo = "set runAsNonRoot: true, and no runAsUser: 0"
                yield pod.manifest.problem(f"{at}.runAsNonRoot", "may run as root", todo)
            if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
                todo = "set seccompProfile: {type: RuntimeDefault} in the pod's securityContext"
                yield pod.manifest.problem(f"{at}.seccompProfile", "may make every system call", todo)


# ---- namespaces


def _pod_security(tree: Tree) -> Iterator[Problem]:
    levels = {}
    for manifest in tree.of("Namespace"):
        labels = manifest.body["metadata"].get("labels", {})
        level = levels[manifest.name] = labels.get(f"{POD_SECURITY}/enforce")
        for mode in ("enforce", "audit", "warn"):
            key = f"{POD_SECURITY}/{mode}"
            if labels.get(key) not in LEVELS or labels.get(f"{key}-version") != POD_SECURITY_VERSION:
                what = f"any pod may run here, or rules that change with the next Kubernetes: {level}"
                todo = f"set it to {' or '.join(LEVELS)}, and {key}-version to {POD_SECURITY_VERSION}"
                yield manifest.problem(f"metadata.labels.{key}", what, todo)
    todo = "say what that level wants to hear"
    executors = [(m, [("executor", yaml.safe_load(m.body["data"]["executor"]))]) for m in _controllers(tree)]
    told = set()
    for pod in (*_pods(tree), *_made_pods(tree)):
        level = levels.get(pod.namespace) or LEVELS[-1]
        for field, what in offences(level, pod.spec, pod.containers):
            at = field if field.startswith(pod.field) else f"{pod.field}.{field}"
            yield pod.manifest.problem(at, f"{pod.namespace} is {level}: {what}", todo)
        for manifest, container in executors if pod.manifest.kind == "WorkflowTemplate" else ():
            for field, what in offences(level, {"securityContext": pod.spec["securityContext"]}, container):
                if field.startswith("executor") and (pod.namespace, what) not in told:
                    told.add((pod.namespace, what))
                    yield manifest.problem(f"data.{field}", f"{pod.namespace} is {level}: {what}", todo)


def _default_deny(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Namespace"):
        policies = [p.body["spec"] for p in tree.of("NetworkPolicy") if p.namespace == manifest.name]
        both = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if both not in policies:
            what = "what no policy speaks of is open, in and out"
            yield manifest.problem("metadata.name", what, "add the policy default-deny (network.py)")


def _network(tree: Tree) -> Iterator[Problem]:
    pods = [*_pods(tree), *_made_pods(tree)]
    ours = {pod.namespace for pod in pods}

    def some(namespace: str, selector: Body) -> bool:
        wanted = selector.get("matchLabels", {}).items()
        there = [pod.labels for pod in pods if pod.namespace == namespace] + [*UPSTREAM.get(namespace, ())]
        return any(wanted <= labels.items() for labels in there)

    for manifest in tree.of("NetworkPolicy"):
        spec, where = manifest.body["spec"], manifest.namespace
        if not some(where, spec["podSelector"]):
            yield manifest.problem(f"{manifest.name}: spec.podSelector", "holds for no pod", "remove the policy")
        for key, field in (("ingress", "from"), ("egress", "to")):
            for peer in (peer for entry in spec.get(key, []) for peer in entry[field]):
                labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
                other = labels.get("kubernetes.io/metadata.name", "") if "namespaceSelector" in peer else where
                if "podSelector" in peer and other in ours and not some(other, peer["podSelector"]):
                    what = f"no pod in {other} has the labels {peer['podSelector'].get('matchLabels')}"
                    yield manifest.problem(f"{manifest.name}: spec.{key}", what, "correct the labels")
    opened = {
        (policy.namespace, key)
        for policy in tree.of("NetworkPolicy")
        for key in policy.body["spec"]["podSelector"].get("matchLabels", {})
    }
    for pod in pods:
        for key in sorted(key for key in pod.labels if key.startswith(TO)):
            if (pod.namespace, key) not in opened:
                yield pod.manifest.problem(f"{pod.field}.metadata.labels", f"no policy opens {key}", "make render")


def _quotas(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Namespace"):
        quotas = [quota.body["spec"]["hard"] for quota in tree.of("ResourceQuota") if quota.namespace == manifest.name]
        if not any("pods" in hard for hard in quotas):
            what = "nothing bounds the number of its pods: a mistake there could fill the node"
            yield manifest.problem("metadata.name", what, "add a ResourceQuota with pods (namespaces.py)")


def _limits(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of("Namespace"):
        ranges = [entry.body["spec"]["limits"] for entry in tree.of("LimitRange") if entry.namespace == manifest.name]
        if not any("memory" in entry.get("default", {}) for limits in ranges for entry in limits):
            what = "a container that names no limit may take all of a node's memory"
            yield manifest.problem("metadata.name", what, "add a LimitRange with a default (namespaces.py)")


def _sizes(tree: Tree) -> Iterator[Problem]:
    for file, size in tree.sizes.items():
        if size > LARGEST:
            what = f"{size / 1024 / 1024:.1f} MiB: every clone would carry it for ever"
            yield Problem(file, "size", what, f"keep it out of Git, or under {LARGEST // 1024 // 1024} MiB")


RULES = [
    Rule("known", "nothing is here that the other rules would not look into", _known),
    Rule(
        "arguments", "who starts a WorkflowTemplate gives all that it needs and nothing else, and fills it", _arguments
    ),
    Rule("events", "the events and dependencies that a Sensor names exist", _sensor_events),
    Rule("template-names", "the WorkflowTemplates and templates that are named exist", _template_names),
    Rule("task-arguments", "a task gives its template all that it needs and nothing else", _task_arguments),
    Rule("tags", "each {{…}} stands for an input, an argument, or a task's output that exists", _tags),
    Rule("unused", "each input and each argument is used", _unused),
    Rule("depends", "`depends` names tasks, and a task waits for those whose outputs it uses", _depends),
    Rule("secrets", "a Secret's key is used where it is expected, and nowhere else", _secrets),
    Rule("accounts", "the service accounts and roles that are named exist, in their namespace", _accounts),
    Rule("executors", "Argo's executor has an account of its own, its token, and the right to report", _executors),
    Rule(
        "config-maps", "the ConfigMaps that a pod reads exist beside it, and $(NAME) is a variable of it", _config_maps
    ),
    Rule("mounts", "what a container mounts is a volume of its pod, and what is in it exists", _mounts),
    Rule("services", "Services, budgets and Deployments select pods that exist, on ports that these open", _services),
    Rule("senders", "an EventSource takes events only from who has its secret", _senders),
    Rule("ingresses", "an Ingress has a certificate, and leads to a Service for which the world is meant", _ingresses),
    Rule("bus", "the bus and its stream have the same odd number of copies, on different nodes", _bus),
    Rule("default-class", "no storage class of ours becomes the cluster's default", _default_class),
    Rule("addresses", "an address inside the cluster is that of a Service that is here, with its port", _addresses),
    Rule("images", "each image is one that versions.yaml pins", _images),
    Rule("namespaces", "each namespace is made by a manifest, or by an installation", _namespaces),
    Rule("applications", "Argo CD may deploy what a release writes, and reads it where it is written", _applications),
    *(Rule(*row) for row in lint_applications.RULES),
    Rule("image-versions", "no image is `latest` or without a version", _image_versions),
    Rule("secret-data", "no Secret in Git holds data", _secret_data),
    Rule("host", "no pod has a path, a network or the rights of its node", _host),
    Rule("resources", "each container requests CPU and memory, and has a limit on memory", _resources),
    Rule("probes", "a Deployment is asked whether it lives and is ready", _probes),
    Rule(
        "budgets", "a Deployment with more than one replica has a PodDisruptionBudget that lets nodes drain", _budgets
    ),
    Rule("scaling", "an autoscaler has a Deployment, and Argo CD leaves it the number of pods", _scaling),
    Rule("settings", "pods carry the digest of their settings, so that a change starts new ones", _settings),
    Rule("spread", "pods are kept apart from their own, and run all the same where that cannot be", _spread),
    Rule("wildcards", "no right is granted by a wildcard", _wildcards),
    Rule("exec", "nobody may start a command in another pod", _exec),
    Rule("non-root", "each container runs as another user than root, under the runtime's seccomp profile", _non_root),
    Rule("pod-security", "a namespace says which pods it takes, and ours pass", _pod_security),
    Rule("default-deny", "in a namespace nothing is open that no policy opens", _default_deny),
    Rule("network", "policies speak of pods that exist, and a pod's labels open what they name", _network),
    Rule("quotas", "a namespace has an end of its pods", _quotas),
    Rule("limits", "a container without a limit on memory gets one", _limits),
    Rule("file-size", "no file in Git is larger than 5 MiB", _sizes),
]


def main() -> int:
    """Exit code 1 if a rule found something, and says what."""
    try:
        tree = load()
    except YardError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    found = list(problems(tree))
    for rule, (file, field, what, todo) in found:
        print(f"{file}: {field}: {what} [{rule.name}]\n  → {todo}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
