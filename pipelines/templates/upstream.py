"""Upstream's manifests without a network: from the Go modules of the projects, at the versions of versions.yaml.

`folder` is a module's folder, checked against tools/upstream/go.sum; `build` is what kustomize makes of a folder of
ours, `chart` what Helm makes of a chart. What neither a module nor tools/charts.yaml has is Absent: not checked here.
`python -m pipelines.templates.upstream` fetches the charts and records the digests of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from pipelines.errors import Exit, YardError
from pipelines.templates.render import ROOT, VERSIONS

Body = dict[str, Any]
TOOLS = ROOT / ".tools"  # what is built and fetched for the checks, and never committed
SUMS = ROOT / "tools/upstream/go.sum"
LOCK = ROOT / "tools/charts.yaml"
CACHE = TOOLS / "charts"
# where manifests are: what Argo CD may read
FOLDERS = ("applications", "argo-events", "argo-workflows", "argocd", "cert-manager", "mlops")

# component of versions.yaml → its Go module
MODULES = {
    "argo-cd": "github.com/argoproj/argo-cd/v3",
    "argo-events": "github.com/argoproj/argo-events",
    "argo-workflows": "github.com/argoproj/argo-workflows/v4",
    "cert-manager": "github.com/cert-manager/cert-manager",
    "cloudnative-pg": "github.com/cloudnative-pg/cloudnative-pg",
    "helm-controller": "github.com/k3s-io/helm-controller",
    "kubernetes": "k8s.io/kubernetes",
    "prometheus-operator": "github.com/prometheus-operator/prometheus-operator",
}
CHARTS = {"cert-manager": ("cert-manager", "deploy/charts/cert-manager")}  # chart → component, folder in its module
PARTS = ("resources", "components")  # the fields of a kustomization that may name folders and remote bases
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: a CRD may have a megabyte
_REMOTE = re.compile(r"(?P<repo>[^/]+/[^/]+?)(?:\.git)?//(?P<path>[^?]*)\?(?:\S*&)?ref=v(?P<version>[^&]+)$")


class _Loader(_YAML):  # type: ignore[misc, valid-type]
    """Reads a bare `=` as text, as Kubernetes does; an enum of Prometheus has one."""


_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_yaml_str)


@dataclass(frozen=True)
class Absent:
    """What cannot be had without a network, as one would name it."""

    what: str


class Chart(NamedTuple):
    """A chart that an Application deploys; `repo` is a URL, or host and path of an OCI registry."""

    name: str
    version: str
    repo: str
    release: str
    namespace: str
    values: Body

    def __str__(self) -> str:
        return f"{self.name} {self.version} (from {self.repo})"


def documents(text: str, where: str) -> list[Body]:
    """All objects of a YAML text; YardError if it is none."""
    try:
        return [body for body in yaml.load_all(text, _Loader) if body]
    except yaml.YAMLError as error:
        raise YardError(f"not YAML: {error}", where=where) from None


@cache
def versions(file: Path = ROOT / VERSIONS) -> dict[str, str]:
    return {name: str(version) for name, version in yaml.safe_load(file.read_text())["components"].items()}


@cache
def folder(component: str) -> Path:
    """The module of a component, downloaded once; YardError if it is not the one that go.sum has."""
    module = f"{MODULES[component]} v{versions()[component]}"
    if f"{module} h1:" not in SUMS.read_text():
        raise YardError(f"no digest of {module}", where="tools/upstream/go.sum", todo="make charts, and commit it")
    return Path(_download(module)["Dir"])


def _download(module: str) -> dict[str, str]:
    command = ["go", "mod", "download", "-json", module.replace(" ", "@")]
    try:
        found = subprocess.run(command, cwd=SUMS.parent, capture_output=True, text=True)
    except FileNotFoundError:
        todo = "install Go 1.21 or newer (go.dev/dl, or a package golang); it fetches the version that tools/ asks for"
        raise YardError("Go is missing", where="PATH", todo=todo, code=Exit.NOT_FOUND) from None
    told: dict[str, str] = json.loads(found.stdout) if found.stdout else {"Error": found.stderr.strip()}
    if found.returncode:
        todo = "look at `go env GOPROXY`, and try again"
        raise YardError(told["Error"], where=module, todo=todo, code=Exit.UNAVAILABLE)
    return told


def build(path: Path, root: Path = ROOT) -> str | Absent:
    """What kustomize makes of a folder below `root`, with the modules as remote bases; YardError if it is nothing."""
    where = path.relative_to(root).as_posix()
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "git"
        for name in {*FOLDERS, path.relative_to(root).parts[0]}:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name)
        for file in copy.rglob("kustomization.yaml"):
            absent = _localize(file, Path(place), file.parent == copy / where)
            if absent:
                return Absent(f"{where}: {absent}")
        text = _run("kustomize", "build", str(copy / where), where=where)
    if not any(re.findall(r"^kind:", text, re.MULTILINE)):
        raise YardError("kustomize makes no object of it", where=where, todo="name its files under `resources:`")
    return text


def named(kustomization: Path) -> list[str]:
    """What a kustomization is made of: files, folders and remote bases."""
    body = yaml.safe_load(kustomization.read_text()) or {}
    return [name for field in PARTS for name in body.get(field) or []]


def _localize(file: Path, place: Path, wanted: bool) -> str:
    """Point a kustomization's remote bases to the modules; the one that cannot be had is returned."""
    body = yaml.safe_load(file.read_text()) or {}
    changed = False
    for field in PARTS:
        for index, name in enumerate(body.get(field) or []):
            if "://" not in name and "?ref=" not in name:
                continue
            found = _REMOTE.search(name)
            component = _component(found["repo"]) if found else None
            if not found or not component:
                if wanted:
                    return str(name)
                continue
            if found["version"] != versions()[component]:
                told = f"{name} is not the version {versions()[component]} of {VERSIONS}"
                raise YardError(told, where=file.relative_to(place / "git").as_posix(), todo="make render")
            link = place / component
            if not link.exists():
                link.symlink_to(folder(component))
            body[field][index] = os.path.relpath(link / found["path"], file.parent)
            changed = True
    if changed:
        file.write_text(yaml.safe_dump(body))
    return ""


