"""What makes a typed function a step: its signature declares inputs and outputs, for the runner and for the templates
alike.

A keyword parameter of type `str` is an Argo input parameter; `InputPath` and `OutputPath` are artifacts. The function
returns a
`TypedDict` (or None) whose keys are the output parameters. The runner (`python -m pipelines.steps NAME --key=value
…`) writes each of them
to `<outputs>/<key>`, where the template says Argo will look.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pipelines.errors import Exit, YardError

InputPath = Annotated[Path, "input"]
OutputPath = Annotated[Path, "output"]

OUTPUTS = "/tmp/outputs"  # noqa: S108 - inside the container
INPUTS = "/tmp/inputs"  # noqa: S108


class Signature(NamedTuple):
    """What a step takes and gives, by Argo's names: parameters, artifacts in, artifacts out, output parameters."""

    parameters: list[str]
    inputs: list[str]
    outputs: list[str]
    results: list[str]


class StepFailedError(YardError):
    """A failure that still has something to hand over: `results` are written as output parameters before the step
    exits.

    Argo stores the outputs of a failed container as it does those of a good one, so the gate's decision is there to
    be read.
    """

    def __init__(self, what: str, *, results: dict[str, str], where: str = "", todo: str = "", code: Exit) -> None:
        super().__init__(what, where=where, todo=todo, code=code)
        self.results = results


Step = Callable[..., Any]
STEPS: dict[str, Step] = {}


def step(function: Step) -> Step:
    """Register a function as the step of its own name (underscores become dashes)."""
    STEPS[function.__name__.replace("_", "-")] = function
    return function


def signature(function: Step) -> Signature:
    """Read a step's inputs and outputs from its annotations. Raises TypeError for a type that a step cannot have."""
    hints = get_type_hints(function, include_extras=True)
    result = hints.pop("return", type(None))
    found = Signature([], [], [], list(get_type_hints(result)) if result is not type(None) else [])
    for name in inspect.signature(function).parameters:
        kind = hints[name]
        if kind is str:
            found.parameters.append(name)
        elif get_origin(kind) is Annotated and get_args(kind)[0] is Path:
            (found.inputs if get_args(kind)[1] == "input" else found.outputs).append(name)
        else:
            raise TypeError(f"{function.__name__}({name}): a step takes str, InputPath or OutputPath, not {kind}")
    return found


def run(argv: list[str]) -> int:
    """Run one step from its command line and return its exit code (see `pipelines.errors.Exit`)."""
    name, *rest = argv or [""]
    outputs = Path()
    try:
        if name not in STEPS:
            raise YardError(f"no step {name!r}", todo=f"one of {', '.join(sorted(STEPS))}", code=Exit.USAGE)
        function = STEPS[name]
        wanted = signature(function)
        given = _arguments(rest)
        outputs = Path(given.pop("outputs", ""))
        names = [*wanted.parameters, *wanted.inputs, *wanted.outputs]
        if set(given) != set(names):
            odd = sorted(set(given) ^ set(names))
            raise YardError(f"step {name}: missing or unknown argument {', '.join(odd)}", code=Exit.USAGE)
        paths = {*wanted.inputs, *wanted.outputs}
        result = function(**{key: Path(value) if key in paths else value for key, value in given.items()})
        _write(outputs, result or {})
    except YardError as error:
        if isinstance(error, StepFailedError):
            _write(outputs, error.results)
        print(error, file=sys.stderr)
        return error.code
    except Exception:
        traceback.print_exc()
        print(f"step {name}: this is a bug in the platform, please report it with the lines above", file=sys.stderr)
        return Exit.BUG
    return Exit.OK


def _write(outputs: Path, results: dict[str, str]) -> None:
    for key, value in results.items():
        outputs.mkdir(parents=True, exist_ok=True)
        (outputs / key).write_text(value)


def _arguments(argv: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in argv:
        match = re.fullmatch(r"--([a-z_]+)=(.*)", word, re.DOTALL)
        if not match or match[1] in given:
            raise YardError(f"expected --name=value once each, got {word[:80]!r}", code=Exit.USAGE)
        given[match[1]] = match[2]
    return given
