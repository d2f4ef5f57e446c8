"""Rules of `lint` over what Argo CD is told to install: Applications, their order, their projects, their folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines.templates import applications
from pipelines.templates.base import GUARDED, KEPT, KEPT_CRDS, SYNC_OPTIONS

if TYPE_CHECKING:  # lint imports this module
    from pipelines.templates.lint import Manifest, Problem, Tree

KINDS = {"Certificate", "ClusterIssuer", "Ingress"}  # what these folders add to what the rules know
# what `make up` applies by hand, before there is an Argo CD
BY_HAND = (applications.ROOT,)


def _installed(tree: Tree) -> dict[str, Manifest]:
    """The platform's own Applications; those of the services stand with the services."""
    return {m.name: m for m in tree.of("Application") if m.file.startswith("argocd/")}


def _sources(application: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """(field, source) of each."""
    spec = application.body["spec"]
    if "source" in spec:
        return [("spec.source", spec["source"])]
    return [(f"spec.sources[{index}]", source) for index, source in enumerate(spec["sources"])]


def _below(tree: Tree, application: Manifest) -> Iterator[Manifest]:
    """The manifests that an Application of the platform deploys."""
    paths = tuple(f"{source['path']}/" for _, source in _sources(application) if "path" in source)
    return (manifest for manifest in tree.manifests if paths and manifest.file.startswith(paths))


def _projects(tree: Tree) -> Iterator[Problem]:
    for application in tree.of("Application"):
        spec = application.body["spec"]
        project = tree.one("AppProject", application.namespace, spec["project"])
        if spec["project"] == "default" or project is None:
            what = "project default allows everything" if spec["project"] == "default" else "no such AppProject"
            yield application.problem("spec.project", f"{spec['project']}: {what}", "name one of argocd/projects")
            continue
        allowed = project.body["spec"]
        for field, source in _sources(application):
            if source["repoURL"] not in allowed["sourceRepos"]:
                yield application.problem(f"{field}.repoURL", f"{project.file} does not allow it", "allow it there")
        if spec["destination"] not in allowed["destinations"]:
            yield application.problem("spec.destination", f"{project.file} does not allow it", "allow it there")


def _allowed(tree: Tree) -> Iterator[Problem]:
    for application in _installed(tree).values():
        project = tree.one("AppProject", application.namespace, application.body["spec"]["project"])
        if project is None:
            continue
        places = {place["namespace"] for place in project.body["spec"]["destinations"]}
        kinds = {(entry["group"], entry["kind"]) for entry in project.body["spec"]["clusterResourceWhitelist"]}
        for part in _below(tree, application):
            group = str(part.body["apiVersion"]).rpartition("/")[0]
            if part.namespace and part.namespace not in places:
                what = f"{project.file} does not allow the namespace {part.namespace}"
                yield part.problem("metadata.namespace", what, "make render")
            if part.kind in applications.CLUSTER_WIDE and (group, part.kind) not in kinds:
                yield part.problem("kind", f"{project.file} does not allow {part.kind}", "make render")


def _waves(tree: Tree) -> Iterator[Problem]:
    installed = _installed(tree)
    known = {component.name: component for component in (*applications.COMPONENTS, *applications.ADDONS)}
    for name, application in installed.items():
        if application.file in BY_HAND:
            continue
        field = f"metadata.annotations[{applications.WAVE}]"
        if name not in known:
            todo = "add it to COMPONENTS or ADDONS in pipelines/templates/applications.py"
            yield application.problem("metadata.name", "nothing says what it needs", todo)
            continue
        for need in known[name].needs:
            if need in installed and _wave(installed[need]) >= _wave(application):
                what = f"wave {_wave(application)} does not come after {need}, which it needs"
                yield application.problem(field, what, f"a wave after {_wave(installed[need])}")
    templates = {(body.namespace, body.name): body for body in tree.of("WorkflowTemplate")}
    for clock in tree.of("CronWorkflow"):
        name = clock.body["spec"]["workflowSpec"].get("workflowTemplateRef", {}).get("name")
        template = templates.get((clock.namespace, name))
        if template and _wave(template) >= _wave(clock):
            what = f"wave {_wave(clock)} does not come after its template: it may not run for 20 minutes"
            yield clock.problem(f"metadata.annotations[{applications.WAVE}]", what, "a wave after the template's")


def _wave(manifest: Manifest) -> int:
    return int(manifest.body["metadata"].get("annotations", {}).get(applications.WAVE, "0"))


def _paths(tree: Tree) -> Iterator[Problem]:
    for application in _installed(tree).values():
        for field, source in _sources(application):
            if "path" not in source:
                continue
            there = [manifest for manifest in tree.manifests if manifest.file.startswith(f"{source['path']}/")]
            kustomized = [m for m in there if m.file == f"{source['path']}/kustomization.yaml"]
            if kustomized:
                there = kustomized[0].body.get("resources", [])
            if not there:
                yield application.problem(f"{field}.path", f"{source['path']}/ holds no object", "correct the path")
            if kustomized and "directory" in source:
                todo = "leave it out: kustomize decides what is read"
                yield application.problem(f"{field}.directory", "not for a folder with a kustomization", todo)
            elif not kustomized and not source.get("directory", {}).get("recurse") and _nested(tree, source["path"]):
                what = "its subfolders are not read"
                yield application.problem(f"{field}.directory", what, "set directory.recurse: true")


def _nested(tree: Tree, path: str) -> bool:
    return any("/" in m.file.removeprefix(f"{path}/") for m in tree.manifests if m.file.startswith(f"{path}/"))


def _deployed(tree: Tree) -> Iterator[Problem]:
    paths = {
        source["path"]
        for application in _installed(tree).values()
        for _, source in _sources(application)
        if "path" in source
    }
    off = {addon.path for addon in applications.ADDONS} - paths
    roots = tuple(f"{path}/" for path in paths | off)
    for file in sorted({manifest.file for manifest in tree.manifests}):
        if "(" not in file and file not in BY_HAND and not file.startswith(roots):
            from_here = next(manifest for manifest in tree.manifests if manifest.file == file)
            todo = "put it below the path of an Application in argocd/applications"
            yield from_here.problem("file", "Argo CD will never deploy this file", todo)


def _owners(tree: Tree) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], str] = {}
    for name, application in _installed(tree).items():
        for part in (part for part in _below(tree, application) if part.kind != "Kustomization"):
            key = (part.kind, part.namespace, part.name)
            first = seen.setdefault(key, name)
            if first != name:
                what = f"Application {first} deploys the same object: they would undo each other"
                yield part.problem("metadata.name", what, "keep it in one of them")


