"""`python -m pipelines.templates.validate [ROOT]`: what upstream's own validators say of every manifest.

Looked at are all folders that Argo CD may read: one with a kustomization.yaml as kustomize makes it, each other YAML
file as it is, the charts of Applications as Helm makes them, the Workflows inside Sensors, and what a release of each
service would put into Git. Asked are Argo Workflows (its offline lint), Argo Events, and kubeconform with the schemas
of Kubernetes and of all CRDs.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.errors import YardError
from pipelines.templates import lint, schemas, upstream
from pipelines.templates.render import ROOT
from pipelines.templates.upstream import Absent

Body = dict[str, Any]
KUSTOMIZATION = "kustomization.yaml"


class Source(NamedTuple):
    """Text of YAML documents, and where it comes from."""

    where: str
    text: str

    def objects(self) -> list[Body]:
        return upstream.documents(self.text, self.where)


class Problem(NamedTuple):
    where: str
    what: str
    tool: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} [{self.tool}]"


def plain(root: Path) -> Iterator[Source]:
    """The manifests that stand in files of their own: no kustomization's, and no values of a chart."""
    charts = [source for body in upstream.applications(root) for source in upstream.chart_sources(body)]
    values = {name for source in charts for name in upstream.value_files(source)}
    for folder in upstream.FOLDERS:
        for path in sorted((root / folder).rglob("*.yaml")):
            inside = path.relative_to(root)
            part = any((root / parent / KUSTOMIZATION).exists() for parent in inside.parents)
            if not part and inside.as_posix() not in values:
                yield Source(inside.as_posix(), path.read_text())


def built(root: Path) -> Iterator[Source | Absent]:
    """Each folder with a kustomization; a component, or a folder in the one that names it, is a part of others."""
    files = sorted(path for folder in upstream.FOLDERS for path in (root / folder).rglob(KUSTOMIZATION))
    parts = {path.parent / name for path in files for name in upstream.named(path) if not name.startswith("..")}
    for path in files:
        if path.parent in parts or "kind: Component\n" in path.read_text():
            continue
        made = upstream.build(path.parent, root)
        yield made if isinstance(made, Absent) else Source(path.parent.relative_to(root).as_posix(), made)


def sources(root: Path = ROOT) -> Iterator[Source | Absent]:
    yield from plain(root)
    yield from built(root)
    for body in upstream.applications(root):
        for chart in upstream.charts(body, root):
            made = upstream.chart(chart)
            yield made if isinstance(made, Absent) else Source(f"chart {chart.name} {chart.version}", made)
    for manifest in lint.load().manifests:
        if manifest.file.startswith(lint.RELEASES):
            yield Source(manifest.file, yaml.safe_dump(manifest.body))


def inner(source: Source) -> Iterator[Source]:
    """The objects that Sensors of it would create."""
    if "kind: Sensor\n" not in source.text:
        return
    for body in source.objects():
        for trigger in body.get("spec", {}).get("triggers", []) if body.get("kind") == "Sensor" else []:
            template = trigger.get("template", {})
            for kind in ("k8s", "argoWorkflow"):
                resource = template.get(kind, {}).get("source", {}).get("resource")
                if resource:
                    yield Source(f"{source.where} (trigger {template['name']})", yaml.safe_dump(resource))


def problems(given: Iterable[Source]) -> Iterator[Problem]:
    """What the validators find; YardError if one of them cannot be asked."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        where: dict[str, str] = {}
        for source in given:
            for each in (source, *inner(source)):
                file = f"{len(where):04}.yaml"
                (place / file).write_text(each.text)
                where[file] = each.where
        for tool in ("workflows", "events"):
            for line in _told(tool, *where, cwd=place, codes=(0, 1)).splitlines():
                file, _, what = line.partition(": ")
                if file in where:
                    yield Problem(where[file], what, f"argo-{tool}")
                else:  # a message of several lines
                    yield Problem("", line, f"argo-{tool}")
        location = f"{schemas.folder()}/{schemas.LOCATION}"
        told = _told(
            "kubeconform", "-strict", "-output=json", "-schema-location", location, ".", cwd=place, codes=(0, 1)
        )
        for found in json.loads(told)["resources"]:
            # its list of errors has the outermost ones only; its message has them all, and what "failed" has inner ones
            details = re.findall(r"- at '([^']*)': (.*?)(?= +- at '|$)", found["msg"])
            leaves = [f"{path}: {what}" for path, what in details if not what.endswith(" failed")]
            for what in leaves or [found["msg"]]:
                named = f"{found['kind']} {found['name']}".strip()
                yield Problem(where[Path(found["filename"]).name], f"{named}: {what}", "kubeconform")


def _told(tool: str, *arguments: str, cwd: Path, codes: tuple[int, ...]) -> str:
    found = upstream.run(tool, *arguments, cwd=cwd)
    if found.returncode not in codes or (found.returncode and not found.stdout):
        raise YardError(found.stderr.strip(), where=tool, todo="make tools")
    return found.stdout


def main(argv: list[str]) -> int:
    """Exit code 1 if something is wrong, and says what; what could not be looked at is named too."""
    try:
        found = list(sources(Path(argv[0]).resolve() if argv else ROOT))
        wrong = list(problems(each for each in found if isinstance(each, Source)))
    except YardError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    for each in found:
        if isinstance(each, Absent):
            print(f"not checked here: {each.what}")
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
