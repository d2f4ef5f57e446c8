"""YAML files that people write, read strictly: what is wrong is named with file, line and field, and what to do next.

Words without quotes mean what YAML 1.2 says. A word that YAML 1.1 (still what most programs read) takes for something
else is refused, so that nobody has to know the difference: `yes`, `010`, `1_000`. Numbers such as `1e-05`, which Python
prints and YAML 1.1 takes for text, are numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pipelines.errors import Exit, YardError

LIMIT = 64 * 1024  # bytes of a file
NODES = 10_000  # values in a file, aliases written out: nine lines of aliases can stand for a billion values
DEPTH = 20


class Strict(BaseModel):
    """A part of a document: no unknown keys, no conversion between types, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AnyModel = TypeVar("AnyModel", bound=BaseModel)
Location = tuple[int | str, ...]


def read(source: Path | str, model: type[AnyModel], name: str) -> AnyModel:
    """The file at a Path, or a text, as `model`; `name` stands for the file in messages.

    Raises YardError (INVALID, or NOT_FOUND for a missing file) about the first thing that is wrong.
    """
    root = _compose(source if isinstance(source, str) else _text(source, name), name)
    try:
        return model.model_validate(_Plain(name).value(root))
    except ValidationError as error:
        faults = _faults(error, root, model)
        first, rest = faults[0], len(faults) - 1
        more = f" ({rest} more {'mistake' if rest == 1 else 'mistakes'} in this file)" if rest else ""
        raise YardError(first.what, where=f"{name}:{first.line}{first.field}", todo=first.todo + more) from None


def mistake(what: str, todo: str, *at: str) -> PydanticCustomError:
    """What a validator raises: the fault, the next step, the keys that lead from the validated value to the fault."""
    return PydanticCustomError("mistake", "{what}", {"what": what, "todo": todo, "at": at})


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence that leads from a wrong word to a right one."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"


def _text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise YardError(
            "there is no such file", where=name, todo="is this the right directory?", code=Exit.NOT_FOUND
        ) from None
    except OSError as error:
        raise YardError(f"cannot be read: {error.strerror}", where=name) from None
    if len(content) > LIMIT:
        raise _too_large(name)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise YardError("not UTF-8 text", where=f"{name}:{line}", todo="save the file as UTF-8") from None


def _too_large(name: str) -> YardError:
    return YardError(f"larger than {LIMIT // 1024} KiB", where=name, todo="keep data in data files, not here")


class _TagError(yaml.MarkedYAMLError):
    pass


class _Composer(yaml.SafeLoader):
    """PyYAML's composer, which refuses tags while it still knows which were written."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _TagError(problem=event.tag.replace("tag:yaml.org,2002:", "!!"), problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _compose(text: str, name: str) -> yaml.Node:
    if len(text.encode(errors="replace")) > LIMIT:
        raise _too_large(name)
    try:
        root: yaml.Node | None = _Composer(text).get_single_node()
    except _TagError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = _printable(f"the tag {error.problem}: tags are not read here")
        raise YardError(what, where=f"{name}:{line}", todo="write the value without it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = f"not YAML: {error.problem or error.context}"
        raise YardError(what, where=f"{name}:{line}", todo="is the indentation right, and are quotes closed?") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise YardError("a character that YAML forbids", where=f"{name}:{line}", todo="remove it") from None
    except RecursionError:
        raise YardError(f"nested deeper than {DEPTH} levels", where=name, todo="make it flatter") from None
    except (ValueError, OverflowError):  # PyYAML's scanner on an escape such as "\UFFFFFFFF"
        raise YardError("not YAML: an escape in quotes that stands for no character", where=name) from None
    if not isinstance(root, yaml.MappingNode):
        what = "the file is empty" if root is None else "the file must be a mapping (key: value)"
        raise YardError(what, where=f"{name}:1", todo="write one `key: value` a line")
    return root


class _Plain:
    """Nodes to plain data."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def value(self, node: yaml.Node, depth: int = 0, field: str = "") -> Any:
        self.count += 1
        if self.count > NODES:
            raise self._error(node, field, f"more than {NODES} values, aliases written out", "use fewer aliases")
        if depth > DEPTH:  # an alias to a node that it is part of ends here too
            raise self._error(node, field, f"nested deeper than {DEPTH} levels", "make it flatter")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth, field)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1, f"{field}[{i}]") for i, item in enumerate(node.value)]
        return self._scalar(node, field)

    def _mapping(self, node: yaml.MappingNode, depth: int, field: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, field, "a key must be a single word", "write `key: value`")
            key = key_node.value
            inner = f"{field}.{key}" if field else key
            if key == "<<":
                raise self._error(key_node, inner, "merge keys are not read here", "write the keys out")
            if key in found:
                raise self._error(key_node, inner, f"given twice, first in line {lines[key]}", "remove one of the two")
            self._no_template(key_node, inner)
            lines[key] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, depth + 1, inner)
        return found

    def _scalar(self, node: yaml.Node, field: str) -> Any:
        self._no_template(node, field)
        text: str = node.value
        if node.style is not None:  # type: ignore[attr-defined]
            return text
        value = _core(text)
        if not _same_everywhere(text, value, node.tag.rpartition(":")[2]):
            todo = "write true or false" if node.tag.endswith(":bool") else "write a plain number"
            raise self._error(
                node,
                field,
                f"`{text}` means different things to different YAML readers",
                f'{todo}, or "{text}" in quotes',
            )
        return value

    def _no_template(self, node: yaml.Node, field: str) -> None:
        """Values travel as Workflow parameters, in which Argo would replace such a tag."""
        if "{{" in node.value:
            raise self._error(node, field, "`{{` would be taken for a template tag by Argo", "write it another way")

    def _error(self, node: yaml.Node, field: str, what: str, todo: str) -> YardError:
        where = f"{self.name}:{node.start_mark.line + 1}"
        return YardError(what, where=f"{where}: {_printable(field)}" if field else where, todo=_printable(todo))


