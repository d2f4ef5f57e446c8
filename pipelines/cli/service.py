"""`yard check` and `yard new`: an application repository before its first push."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines import config, platform
from pipelines.cli.addresses import checkout
from pipelines.errors import Exit, YardError

EXAMPLE = "digits"


def check(path: Path) -> None:
    """Say what the platform would say to a push of this file or directory. Raises YardError about the first mistake."""
    file = path / config.FILE if path.is_dir() else path
    if not file.exists():
        raise YardError(
            "there is no such file", where=str(file), todo="yard new NAME writes a service", code=Exit.NOT_FOUND
        )
    found = config.load(file, str(file))
    if not (file.parent / found.dockerfile).is_file():
        todo = "add it to the repository, or correct `dockerfile:`"
        raise YardError(f"there is no file {found.dockerfile!r}", where=f"{file}: dockerfile", todo=todo)
    bounds = ", ".join(
        f"{name} {'≥' if bound.min is not None else '≤'} {bound.min if bound.min is not None else bound.max:g}"
        for name, bound in found.gate.metrics.items()
    )
    print(f"{file} is valid")
    print(f"  service {found.service}, data {found.data.name}, seed {found.seed}, {len(found.params)} parameters")
    print(f"  serves if {bounds} on at least {found.gate.samples} samples")


def new(name: str, parent: Path) -> None:
    """Write `parent/name`: the example service under another name. Raises YardError, having written nothing."""
    try:
        TypeAdapter(config.DnsLabel).validate_python(name)
    except ValidationError as error:
        context = error.errors()[0]["ctx"]
        raise YardError(
            context["what"], where="NAME", todo=f"yard new {context['todo'].removeprefix('write ')}"
        ) from None
    source, target = _example(), parent / name
    if target.exists():
        raise YardError("is there already", where=str(target), todo="choose another name", code=Exit.CONFLICT)
    package = name.replace("-", "_")
    if package == "tests" or package in sys.stdlib_module_names or find_spec(package):
        what = f"the package {package!r} would hide another one of this name"
        raise YardError(what, where="NAME", todo=f"yard new my-{name}")
    draft = target.with_name(f".{name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=_left_out)
    (draft / EXAMPLE).rename(draft / package)
    for path in draft.rglob("*"):
        if path.is_file():
            path.write_text(_renamed(path.read_text(), name, package))
    config.load(draft / config.FILE)
    draft.replace(target)
    print(f"{name}/ is a working service: edit {package}/ and {config.FILE}, then `yard check {name}`")
    print(
        f"  → add `- {{repo: acme/{name}, name: {name}}}` to `services:` in {checkout() / platform.FILE}, `make render`"
    )


def _left_out(folder: str, names: list[str]) -> list[str]:
    """What programs keep beside the files of a person: .git, .venv, caches."""
    return [name for name in names if name.startswith((".", "__pycache__")) and (Path(folder) / name).is_dir()]


def _renamed(text: str, name: str, package: str) -> str:
    """The service's name and the package's, where they are names: prose and scikit-learn's load_digits stay."""
    text = re.sub(rf"(?m)^(# |service: |  name: ){EXAMPLE}$", rf"\g<1>{name}", text)
    text = re.sub(rf'(?<=name="){EXAMPLE}(?=")', name, text)
    text = re.sub(rf"(?<!\S)((?:from|import|-m) ){EXAMPLE}\b", rf"\g<1>{package}", text)
    return re.sub(rf"`{EXAMPLE}/", f"`{package}/", text)


def _example() -> Path:
    """examples/digits of the checkout around the working directory, else of the one that this program runs from."""
    for root in (checkout(), Path(__file__).parents[2]):
        if (root / "examples" / EXAMPLE / config.FILE).is_file():
            return root / "examples" / EXAMPLE
    todo = "run this inside a checkout of the platform"
    raise YardError(f"the example service examples/{EXAMPLE} is not here", todo=todo, code=Exit.NOT_FOUND)
