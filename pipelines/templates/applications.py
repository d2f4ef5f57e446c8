"""What Argo CD installs, and in which order: one Application for each component, and the root Application above them.

COMPONENTS is the table. A component's wave follows from what it needs. Argo CD starts a wave when the one before is
Healthy (health.py says what that means for an Application), so a first installation goes bottom up. Later each
Application follows the branch by itself: waves order what is new, not every change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pipelines.platform import Platform
from pipelines.templates import addons, argocd, capacity, certificates
from pipelines.templates.base import KEPT, SYNC_OPTIONS, Manifest

Files = Mapping[str, Iterable[Manifest]]  # path → objects

FOLDER = "argocd/applications"
ROOT = "argocd/root.yaml"
PROJECT = "platform"
WAVE = "argocd.argoproj.io/sync-wave"
CLUSTER = "https://kubernetes.default.svc"
_EXTENSIONS, _RBAC = "apiextensions.k8s.io", "rbac.authorization.k8s.io"
_CRDS, _ROLES, _BINDINGS = (
    (_EXTENSIONS, "CustomResourceDefinition"),
    (_RBAC, "ClusterRole"),
    (_RBAC, "ClusterRoleBinding"),
)
_WEBHOOKS = (
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
)
# kinds that are in no namespace, as far as our own files have them
CLUSTER_WIDE = {
    *("Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "ClusterIssuer"),
    *("APIService", "CSIDriver", "PersistentVolume", "PriorityClass", "RuntimeClass", "StorageClass"),
    *("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
}


class Chart(NamedTuple):
    """A Helm chart; `pin` is its line in versions.yaml. Without `values` they are in the component's values.yaml."""

    name: str
    repository: str
    pin: str
    values: dict[str, Any] | None = None
    release: str = ""  # else the component's name


class Component(NamedTuple):
    """One Application: a folder of this repository, a chart, or both."""

    name: str
    what: str
    namespace: str
    path: str = ""
    needs: tuple[str, ...] = ()
    chart: Chart | None = None
    # cluster-wide kinds that upstream's manifests bring along; those in our own files need not be named
    brings: tuple[tuple[str, str], ...] = ()


COMPONENTS = (
    Component("projects", "what Applications may do", "argocd", "argocd/projects"),
    Component("namespaces", "namespaces, their policies and quotas", "argocd", "namespaces"),
    Component(
        "argocd",
        "Argo CD itself",
        "argocd",
        argocd.FOLDER,
        ("projects", "namespaces"),
        brings=(_CRDS, _ROLES, _BINDINGS),
    ),
    Component(
        "cert-manager",
        "certificates",
        certificates.NAMESPACE,
        needs=("argocd",),
        chart=Chart("cert-manager", "https://charts.jetstack.io", "cert-manager", certificates.values()),
        brings=(_CRDS, _ROLES, _BINDINGS, *_WEBHOOKS),
    ),
    Component("issuers", "who signs certificates", certificates.NAMESPACE, "cert-manager/issuers", ("cert-manager",)),
    Component(
        "argo-workflows",
        "runs pipelines",
        "argo",
        "argo-workflows",
        ("argocd", "postgresql"),
        brings=(_CRDS, _ROLES, _BINDINGS, ("scheduling.k8s.io", "PriorityClass")),
    ),
    Component(
        "argo-events",
        "turns webhooks into events",
        "argo-events",
        "argo-events/install",
        ("argocd",),
        brings=(_CRDS,),
    ),
    Component("event-sources", "the bus and what feeds it", "argo-events", "argo-events/sources", ("argo-events",)),
    Component(
        "mlops",
        "the pipelines, and what starts them",
        "mlops",
        "mlops",
        ("argo-workflows", "event-sources", "storage"),
    ),
    Component("services", "each model's namespace and Application", "argocd", "applications/services", ("mlops",)),
)
# without these nothing can be deleted any more: they stay, whatever happens to their Applications
FIRST = ("projects", "namespaces", "argocd")
FINALIZER = "resources-finalizer.argocd.argoproj.io"
# by their name in platform.yaml; each has a folder below applications/
_WORDS = {
    "storage": "an object store, for development",
    "postgresql": "databases",
    "nfs": "volumes on an NFS server",
    "gpu": "NVIDIA's device plugin",
    "harbor": "a container registry",
    "monitoring": "metrics, rules and dashboards",
    "tunnel": "webhooks without a public address",
    "backup": "copies of the databases",
}
_BRINGS = {
    "postgresql": (("", "Namespace"), _CRDS, _ROLES, _BINDINGS, *_WEBHOOKS),
    "monitoring": (_CRDS, _ROLES, _BINDINGS),
    "nfs": (("storage.k8s.io", "CSIDriver"), _ROLES, _BINDINGS),
    "gpu": (_CRDS, _ROLES, _BINDINGS),
}


