"""Repositories to push to, locks to release, and the HTTP that the steps talk to."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import yaml

from pipelines.config import Config, Deploy
from pipelines.registry import AXES, Lock, LockedVersion
from pipelines.steps.release import release
from pipelines.steps.verify import inspect
from solo.expressions.tags import substitute

CONFIG = Config.model_validate(
    {
        "apiVersion": "trainyard/v1",
        "service": "digits",
        "data": {"name": "numbers", "command": "ingest", "timeout": "90s"},
        "process": {"command": "process"},
        "train": {"command": "train", "resources": {"cpu": "2", "memory": "3Gi", "gpu": 1}},
        "test": {"command": "test"},
        "params": {"hidden": 64},
        "seed": 7,
        "gate": {"samples": 2, "metrics": {"accuracy": {"min": 0.5}}},
        "deploy": {"dev": {"replicas": 2}},
    }
)
MODELS = Path(__file__).parents[1] / "serving/models"
TEMPLATES = Path(__file__).parents[2] / "mlops/templates"
GOLDEN = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}],
    "golden": {
        "inputs": [[0.0, 1.0], [1.0, 0.0]],
        "outputs": {"label": [0, 1], "probabilities": [[0.75, 0.25], [0.25, 0.75]]},
        "tolerance": 1e-4,
    },
}


def git(cwd, *args):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *identity, *args], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def claim_at_the_end(registry, pipeline, **parameters):
    """Who has the claim that a Workflow of the pipeline with these parameters looks at in its exit handler."""
    spec = yaml.safe_load((TEMPLATES / f"{pipeline}.yaml").read_text())["spec"]
    (end,) = [template for template in spec["templates"] if template["name"] == "exit"]
    (task,) = end["dag"]["tasks"]
    values = {f"workflow.parameters.{name}": value for name, value in parameters.items()}
    told = {entry["name"]: substitute(entry["value"], values) for entry in task["arguments"]["parameters"]}
    return registry.claimed(f"{told['pipeline']}/{told['claim']}")


EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


class Repository:
    """A repository on the host. Commits go straight into it; `work` is a clone for those that need files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name, self.bare, self._work = name, directory / f"host/{name}.git", directory / f"work/{name}"
        git(directory, "init", "--bare", "--quiet", "--template=", "--initial-branch=main", str(self.bare))
        git(self.bare, "config", "receive.autogc", "false")
        self._parent = []

    def commit(self, text="x"):
        """An empty commit on top of the last one, force-pushed to main; its id."""
        sha = git(self.bare, "commit-tree", EMPTY_TREE, *self._parent, "-m", text)
        git(self.bare, "update-ref", "refs/heads/main", sha)
        self.back_to(sha)
        return sha

    def back_to(self, sha):
        """The next commit is made on top of this one."""
        self._parent = ["-p", sha]

    @property
    def work(self):
        """A clone of main as it is now."""
        if not self._work.exists():
            git(self.bare, "clone", "--quiet", "--template=", str(self.bare), str(self._work))
        return self._work

    def push_files(self, files=None):
        """Commit what is in `work`, and these files, by hand; the commit's id."""
        for name, content in (files or {}).items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(content)
        git(self.work, "add", "--all")
        git(self.work, "commit", "--quiet", "--message", "by hand")
        git(self.work, "push", "--quiet", "origin", "HEAD:main")
        return self.head()

    def delete_branch(self):
        git(self.bare, "update-ref", "-d", "refs/heads/main")

    def head(self):
        return git(self.bare, "rev-parse", "main")

    def count(self):
        return int(git(self.bare, "rev-list", "--count", "main"))

    def show(self, path, commit="main"):
        return git(self.bare, "show", f"{commit}:{path}")

    def files(self, commit="main"):
        return git(self.bare, "ls-tree", "-r", "--name-only", commit).splitlines()


