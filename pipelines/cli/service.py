"""`yard check` and `yard new`: an application repository before its first push."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines import config, platform
from pipelines.cli.addresses import checkout, home
from pipelines.errors import Exit, YardError

EXAMPLE = "digits"
IGNORED = "__pycache__/\n.venv/\n.pytest_cache/\n"


def check(path: Path) -> None:
    """Say what the platform would say to a push of this file or directory. Raises YardError about the first mistake."""
    file = path / config.FILE if path.is_dir() else path
    if not file.exists():
        raise YardError(
            "there is no such file", where=str(file), todo="yard new PATH writes a service", code=Exit.NOT_FOUND
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


def new(target: Path) -> None:
    """Write the directory `target`: the example service under another name, as a Git repository with one commit.

    Raises YardError, having written nothing.
    """
    root, target = checkout(), Path(os.path.abspath(target))  # noqa: PTH100 - `..` goes, symbolic links stay
    name = _name(target)
    if target.exists() or target.is_symlink():
        raise YardError("is there already", where=str(target), todo="choose another name", code=Exit.CONFLICT)
    if target.resolve().is_relative_to(root.resolve()):
        what = "lies in the platform's own repository; a service is a repository beside it"
        raise YardError(what, where=str(target), todo=f"yard new {_shown(root.parent / name)}")
    package = name.replace("-", "_")
    if package == "tests" or package in sys.stdlib_module_names or find_spec(package):
        what = f"the package {package!r} would hide another one of this name"
        raise YardError(what, where=name, todo=f"yard new {_shown(target.with_name(f'my-{name}'))}")
    known = platform.load(root / platform.FILE) if (root / platform.FILE).is_file() else None
    entry = next((entry for entry in known.services if entry.name == name), None) if known else None
    owner = known.releases.partition("/")[0] if known else "acme"
    repo, branch = (entry.repo, entry.branch) if entry else (f"{owner}/{name}", "main")
    draft = target.with_name(f".{name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(_example(), draft, ignore=_left_out)
        (draft / EXAMPLE).rename(draft / package)
        (draft / "tests" / f"test_{EXAMPLE}.py").rename(draft / "tests" / f"test_{package}.py")
        for path in draft.rglob("*"):
            if path.is_file():
                path.write_text(_renamed(path.read_text(), name, package))
        config.load(draft / config.FILE)
        (draft / ".gitignore").write_text(IGNORED)
        _repository(draft, branch, f"file://{home().resolve()}/git/{repo}.git")
        draft.replace(target)
    except OSError as error:
        raise YardError(f"cannot be written: {error.strerror}", where=str(target)) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _next_steps(root, target, branch, "" if entry else f"  - {{repo: {repo}, name: {name}}}")


def _name(target: Path) -> str:
    try:
        name: str = TypeAdapter(config.DnsLabel).validate_python(target.name)
    except ValidationError as error:
        context = error.errors()[0]["ctx"]
        better = context["todo"].removeprefix("write ").strip("'")
        raise YardError(context["what"], where="PATH", todo=f"yard new {_shown(target.with_name(better))}") from None
    return name


def _repository(folder: Path, branch: str, remote: str) -> None:
    """One commit by the user, by `trainyard` for who has told Git no name yet; the remote `solo`."""
    # in a hook GIT_* point at another repository
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*args: str) -> bool:
        # what the user set for their own commits, such as a signature that asks for a passphrase, is not for this one
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", *args]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        said.append(done.stderr)
        return done.returncode == 0

    said: list[str] = []
    nobody = ["-c", "user.name=trainyard", "-c", "user.email=trainyard@localhost"]
    if not (
        git("init", "--quiet")
        and git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        and git("remote", "add", "solo", remote)
        and git("add", "--all")
        and git(*([] if git("var", "GIT_COMMITTER_IDENT") else nobody), "commit", "--quiet", "-m", "A new service")
    ):
        raise YardError(f"git: {said[-1].strip()}", where=str(folder), code=Exit.FAILED)


def _next_steps(root: Path, target: Path, branch: str, line: str) -> None:
    shown, make = _shown(target), "make render" if root == Path.cwd() else f"make -C {_shown(root)} render"
    print(f"{shown} is a service that works at once: a Git repository with one commit.")
    print("To deploy it on this machine" + (f", add to `services:` in {_shown(root / platform.FILE)}" if line else ":"))
    if line:
        print(f"\n{line}\n\nand then\n\n  {make}\n  yard solo down && yard solo up", end="")
    print(f"\n  git -C {shown} push solo {branch}")


def _shown(path: Path) -> str:
    """As a user here would type it."""
    near = os.path.relpath(path)
    return shlex.quote(near if near.count("..") <= 1 else str(path))


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