def _component(repo: str) -> str | None:
    return next((name for name, module in MODULES.items() if f"{module}/".startswith(f"github.com/{repo}/")), None)


def applications(root: Path = ROOT) -> Iterator[Body]:
    """The Applications of this repository, whether they stand in files of their own or in a kustomization's."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.yaml")):
            text = path.read_text()
            if "kind: Application\n" in text:
                found = documents(text, path.relative_to(root).as_posix())
                yield from (body for body in found if body.get("kind") == "Application")


def chart_sources(body: Body) -> list[Body]:
    """The sources of an Application that are charts."""
    spec = body["spec"]
    return [source for source in spec.get("sources") or [spec.get("source", {})] if "chart" in source]


def value_files(source: Body) -> list[str]:
    """The files of this repository that a chart's values are in; Argo CD calls them $NAME/PATH."""
    return [name.partition("/")[2] for name in source.get("helm", {}).get("valueFiles", [])]


def charts(body: Body, root: Path = ROOT) -> Iterator[Chart]:
    """The charts of an Application."""
    name, destination = body["metadata"]["name"], body["spec"]["destination"]
    for source in chart_sources(body):
        helm = source.get("helm", {})
        if "parameters" in helm:
            raise YardError("parameters of a chart are not read here", where=f"Application {name}", todo="valuesObject")
        values: Body = {}
        for file in value_files(source):
            values = _merged(values, yaml.safe_load((root / file).read_text()) or {})
        values = _merged(values, yaml.safe_load(helm.get("values", "")) or {})
        values = _merged(values, helm.get("valuesObject", {}))
        release, namespace = helm.get("releaseName", name), destination.get("namespace", "default")
        yield Chart(source["chart"], str(source["targetRevision"]), source["repoURL"], release, namespace, values)