class World:
    """The repositories and the registry, with shortcuts through the pipelines."""

    def __init__(self, directory: Path, registry) -> None:
        self.registry = registry
        self._directory, self._repositories, self._number = directory, {}, 0

    def repository(self, name):
        if name not in self._repositories:
            self._repositories[name] = Repository(self._directory, f"acme/{name}")
        return self._repositories[name]

    @property
    def releases(self):
        return self.repository("releases")

    @property
    def digits(self):
        return self.repository("digits")

    def lock(self, sha, service="digits", attempt=1, bundle=None, image="image", deploy=None):
        """A lock of that commit; every one is another. `bundle` is its bundle.json, as data; `deploy` as in mlops.yaml,
        for dev.
        """
        self._number += 1
        config = CONFIG.model_dump(mode="json") | {"service": service}
        if deploy is not None:
            config["deploy"] = {"dev": Deploy.model_validate(deploy).model_dump(mode="json")}
        app = self.registry.put_blob(json.dumps({"config": config}).encode())
        files = self._tree(json.dumps(bundle or GOLDEN))
        digests = dict.fromkeys(AXES, app) | {"model": files}
        return self.registry.put_lock(
            Lock(
                service=service,
                repo=f"acme/{service}",
                branch="main",
                sha=sha,
                attempt=attempt,
                image=image,
                versions={a: LockedVersion(name=service, number=self._number, digest=d) for a, d in digests.items()},
                platform={"version": "1", "templates": "t", "image": "i", "architecture": "x"},
                seed=self._number,
                params={},
                params_digest="sha256:" + "0" * 64,
                metrics={},
                thresholds={},
                decision={},
                workflows={},
            )
        )

    def _tree(self, text):
        data = text.encode()
        digest = self.registry.put_blob(data).removeprefix("sha256:")
        listed = {"files": [{"path": "bundle.json", "sha256": digest, "size": len(data)}]}
        return self.registry.put_blob(json.dumps(listed, sort_keys=True, separators=(",", ":")).encode())

    def release(self, lock, **changes):
        """Run the release step as the release Workflow of this lock would."""
        assert self.releases  # made, if nobody has used it yet
        found = self.registry.get_lock(lock)
        words = {"service": found.service, "repo": found.repo, "branch": found.branch, "sha": found.sha}
        run = {"environment": "dev", "workflow": "release-x", "owner": f"uid-{lock[-8:]}"}
        return release(**(words | run | {"lock": lock} | changes))

    def released(self, service="digits", **more):
        """Commit, make a lock and release it; the lock and the commit of releases."""
        lock = self.lock(self.repository(service).commit(f"{service} {self._number}"), service, **more)
        out = self.release(lock)
        assert out["outcome"] == "released"
        return lock, out["commit"]

    def inspect(self, commit, before=""):
        """What `inspect` says of a push, its targets as data."""
        found = inspect(before=before, commit=commit, owner="uid")
        return json.loads(found["targets"]), found

    def record(self, service="digits", commit="main"):
        return yaml.safe_load(self.releases.show(f"services/{service}/dev/release.yaml", commit))["data"]


class Web:
    """`apps`: name → statuses that Kubernetes gives, one a look, the last for ever; each may be a callable.
    `answers`: service → (status, body) of infer, likewise. `events`: what was posted to the bus. `down`: paths (by
    their beginning) that answer 503.
    """

    def __init__(self) -> None:
        self.apps, self.answers, self.events, self.asked, self.down = {}, {}, [], [], []
        self.url = ""

    def get(self, path):
        if path.startswith("/apis/"):
            name = path.rsplit("/", 1)[1]
            return (200, {"status": _next(self.apps[name])}) if name in self.apps else (404, {})
        return 200, {"name": "trainyard"}

    def post(self, path, body):
        if path.count("/") == 1:
            self.events.append((path, body))
            return 200, {}
        self.asked.append((path, body))
        return _next(self.answers[path.split("/")[1]])


def _next(items):
    item = items.pop(0) if len(items) > 1 else items[0]
    return item() if callable(item) else item


def status(revision, health="Healthy", sync="Synced"):
    """The status of an Application."""
    return {"sync": {"status": sync, "revision": revision}, "health": {"status": health, "message": "because"}}


def answer(lock, label=(0, 1), probabilities=(0.75, 0.25, 0.25, 0.75)):
    """What a model server says to the golden rows."""
    outputs = [{"name": "label", "data": list(label)}, {"name": "probabilities", "data": list(probabilities)}]
    return 200, {"parameters": {"lock": lock}, "outputs": outputs}


@contextmanager
def http_world():
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._say(*self._maybe(lambda: web.get(self.path)))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(*self._maybe(lambda: web.post(self.path, body)))

        def _maybe(self, work):
            return (503, {}) if any(self.path.startswith(path) for path in web.down) else work()

        def _say(self, code, body):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        web.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield web
        finally:
            server.shutdown()