def _addon(addon: addons.Addon) -> Component:
    after = "mlops" if addon.wave > 0 else "argocd"
    chart = addon.chart and Chart(addon.chart.name, addon.chart.repository, addon.chart.name, None, addon.chart.release)
    folder, brings = f"applications/{addon.name}", _BRINGS.get(addon.name, ())
    return Component(addon.name, _WORDS[addon.name], addon.destination, folder, (after, *addon.needs), chart, brings)


ADDONS = tuple(_addon(addon) for addon in addons.ADDONS.values())


def components(platform: Platform, files: Files) -> list[Component]:
    """What these settings install: a folder without a file is no component."""
    on = platform.addons.on()
    without = ("cert-manager", "issuers") if platform.tls.issuer == "none" else ()
    known = [*(each for each in COMPONENTS if each.name not in without), *(each for each in ADDONS if each.name in on)]
    return [each for each in known if not each.path or _below(files, each.path)]


def waves(installed: Iterable[Component]) -> dict[str, int]:
    """Component → its wave: one after the last of what it needs and what is installed."""
    needs = {component.name: component.needs for component in installed}

    def wave(name: str) -> int:
        return 1 + max((wave(need) for need in needs[name] if need in needs), default=-1)

    return {name: wave(name) for name in needs}


def applications(platform: Platform, versions: Mapping[str, str], files: Files) -> dict[str, list[Manifest]]:
    """The Application of each component, and the root; `files` has all that is in the components' folders."""
    installed = components(platform, files)
    order = waves(installed)
    found = {}
    for component in installed:
        sources = list(_sources(platform, component, versions, files))
        found[f"{FOLDER}/{component.name}.yaml"] = [_application(component, sources, order[component.name])]
    source = {"repoURL": repository(platform), "targetRevision": platform.branch, "path": FOLDER}
    found[ROOT] = [_root(source)]
    return found


def project(platform: Platform, files: Files) -> Manifest:
    """Project `platform`: this repository and the charts', the namespaces and cluster-wide kinds of all of it."""
    mine = components(platform, files)
    names = [name for component in mine if component.path for name in _below(files, component.path)]
    objects = [body for name in names if not name.endswith("/values.yaml") for body in files[name]]
    objects = [body for body in objects if body["kind"] != "Kustomization"]
    namespaces = {argocd.NAMESPACE, *(component.namespace for component in mine)}
    namespaces |= {body["metadata"]["namespace"] for body in objects if "namespace" in body["metadata"]}
    upstreams = (each for each in mine if each.chart or f"{each.path}/kustomization.yaml" in files)
    kinds = {kind for component in upstreams for kind in component.brings}
    kinds |= cluster_wide(objects)
    repositories = {_chart_repository(platform, component.chart) for component in mine if component.chart}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": PROJECT, "namespace": argocd.NAMESPACE},
        "spec": {
            "description": "The platform itself: everything but the services' releases",
            "sourceRepos": [repository(platform), *sorted(repositories)],
            "destinations": [{"server": CLUSTER, "namespace": name} for name in sorted(namespaces)],
            "clusterResourceWhitelist": [{"group": group, "kind": kind} for group, kind in sorted(kinds)],
        },
    }


def _below(files: Files, path: str) -> list[str]:
    return [name for name in files if name.startswith(f"{path}/")]


def _values(files: Files, component: Component) -> Manifest:
    """The values of a component's chart, where they are a file of its folder."""
    (values,) = files[f"{component.path}/values.yaml"]
    return values


def repository(platform: Platform) -> str:
    return f"{platform.endpoints.GIT_URL}/{platform.repository}.git"


def cluster_wide(objects: Iterable[Manifest]) -> set[tuple[str, str]]:
    """Group and kind of those that are in no namespace."""
    found = ((str(body["apiVersion"]).rpartition("/")[0], str(body["kind"])) for body in objects)
    return {(group, kind) for group, kind in found if kind in CLUSTER_WIDE}


def _chart_repository(platform: Platform, chart: Chart) -> str:
    return platform.mirror.charts or chart.repository


def _sources(platform: Platform, component: Component, versions: Mapping[str, str], files: Files) -> Iterator[Manifest]:
    if component.chart:
        values = component.chart.values
        yield {
            "repoURL": _chart_repository(platform, component.chart),
            "chart": component.chart.name,
            "targetRevision": str(versions[component.chart.pin]),
            "helm": {
                "releaseName": component.chart.release or component.name,
                **({"valuesObject": values} if values else {"valueFiles": [f"$here/{component.path}/values.yaml"]}),
            },
        }
    if component.path:
        source: Manifest = {"repoURL": repository(platform), "targetRevision": platform.branch, "path": component.path}
        if f"{component.path}/kustomization.yaml" not in files:
            source["directory"] = {"recurse": True}
        if component.chart:
            source["ref"] = "here"
        yield source


