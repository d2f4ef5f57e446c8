"""Argo CD's directory source: every .yaml, .yml and .json file holds manifests; each field knows its line.

Helm charts, kustomizations and Jsonnet are refused; `render` is where they would go in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml

from solo.cd.git import Entry, SourceError
from solo.store import Object

MANIFESTS = (".yaml", ".yml", ".json")
TOOLS = {
    "kustomization.yaml": "kustomize",
    "kustomization.yml": "kustomize",
    "Kustomization": "kustomize",
    "Chart.yaml": "Helm",
}
SKIP = b"+argocd:skip-file-rendering"
MAX_NODES = 200_000  # a few lines of nested YAML aliases can stand for billions of nodes


class Manifest(NamedTuple):
    """One object of a file; `lines` has the line of each field."""

    object: Object
    file: str
    lines: Mapping[str, int]

    def place(self, field: str) -> str:
        """`file:line` of a field, or of the nearest field around it."""
        while field not in self.lines and field:
            field = re.sub(r"(\.|^)[^.\[\]]*$|\[\d+\]$", "", field)
        return f"{self.file}:{self.lines.get(field, 1)}"


def select(entries: Sequence[Entry], path: str) -> list[Entry]:
    """The files of a directory that hold manifests. Raises SourceError for what solo cannot render."""
    chosen = []
    for entry in entries:
        file = PurePosixPath(entry.path)
        if file.parent == PurePosixPath(path) and (tool := TOOLS.get(file.name)):
            raise SourceError(
                f"{entry.path}: solo does not run {tool}; render the manifests and commit them as plain YAML"
            )
        if file.suffix == ".jsonnet":
            raise SourceError(f"{entry.path}: solo does not run Jsonnet; commit the manifests as plain YAML")
        if entry.type == "submodule":
            raise SourceError(f"{entry.path}: solo does not read submodules")
        if file.suffix in MANIFESTS:
            if entry.type == "link":
                raise SourceError(f"{entry.path}: a symbolic link; solo reads plain files only")
            chosen.append(entry)
    return chosen


def render(files: Mapping[str, bytes]) -> list[Manifest]:
    """The manifests in these files. Raises SourceError with file:line."""
    return [manifest for file, data in files.items() if SKIP not in data for manifest in _parse(file, data)]


def _parse(file: str, data: bytes) -> Iterator[Manifest]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{file}:{line}: not UTF-8") from None
    documents = _json(file, text) if file.endswith(".json") else _yaml(file, text)
    for value, lines in documents:
        if value is None:
            continue
        manifest = Manifest(value, file, lines)
        if not isinstance(value, dict):
            raise SourceError(f"{manifest.place('')}: not a Kubernetes object")
        for field in ("apiVersion", "kind"):
            if not isinstance(value.get(field), str):
                raise SourceError(f"{manifest.place('')}: not a Kubernetes object: '{field}' is missing")
        yield manifest


def _json(file: str, text: str) -> Iterator[tuple[Any, Mapping[str, int]]]:
    def refuse(constant: str) -> None:
        raise SourceError(f"{file}:1: {constant} is not JSON")

    try:
        yield json.loads(text, parse_constant=refuse), {}
    except json.JSONDecodeError as error:
        raise SourceError(f"{file}:{error.lineno}: {error.msg}") from None
    except RecursionError:
        raise SourceError(f"{file}:1: nested too deeply") from None


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a date is text, so is 12:30, and 1e3 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":timestamp", ":value", ":int", ":float"))]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}


def _yaml(file: str, text: str) -> Iterator[tuple[Any, Mapping[str, int]]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            lines: dict[str, int] = {}
            yield _Reader(file, loader, lines).value(node, ""), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SourceError(f"{file}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SourceError(f"{file}:{line}: {error.reason}") from None
    except RecursionError:
        raise SourceError(f"{file}:1: nested too deeply") from None
    finally:
        loader.dispose()


class _Reader:
    """Turns a document's nodes into JSON values and notes the line of each."""

    def __init__(self, file: str, loader: _Loader, lines: dict[str, int]) -> None:
        self.file, self.loader, self.lines = file, loader, lines
        self.nodes = 0

    def value(self, node: yaml.Node, field: str) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(node, "too many nodes: are there aliases of aliases?")
        self.lines[field] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, field)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(item, f"{field}[{index}]") for index, item in enumerate(node.value)]
        if node.tag not in _SCALARS:
            raise self._error(node, f"the tag {node.tag} has no meaning in a manifest")
        try:
            value = self.loader.construct_object(node)
        except ValueError:
            raise self._error(node, f"{node.value!r} is not a number") from None
        if isinstance(value, float) and value - value != 0:
            raise self._error(node, f"{node.value} cannot be written as JSON")
        return value

    def _mapping(self, node: yaml.MappingNode, field: str) -> Object:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be text")
            if key.value in seen:
                raise self._error(key, f"the key {key.value!r} is given twice")
            seen.add(key.value)
        self.loader.flatten_mapping(node)
        result = {}
        for key, item in node.value:
            inner = f"{field}.{key.value}" if field else str(key.value)
            result[str(key.value)] = self.value(item, inner)
            self.lines[inner] = key.start_mark.line + 1
        return result

    def _error(self, node: yaml.Node, message: str) -> SourceError:
        return SourceError(f"{self.file}:{node.start_mark.line + 1}: {message}")
