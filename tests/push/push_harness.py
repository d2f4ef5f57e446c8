"""A whole solo, started as a user would start it, and a service whose steps take no time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests/serving/models"
YARD = str(Path(sys.executable).with_name("yard"))
END = {"Succeeded", "Failed", "Error"}
PATIENCE = 120.0  # seconds for anything to happen; what is waited for usually takes a few


T = TypeVar("T")


def until(look: Callable[[], T], why: str, patience: float = PATIENCE) -> T:
    """Call `look` until it returns something true."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for {why}"
        time.sleep(0.03)


class Platform:
    """One solo on free ports, in a folder of its own. It can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        command = [sys.executable, "-m", "solo", "up", "--foreground", "--any-port", "--home", str(self.home)]
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "solo.json").unlink(missing_ok=True)
        with (self.home / "solo.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until(self._started, "solo to start", 60)

    def _started(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "solo.log").read_text()
        return (self.home / "solo.json").exists()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def down(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    @property
    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.home / "solo.json").read_text())["endpoints"]
        return found

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.endpoints["ARGO_URL"] + path, timeout=10) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.endpoints["ARGO_URL"] + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def runs(self, **labels: str) -> list[dict[str, Any]]:
        """Workflows with these labels (`pipeline`, `service`, `sha`), oldest first."""
        selector = ",".join(f"trainyard/{key}={value}" for key, value in labels.items())
        with contextlib.suppress(OSError, ValueError):
            items = self.get(f"/api/v1/workflows/?listOptions.labelSelector={selector}")["items"]
            return sorted(items, key=lambda item: item["metadata"]["creationTimestamp"])
        return []

    def ended(self, **labels: str) -> dict[str, Any]:
        """The first Workflow with these labels, when it has ended."""

        def look() -> dict[str, Any] | None:
            found = [run for run in self.runs(**labels) if run.get("status", {}).get("phase") in END]
            return found[0] if found else None

        return until(look, f"the end of {labels}")

    def yard(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "TRAINYARD_HOME": str(self.home)}
        done = subprocess.run(
            [YARD, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def registered(self) -> list[str]:
        """Names of the version records, as files of the registry bucket."""
        from pipelines.registry import AXES, open_registry

        credentials = json.loads((self.home / "solo.json").read_text())["registry_credentials"]
        registry = open_registry({**self.endpoints, "REGISTRY_CREDENTIALS": credentials})
        names = dict.fromkeys(AXES, "digits")
        return [f"{axis}/v{version.number}" for axis in AXES for version in registry.versions(axis, names[axis])]

    def releases(self) -> list[str]:
        """Subjects of the releases repository's commits, oldest first."""
        bare = self.home / "git/acme/releases.git"
        done = subprocess.run(
            ["git", "-C", str(bare), "log", "--reverse", "--format=%s", "main"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.splitlines()


class Work:
    """A clone of acme/digits to commit and push from."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.folder, self.platform = folder, platform
        self.git("clone", "--quiet", f"{platform.home}/git/acme/digits.git", str(folder), cwd=folder.parent)

    def git(self, *words: str, cwd: Path | None = None, check: bool = True) -> str:
        identity = ["-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=cwd or self.folder, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout + done.stderr
        return done.stdout.strip()

    def commit(self, files: dict[str, str | bytes], message: str = "Change") -> str:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *words: str) -> str:
        """Push and return what the user sees."""
        self.git("push", *(words or ("origin", "HEAD:main")))
        return self.said


CONTRACT = """\
apiVersion: trainyard/v1
service: digits
data: {name: digits, command: cp data.csv $DATA_DIR/, expect: {rows: 3, label: label}}
process: {command: cp train.npz test.npz $FEATURES_DIR/}
train: {command: cp model.onnx $MODEL_DIR/, timeout: 30s}
test: {command: test -f model.onnx}
params: {rate: 1e-05}
seed: 1
gate: {samples: 10, metrics: {accuracy: {min: 0.9}}}
deploy: {dev: {replicas: 2}}
"""


def service(contract: str = CONTRACT, *, seed: int = 0, wrong: bool = False) -> dict[str, str | bytes]:
    """The files of a service whose label is the largest of three columns, as its model says; `wrong`: never."""
    x = np.random.default_rng(seed).normal(size=(200, 4)).astype(np.float32) * np.float32(
        [1, 1, 1, 0]
    )  # the model mixes a little of the fourth column in
    y = ((x[:, :3].argmax(axis=1) + wrong) % 3).astype(np.int64)
    parts = {}
    for name, rows in (("train.npz", slice(0, 150)), ("test.npz", slice(150, 200))):
        buffer = io.BytesIO()
        np.savez(buffer, X=x[rows], y=y[rows])
        parts[name] = buffer.getvalue()
    infinite = io.BytesIO()
    np.savez(infinite, X=np.full((50, 4), np.inf, np.float32), y=y[150:])
    data = "a,b,c,d,label\n" + "".join(f"{','.join(map(str, row))},{label}\n" for row, label in zip(x, y, strict=True))
    return {
        "mlops.yaml": contract,
        "Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY . .\n",
        "model.onnx": (MODELS / "linear.onnx").read_bytes(),
        "data.csv": data,
        "infinite.npz": infinite.getvalue(),
        "nan.onnx": (MODELS / "nan.onnx").read_bytes(),
        **parts,
    }