def chart(given: Chart) -> str | Absent:
    """What Helm makes of a chart, its CRDs included; YardError if the archive is not the one that LOCK has."""
    with tempfile.TemporaryDirectory() as place:
        source = _module_chart(given, Path(place)) or _archive(given)
        if source is None:
            return Absent(str(given))
        (Path(place) / "values.yaml").write_text(yaml.safe_dump(given.values))
        command = ["template", given.release, str(source), "--namespace", given.namespace, "--include-crds"]
        command += ["--kube-version", versions()["kubernetes"], "--values", f"{place}/values.yaml"]
        return _run(
            "helm", *command, where=f"chart {given}", environment={"HELM_CONFIG_HOME": place, "HELM_CACHE_HOME": place}
        )


def _module_chart(given: Chart, place: Path) -> Path | None:
    """A chart that is made from its module: upstream's own release stamps the version into it, and no more."""
    component, path = CHARTS.get(given.name, ("", ""))
    if not component or given.version.removeprefix("v") != versions()[component]:
        return None
    source, copy = folder(component) / path, place / given.name
    for file in source.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(source)).write_bytes(file.read_bytes())
    about = copy / "Chart.yaml"
    about.write_text(re.sub(r"(?m)^(version|appVersion): .*", rf"\1: v{versions()[component]}", about.read_text()))
    return copy


def _archive(given: Chart) -> Path | None:
    archive = CACHE / f"{given.name}-{given.version}.tgz"
    known = _locked().get(f"{given.name} {given.version}")
    if known is None or not archive.exists():
        return None
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != known:
        told = f"its sha256 is {digest}, and tools/{LOCK.name} has {known}"
        raise YardError(told, where=f"chart {given}", todo="find out why before you remove the line there")
    return archive


def _locked() -> dict[str, str]:
    return yaml.safe_load(LOCK.read_text()) or {} if LOCK.exists() else {}


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Body:
    both = dict(one)
    for key, value in other.items():
        known = both.get(key)
        both[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def _run(tool: str, *arguments: str, where: str, environment: Mapping[str, str] | None = None) -> str:
    found = run(tool, *arguments, environment=environment)
    if found.returncode:
        raise YardError(
            found.stderr.strip().removeprefix("Error: "), where=where, todo=f"{tool} says so: mend it there"
        )
    return found.stdout


def run(
    tool: str, *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One of the locked tools; YardError if it has not been built."""
    binary = TOOLS / "bin" / tool
    if not binary.exists():
        raise YardError(f"no {tool}", where=f"{TOOLS.name}/bin", todo="make tools", code=Exit.NOT_FOUND)
    given = {**os.environ, **(environment or {})}
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, cwd=cwd, env=given)


def record(root: Path = ROOT) -> None:
    """Fetch all charts that Applications name, and write their digests into LOCK; YardError if one has changed."""
    known, found = _locked(), {}
    for given in (chart for body in applications(root) for chart in charts(body, root)):
        if given.name not in CHARTS:
            found[f"{given.name} {given.version}"] = _fetch(given, known)
    LOCK.write_text(f"# sha256 of the charts' archives; written by `make charts`\n{yaml.safe_dump(found)}")


def main() -> int:
    """Record the digests of the charts, and of the modules."""
    try:
        modules = [f"{module} v{versions()[component]}" for component, module in MODULES.items()]
        SUMS.write_text("".join(f"{module} {_download(module)['Sum']}\n" for module in modules))
        record()
    except YardError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    return 0


def _fetch(given: Chart, known: Mapping[str, str]) -> str:
    """The digest of a chart; one that is known already must not change."""
    oci = urlsplit(given.repo).scheme in ("", "oci")
    source = [f"oci://{given.repo.removeprefix('oci://')}/{given.name}"] if oci else [given.name, "--repo", given.repo]
    with tempfile.TemporaryDirectory() as place:
        _run("helm", "pull", *source, "--version", given.version, "--destination", place, where=f"chart {given}")
        (archive,) = Path(place).iterdir()
        content = archive.read_bytes()
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / f"{given.name}-{given.version}.tgz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    if known.get(f"{given.name} {given.version}", digest) != digest:
        raise YardError(f"its sha256 is {digest} now", where=f"chart {given}", todo="find out why: a version is final")
    return digest


if __name__ == "__main__":
    sys.exit(main())