def _application(component: Component, sources: list[Manifest], wave: int) -> Manifest:
    annotations = {WAVE: str(wave)}
    if component.name in FIRST:
        annotations[SYNC_OPTIONS] = KEPT
    elif component not in ADDONS:
        annotations[SYNC_OPTIONS] = "Prune=false"  # a lost file must not take a part of the platform away
    # the API server says what its defaults make of a manifest: without that some would differ for ever
    annotations["argocd.argoproj.io/compare-options"] = "ServerSideDiff=true"
    meta: Manifest = {"name": component.name, "namespace": argocd.NAMESPACE, "annotations": annotations}
    if component.name not in FIRST:
        meta["finalizers"] = [FINALIZER]  # when it goes, what it deployed goes: an add-on that is off, `yard down`
    spec: Manifest = {
        "project": PROJECT,
        **({"source": sources[0]} if len(sources) == 1 else {"sources": sources}),
        "destination": {"server": CLUSTER, "namespace": component.namespace},
        "syncPolicy": _policy(5, "10s", "3m"),
    }
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": meta, "spec": spec}


def _root(source: Manifest) -> Manifest:
    """It stands outside its own folder: an Application that is part of itself would wait for its own health."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": "root", "namespace": argocd.NAMESPACE},
        "spec": {
            "project": PROJECT,
            "source": source,
            "destination": {"server": CLUSTER, "namespace": argocd.NAMESPACE},
            # half an hour of tries: a first installation fetches images, and a Deployment that takes longer than ten
            # minutes to come up is Degraded for a while
            "syncPolicy": _policy(10, "30s", "5m"),
        },
    }


def _policy(limit: int, first: str, last: str) -> Manifest:
    return {
        "automated": {"prune": True, "selfHeal": True},
        "syncOptions": ["ServerSideApply=true", "PruneLast=true"],
        # bounded, and each try takes the newest commit: an endless retry holds a bad revision for ever
        "retry": {
            "limit": limit,
            "refresh": True,
            "backoff": {"duration": first, "factor": 2, "maxDuration": last},
        },
    }


def markdown(files: Files) -> str:
    """The waves, and what each component asks for, from the manifests: `docs/waves.md`."""
    known = {component.name: component for component in (*COMPONENTS, *ADDONS)}
    bodies = (body for path in files if path.startswith(f"{FOLDER}/") for body in files[path])
    installed = {_wave(body): body for body in bodies}
    text = [_INTRODUCTION]
    for wave, name in sorted(installed):
        spec = installed[wave, name]["spec"]
        needs = ", ".join(f"`{need}`" for need in known[name].needs if f"{FOLDER}/{need}.yaml" in files)
        words = " and ".join(
            f"chart {source['chart']} {source['targetRevision']}" if "chart" in source else f"`{source['path']}/`"
            for source in spec.get("sources") or [spec["source"]]
        )
        text.append(f"| {wave} | `{name}` | {known[name].what} | {words} | {needs} |\n")
    text.append(_CAPACITY)
    whole = capacity.Sum()
    for _, name in sorted(installed):
        asked = _asked(known[name], files)
        whole += asked
        text += [f"| `{name}` | {' | '.join(capacity.row(asked))} |\n"] if any(asked) else []
    text.append(f"| together | {' | '.join(capacity.row(whole))} |\n")
    for addon in ADDONS:
        if addon.name not in {name for _, name in installed}:
            text.append(f"| `{addon.name}` (off) | {' | '.join(capacity.row(_asked(addon, files)))} |\n")
    return "".join(text)


def _wave(application: Manifest) -> tuple[int, str]:
    meta = application["metadata"]
    return int(meta["annotations"][WAVE]), str(meta["name"])


def _asked(component: Component, files: Files) -> capacity.Sum:
    """What a component asks for, installed or not."""
    found = capacity.Sum()
    if component.chart:
        found += capacity.of_values(component.chart.values or _values(files, component))
    names = _below(files, component.path) if component.path else []
    return found + capacity.total(each for name in names if not name.endswith("/values.yaml") for each in files[name])


_INTRODUCTION = """\
# Waves

What Argo CD installs, in this order, for the platform.yaml of this repository. Made by `make render` from the
manifests. A wave starts when all of the one before is Healthy.

| wave | Application | what | from | after |
| --- | --- | --- | --- | --- |
"""
_CAPACITY = """
## What they ask for

Requests and limits of what runs all the time, and volumes. Beside it come the pods of a run, what the services ask for,
and what Argo Events starts for each EventSource and Sensor.

| Application | CPU | memory | memory limit | disk |
| --- | --- | --- | --- | --- |
"""
