"""`yard demo`: a push becomes a deployed model that answers; a worse one is stopped. The same commands a user would
type, and shown as such.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import Exit, YardError

SERVICE, REPO = "digits", "acme/digits"
CHECKOUT = Path(__file__).parents[2]
WORSE = (r"\bhidden: *\d+", "hidden: 1")
VENV = ".venv"  # the Makefile's
SHADES = " ░▒▓█"


def demo(home: Path) -> None:
    """Run the whole story on solo. Raises YardError if any part of it does not happen as told."""
    started = time.monotonic()
    _say("Start the platform on this machine", "yard solo up")
    _run([_yard(), "solo", "up"], quiet=True)
    endpoints = json.loads((home / "solo.json").read_text())["endpoints"]
    print(f"  it answers at {endpoints['ARGO_URL']}; its state is in {_short(home)}")
    folder = home / "demo" / SERVICE
    _repository(folder, f"{endpoints['GIT_URL']}/{REPO}.git")
    push = f"git -C {_short(folder)} push origin HEAD:main"
    _say(f"Push a model service: a copy of examples/{SERVICE}", push)
    _git(folder, "push", "origin", "HEAD:main")
    address = f"{endpoints['SERVING_URL'].format(service=SERVICE, namespace=f'{SERVICE}-dev')}/v2/models/{SERVICE}"
    image, truth = _held_out(endpoints, home, _head(folder))
    request = home / "demo" / "digit.json"
    answer, version = _predict(address, image, request)
    elapsed = time.monotonic() - started
    _say("Ask it about a digit it has never seen", f"curl -L {address}/infer \\\n    -d @{_short(request)}")
    print(picture(image))
    print(f"  model v{version} says {answer}; the label is {truth}   ({elapsed:.0f} s after the start)")
    _say("Push a change that makes it worse: one hidden unit", push)
    _worsen(folder)
    _git(folder, "push", "origin", "HEAD:main")
    _refused(_head(folder))
    again, same = _predict(address, image, request)
    if same != version:
        raise YardError(f"model v{same} serves, v{version} should", code=Exit.BUG)
    print(f"\n  the worse model was stopped; model v{same} still serves and says {again}")
    print(
        f"""
What to try next, after `. {VENV}/bin/activate`:
  yard runs                  what ran; `yard logs RUN` prints what it printed
  yard trace {_head(folder)[:12]}    why this commit is not out
  yard models                what is registered, and what serves
  yard new ../NAME           a service of your own
  yard solo down             stop everything
or change something in {_short(folder)}, commit, and `git push`"""
    )


def picture(pixels: list[float]) -> str:
    """An 8×8 digit with values 0…16 as five shades, two characters a pixel."""
    rows = [pixels[start : start + 8] for start in range(0, 64, 8)]
    shade = [[SHADES[min(int(value / 16 * len(SHADES)), len(SHADES) - 1)] * 2 for value in row] for row in rows]
    return "\n".join("    " + "".join(row) for row in shade)


def _repository(folder: Path, remote: str) -> None:
    """The example as a repository of its own, with history if it was pushed before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git(folder.parent, "clone", "--quiet", remote, folder.name, quiet=True)
    tracked = _tracked(CHECKOUT / "examples" / SERVICE)
    _git(folder, "rm", "-r", "--quiet", "--ignore-unmatch", ".")
    for path in tracked:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "examples" / SERVICE / path, target)
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--allow-empty", "-m", "Digits")


def _tracked(example: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=example, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return listed.stdout.splitlines()
    return [
        str(path.relative_to(example))
        for path in example.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _worsen(folder: Path) -> None:
    file = folder / "mlops.yaml"
    text, count = re.subn(*WORSE, file.read_text())
    if count != 1:
        raise YardError("no parameter `hidden` to change", where=str(file), code=Exit.BUG)
    file.write_text(text)
    _git(folder, "commit", "--quiet", "--all", "-m", "One hidden unit is enough")


def _refused(sha: str) -> None:
    """Raises YardError unless it was the gate that stopped this commit."""
    from pipelines.cli.addresses import find
    from pipelines.cli.argo import Argo
    from pipelines.cli.runs import all_runs

    gates = [run.step("gate") for run in all_runs(Argo(find("")), sha=sha) if run.pipeline == "ct"]
    decision = gates[0].decision() if gates and gates[0] else None
    if decision is None or decision.accepted:
        raise YardError("the gate did not stop the worse model", todo=f"yard trace {sha[:12]}", code=Exit.FAILED)


def _held_out(endpoints: dict[str, str], home: Path, sha: str) -> tuple[list[float], str]:
    """A row of the registered test part of what serves now, and its label."""
    from pipelines.evaluate import load_split
    from pipelines.registry import open_registry

    credentials = json.loads((home / "solo.json").read_text())["registry_credentials"]
    registry = open_registry({**endpoints, "REGISTRY_CREDENTIALS": credentials})
    alias = registry.get_alias(SERVICE, "serving")
    if alias is None or registry.get_lock(alias.lock).sha != sha:
        raise YardError("what was pushed does not serve", todo=f"yard trace {sha[:12]}", code=Exit.FAILED)
    with tempfile.TemporaryDirectory() as directory:
        registry.fetch_tree(registry.get_lock(alias.lock).versions["feature"].digest, Path(directory) / "features")
        x, y, _ = load_split(Path(directory) / "features" / "test.npz")
    row = int(np.random.default_rng().integers(len(x)))
    return [float(value) for value in x[row]], str(y[row])


def _predict(address: str, image: list[float], file: Path) -> tuple[str, str]:
    """The label and the version of the model that gave it; the request is left in `file`, for curl."""
    found = urllib.request.urlopen(address, timeout=10)  # noqa: S310 - loopback
    metadata: Any = json.loads(found.read())
    tensor = metadata["inputs"][0]
    body = {
        "inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": [1, len(image)], "data": image}]
    }
    file.write_text(json.dumps(body))
    request = urllib.request.Request(  # noqa: S310
        f"{found.url}/infer", file.read_bytes(), {"Content-Type": "application/json"}
    )
    answer: Any = json.loads(urllib.request.urlopen(request, timeout=10).read())  # noqa: S310
    label = next(output for output in answer["outputs"] if output["name"] == "label")["data"][0]
    return str(label), str(answer["model_version"])


def _say(title: str, command: str) -> None:
    print(f"\n\033[1m{title}\033[0m\n$ {command}" if sys.stdout.isatty() else f"\n{title}\n$ {command}", flush=True)


def _short(path: Path) -> str:
    """As a user here would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _yard() -> str:
    return str(Path(sys.executable).with_name("yard"))


def _head(folder: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def _git(folder: Path, *args: str, quiet: bool = False) -> None:
    identity = {"GIT_AUTHOR_NAME": "you", "GIT_AUTHOR_EMAIL": "you@localhost"}
    env = {**os.environ, **identity, "GIT_COMMITTER_NAME": "you", "GIT_COMMITTER_EMAIL": "you@localhost"}
    _run(["git", "-c", "init.defaultBranch=main", *args], cwd=folder, env=env, quiet=quiet)


def _run(
    command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, quiet: bool = False
) -> None:
    shown = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=cwd, env=env, stdout=shown, stderr=shown, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr or "", file=sys.stderr, end="")
        code = (
            Exit(done.returncode) if done.returncode in (Exit.INVALID, Exit.CONFLICT, Exit.UNAVAILABLE) else Exit.FAILED
        )
        said = f"`{' '.join([Path(command[0]).name, *command[1:4]])}` ended with {done.returncode}"
        raise YardError(said, todo="see the lines above", code=code)
