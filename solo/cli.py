"""`yard solo up | down | status | support` and `yard event simulate`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from solo import support
from solo.daemon import FOLDERS, locked, serve
from solo.events import RefusedError, simulate
from solo.manifests import ManifestError, load

app = typer.Typer(help="The platform on this machine: no cluster, no Docker, no cloud account.", no_args_is_help=True)
event_app = typer.Typer(help="What an event would start.", no_args_is_help=True)
START = 30.0  # seconds that `up` waits
STOP = 30.0  # seconds that `down` waits

Home = Annotated[Path | None, typer.Option("--home", envvar="TRAINYARD_HOME", help="Where solo keeps its state.")]


@app.command()
def up(
    home: Home = None,
    any_port: Annotated[
        bool, typer.Option("--any-port", envvar="TRAINYARD_ANY_PORT", help="Take free ports, not the usual ones.")
    ] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and print what happens.")] = False,
) -> None:
    """Start solo, unless it runs already; what was pushed meanwhile is picked up."""
    root = _root()
    where = _home(home)
    if _pid(where):
        print(f"solo is up already (pid {_pid(where)})")
        return
    if foreground:
        raise typer.Exit(serve(where, root, any_port=any_port, progress=_progress()))
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [
        sys.executable,
        "-m",
        "solo",
        "up",
        "--foreground",
        "--home",
        str(where),
        *(["--any-port"] if any_port else []),
    ]
    log = where / "solo.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START
    while not _pid(where):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.stderr.write(log.read_text())
            sys.stderr.write(f"solo did not start; its output is in {log}\n")
            raise typer.Exit(process.poll() or 6)
        time.sleep(0.02)
    print(log.read_text(), end="")
    print(f"solo is up (pid {_pid(where)}, state in {where})")


@app.command()
def down(home: Home = None) -> None:
    """Stop solo and every process it started. Nothing is lost: `up` goes on where this stopped."""
    where = _home(home)
    pid = _pid(where)
    if not pid:
        print("solo is not running")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP
    while locked(where):
        if time.monotonic() > deadline:
            sys.stderr.write(f"solo (pid {pid}) does not stop\n  → see {where / 'solo.log'}\n")
            raise typer.Exit(6)
        time.sleep(0.02)
    print("solo is down")


@app.command()
def status(home: Home = None) -> None:
    """Whether solo is up, its addresses, and what is deployed. Exit code 4 if it is not up."""
    where = _home(home)
    pid = _pid(where)
    if not pid:
        print(f"solo is not running (state in {where})\n  → yard solo up")
        raise typer.Exit(4)
    print(f"solo is up (pid {pid}, state in {where})")
    for key, value in _state(where)["endpoints"].items():
        print(f"  {key:<16}{value}")
    for line in _deployed(_state(where)["endpoints"]["KUBERNETES_URL"]):
        print(line)


@app.command("support")
def support_(
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/support.md holds it.")] = False,
) -> None:
    """What solo makes of each manifest field: honoured, noted or refused."""
    if markdown:
        print(_markdown(), end="")
        return
    table = Table("kinds", "verdict", "field", "why", box=None, header_style="bold")
    for row in support.table():
        table.add_row(*row)
    Console().print(table)


@event_app.command("simulate")
def simulate_(
    file: Annotated[
        Path, typer.Argument(help='JSON: {"source", "event", "headers", "body"}; or a bare GitHub push payload.')
    ],
) -> None:
    """Which Sensor would fire for a saved payload, why or why not, and the exact Workflow it would create. Starts
    nothing.
    """
    try:
        saved: Any = json.loads(file.read_text())
    except OSError as error:
        _fail(f"{file}: {error.strerror}", 4)
    except (ValueError, RecursionError) as error:
        _fail(f"{file}: not JSON: {error}\n  → GitHub shows a webhook's payloads under Recent Deliveries", 3)
    if not isinstance(saved, dict):
        _fail(f"{file}: not a JSON object", 3)
    if not isinstance(saved.get("headers", {}), dict):
        _fail(f"{file}: headers: not a JSON object", 3)
    if "body" not in saved:
        saved = {
            "source": "github",
            "event": "push",
            "headers": {"X-GitHub-Event": "push", "X-GitHub-Delivery": "simulated"},
            "body": saved,
        }
    try:
        objects = [manifest.object for manifest in load(_root(), FOLDERS)]
    except ManifestError as error:
        _fail(str(error), 3)
    try:
        verdicts = simulate(
            [obj for obj in objects if obj["kind"] == "EventSource"],
            [obj for obj in objects if obj["kind"] == "Sensor"],
            saved.get("source", "github"),
            saved.get("event", "push"),
            saved.get("headers", {}),
            saved["body"],
        )
    except (ValueError, RefusedError) as error:
        _fail(f"{file}: {error}", 3)
    if not verdicts:
        print("no Sensor waits for this event")
    for verdict in verdicts:
        print(verdict.text())


def _markdown() -> str:
    lines = [
        "# What solo makes of each manifest field",
        "",
        "Generated by `yard solo support --markdown` (`make render`). Any other field is refused before anything runs.",
        "",
        "| kinds | verdict | field | why |",
        "| --- | --- | --- | --- |",
        *(f"| {kinds} | {verdict} | `{field}` | {why} |" for kinds, verdict, field, why in support.table()),
    ]
    return "\n".join(lines) + "\n"


def _deployed(kubernetes: str) -> list[str]:
    import httpx

    answer = httpx.get(f"{kubernetes}/apis/argoproj.io/v1alpha1/namespaces/argocd/applications", timeout=5)
    lines = []
    for item in answer.json()["items"]:
        sync = item.get("status", {}).get("sync", {})
        health = item.get("status", {}).get("health", {}).get("status", "Unknown")
        revision = sync.get("revision", "")[:12] or "-"
        lines.append(f"  {item['metadata']['name']:<16}{sync.get('status', 'Unknown')} {health} at {revision}")
    return lines


def _root() -> Path:
    """The checkout whose manifests are run: the one around the working directory, else the one this package lies in."""
    for folder in (*(Path.cwd(), *Path.cwd().parents), Path(__file__).parents[1]):
        if (folder / "platform.yaml").is_file() and (folder / "mlops").is_dir():
            return folder
    _fail("no checkout of the platform here\n  → run this inside it", 4)
    raise AssertionError


def _home(home: Path | None) -> Path:
    return (home or _root() / ".solo").resolve()


def _progress() -> list[str]:
    yard = shutil.which("yard", path=str(Path(sys.executable).parent))
    return [yard, "watch", "{repo}", "{after}", "--ref", "{ref}"] if yard else []


def _state(home: Path) -> Any:
    try:
        return json.loads((home / "solo.json").read_text())
    except (OSError, ValueError):
        return {}


def _pid(home: Path) -> int:
    """The process that holds this home, 0 if none does. The lock tells, not the number: numbers are used again."""
    pid = int(_state(home).get("pid", 0))
    return pid if pid and locked(home) else 0


def _fail(text: str, code: int) -> None:
    sys.stderr.write(text + "\n")
    raise typer.Exit(code)