# scalars of YAML 1.2's core schema (chapter 10.3.2), all else is text
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _core(text: str) -> bool | int | float | str | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 100:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _same_everywhere(text: str, value: object, tag: str) -> bool:
    """Whether YAML 1.1 (its `tag`) reads the word as we do, leaving out what only we read as a number, and dates."""
    if re.fullmatch(r"[-+]?0[0-9]+|0o[0-7]+", text):
        return False  # octal to some, decimal to others
    own = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}[type(value)]
    return own == tag or (own, tag) in {
        ("float", "str"),
        ("float", "int"),
        ("str", "timestamp"),
        ("str", "value"),
        ("str", "merge"),
    }


class _Fault(NamedTuple):
    line: int
    field: str
    what: str
    todo: str


def _faults(error: ValidationError, root: yaml.Node, model: type[BaseModel]) -> list[_Fault]:
    """What is wrong, in the order of the file; a key that is missing because it is misspelt is told once."""
    found = error.errors(include_url=False)
    unknown = [details["loc"] for details in found if details["type"] == "extra_forbidden"]

    def misspelt(loc: Location) -> bool:
        return any(loc[:-1] == u[:-1] and difflib.get_close_matches(str(u[-1]), [str(loc[-1])]) for u in unknown)

    told = [d for d in found if d["type"] != "missing" or not misspelt(d["loc"])]
    # what is there and wrong comes before what is not there: it may be the reason
    ranked = sorted(told, key=lambda details: (details["type"] == "missing", _line_of(details, root)))
    return [_fault(details, root, model) for details in ranked]


def _location(details: ErrorDetails) -> Location:
    at: Location = (details.get("ctx") or {}).get("at", ())
    return (*(part for part in details["loc"] if part != "[key]"), *at)


def _line_of(details: ErrorDetails, root: yaml.Node) -> int:
    return _line(root, _location(details), at_key=details["type"] == "extra_forbidden")


def _fault(details: ErrorDetails, root: yaml.Node, model: type[BaseModel]) -> _Fault:
    kind, loc = details["type"], _location(details)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    what, todo = _words(kind, details.get("ctx") or {}, details["input"], loc, model)
    return _Fault(
        _line_of(details, root), _printable(f": {field}") if field else "", _printable(what), _printable(todo)
    )


def _words(kind: str, context: dict[str, Any], value: Any, loc: Location, model: type[BaseModel]) -> tuple[str, str]:
    if kind == "mistake":
        return context["what"], context["todo"]
    if kind == "extra_forbidden":
        return "unknown key", suggest(str(loc[-1]), _keys(model, loc[:-1]))
    if kind == "missing":
        return "is missing", f"add `{loc[-1]}:`"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {_show(value)}", "write one of these"
    if kind in _EXPECTED:
        fix = (
            f'put it in quotes: "{_show(value)}"'
            if kind == "string_type" and _is_scalar(value)
            else f"write {_EXPECTED[kind]}"
        )
        return f"expected {_EXPECTED[kind]}, got {_show(value)}", fix
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]}, got {_show(value)}", "change the value"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        least = "min_length" in context
        size = context["min_length"] if least else context["max_length"]
        return (
            f"must have {'at least' if least else 'at most'} {size} {'characters' if 'string' in kind else 'entries'}",
            "change the value",
        )
    if kind == "finite_number":
        return f"must be a finite number, got {_show(value)}", "write a number"
    return f"not valid: {kind.replace('_', ' ')}", "see `yard check --schema`"


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _show(value: Any) -> str:
    """A value as it would be written in YAML, short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value)[:60] if isinstance(value, str) else f"{value}"[:60]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in text)[:300]


def _line(root: yaml.Node, loc: Location, *, at_key: bool) -> int:
    """The line (from 1) of the value at `loc`, or of the last part of it that exists."""
    node, line = root, root.start_mark.line
    for depth, part in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            key, node = pair
            # a mapping or a list begins below its key: the key is what a person looks for
            last = depth == len(loc) - 1
            line = (key if (at_key and last) or not isinstance(node, yaml.ScalarNode) else node).start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _keys(model: type[BaseModel], loc: Location) -> list[str]:
    """The keys that a document of this model may have at `loc`."""
    schema = model.model_json_schema()
    here: dict[str, Any] = schema
    for part in loc:
        here = (
            here.get("items", {})
            if isinstance(part, int)
            else here.get("properties", {}).get(part) or here["additionalProperties"]
        )
        here = next((option for option in here.get("anyOf", ()) if "$ref" in option), here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
    return list(here.get("properties", {}))