def _guarded(tree: Tree) -> Iterator[Problem]:
    for manifest in tree.of(*GUARDED):
        if manifest.body["metadata"].get("annotations", {}).get(SYNC_OPTIONS) != KEPT:
            what = f"a commit without it would delete this {manifest.kind} and all that is in it"
            todo = f"annotate it with {SYNC_OPTIONS}: {KEPT} (base.guarded)"
            yield manifest.problem("metadata.annotations", what, todo)
    for manifest in tree.of("Kustomization"):
        remote = any("ref=" in name for name in manifest.body.get("resources", []))
        if remote and KEPT_CRDS not in manifest.body.get("patches", []):
            what = "a commit without it would delete upstream's CRDs, and with them every object of their kinds"
            yield manifest.problem("patches", what, "render it with base.guarded")


def _bounded(tree: Tree) -> Iterator[Problem]:
    for application in tree.of("Application"):
        policy = application.body["spec"].get("syncPolicy", {})
        limit = policy.get("retry", {}).get("limit", 0)
        if "automated" not in policy:
            yield application.problem("spec.syncPolicy", "nobody would sync it", "add automated")
        if not 0 < limit <= 20:
            what = f"{limit} retries: none, or so many that a bad commit is held for ever"
            yield application.problem("spec.syncPolicy.retry.limit", what, "set a number from 1 to 20")


RULES: list[tuple[str, str, Callable[[Tree], Iterator[Problem]]]] = [
    ("projects", "each Application is in a project of ours that allows its sources and its namespace", _projects),
    ("allowed", "a project allows the namespaces and cluster-wide kinds of all that its Applications deploy", _allowed),
    ("waves", "each Application comes after what it needs", _waves),
    ("paths", "an Application's folder exists, holds objects, and is read whole", _paths),
    ("deployed", "each manifest is in the folder of an Application, or of an add-on that is off", _deployed),
    ("owners", "no object is deployed by two Applications", _owners),
    ("guarded", "a commit cannot delete what holds data", _guarded),
    ("bounded", "a sync is tried again, and not for ever", _bounded),
]
