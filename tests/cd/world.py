"""A small world around `solo.cd`: a Git repository, somebody who runs pods, and the three loops."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from solo.cd import Applications, Deployments, Services
from solo.cd.rollout import owner_uid
from solo.store import NotFoundError, Store

from .server import Server

REPOSITORY = "https://github.com/acme/releases"


async def until(condition, seconds=8.0):
    """Wait for a condition; fail with what it last returned."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"did not come true within {seconds} s: {value!r}"
        await asyncio.sleep(0.005)
    return value


class Repository:
    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *args):
        env = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        run = subprocess.run(["git", *who, *args], cwd=self.path, env=env, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def commit(self, files):
        """Write files (None: remove) and commit; the commit's SHA."""
        for name, text in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            elif isinstance(text, bytes):
                file.write_bytes(text)
            else:
                file.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "change")
        return self.git("rev-parse", "HEAD")


class Kubelet:
    """Runs pods: image `app:VERSION` serves its version, `app:never` is never ready, `app:fails` fails at once."""

    def __init__(self, store, *, processes=False):
        self.store, self.processes, self.servers, self.started = store, processes, {}, []
        self.tasks = set()

    async def run(self):
        queue = self.store.subscribe("Pod")
        for pod in self.store.list("Pod"):
            self.spawn(self.start(pod))
        try:
            while True:
                change = await queue.get()
                uid = change.object["metadata"]["uid"]
                if change.type == "ADDED":
                    self.spawn(self.start(change.object))
                elif change.type == "DELETED" and uid in self.servers:
                    self.spawn(self.stop(self.servers.pop(uid)))
        finally:
            self.store.unsubscribe(queue)
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def spawn(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def start(self, pod):
        uid = pod["metadata"]["uid"]
        if owner_uid(pod, "ReplicaSet") is None or uid in self.servers:
            return
        self.started.append(pod["metadata"]["name"])
        version = pod["spec"]["containers"][0]["image"].partition(":")[2]
        if version == "fails":
            self.report(pod, "Failed", ready=False, finishTime=datetime.now(UTC).isoformat())
            return
        if version == "never":
            self.report(pod, "Running", ready=False)
            return
        port = await self.serve(uid, version)
        self.report(pod, "Running", ready=True, solo={"ports": {"8080": port}})

    async def serve(self, uid, version):
        if not self.processes:
            self.servers[uid] = await Server(version).start()
            return self.servers[uid].port
        script = Path(__file__).with_name("server.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-SE", script, version, stdout=asyncio.subprocess.PIPE
        )
        self.servers[uid] = process
        return int(await process.stdout.readline())

    async def stop(self, server):
        if self.processes:
            server.terminate()
            await server.wait()
        else:
            await server.drain()

    def report(self, pod, phase, *, ready, **more):
        with contextlib.suppress(NotFoundError):
            live = self.store.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
            live["status"] = {
                "phase": phase,
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": str(ready)}],
                **more,
            }
            self.store.update(live)

    async def kill_all(self):
        for server in self.servers.values():
            if self.processes:
                server.kill()
                await server.wait()
            else:
                server.server.close()


class World:
    """Everything running; `restart()` is a kill -9 of solo: the pods go on."""

    def __init__(self, path, *, processes=False):
        self.home = path / "home"
        self.home.mkdir()
        self.store = Store(self.home / "solo.db")
        self.kubelet = Kubelet(self.store, processes=processes)
        self.repository = Repository(path / "releases.git")
        self.tasks = []

    async def __aenter__(self):
        self.kubelet_task = asyncio.create_task(self.kubelet.run())
        self.start()
        return self

    async def __aexit__(self, *exc):
        await self.stop()
        self.kubelet_task.cancel()
        await asyncio.gather(self.kubelet_task, return_exceptions=True)
        await self.kubelet.kill_all()
        self.store.close()

    def start(self):
        self.applications = Applications(self.store, self.home, resolve=self.resolve)
        self.deployments, self.services = Deployments(self.store), Services(self.store)
        self.tasks = [asyncio.create_task(part.run()) for part in (self.applications, self.deployments, self.services)]

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def restart(self):
        await self.stop()
        self.start()

    def resolve(self, url):
        return url.replace(f"{REPOSITORY}.git", str(self.repository.path))

    async def push(self, files):
        sha = self.repository.commit(files)
        assert await self.applications.webhook({"repository": {"full_name": "acme/releases"}})
        return sha

    def app(self, name="digits-dev"):
        return self.store.get("Application", "argocd", name)

    def status(self, name="digits-dev"):
        return self.app(name).get("status", {})

    def state(self, name="digits-dev"):
        """(sync, health), as `argocd app list` shows them."""
        status = self.status(name)
        return status.get("sync", {}).get("status"), status.get("health", {}).get("status")

    def conditions(self, name="digits-dev"):
        return [entry["type"] for entry in self.status(name).get("conditions", [])]

    def message(self, name="digits-dev"):
        return "\n".join(entry["message"] for entry in self.status(name).get("conditions", []))

    async def deployed(self, sha, name="digits-dev"):
        """Wait until a commit is synced and healthy."""
        await until(lambda: self.state(name) == ("Synced", "Healthy") and self.status(name)["sync"]["revision"] == sha)

    def images(self):
        """The images of the pods that are there."""
        return sorted(pod["spec"]["containers"][0]["image"] for pod in self.store.list("Pod"))

    async def get(self):
        """One request to the service, on a connection of its own."""
        address = await until(lambda: self.services.address("digits-dev", "digits", 8080))
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET / HTTP/1.1\r\nHost: digits\r\n\r\n")
        status, body, _ = await answer(reader)
        writer.close()
        return status, body


async def answer(reader):
    """(status, body, whether the connection may be used again) of an HTTP response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    body = (await reader.readexactly(length)).decode()
    return int(head.split()[1]), body, "connection: close" not in head


def deployment(image="app:v1", *, replicas=2, **spec):
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: digits
spec:
  replicas: {replicas}
{more}  selector:
    matchLabels: {{app: digits}}
  template:
    metadata:
      labels: {{app: digits}}
    spec:
      containers:
        - name: server
          image: {image}
          ports: [{{name: http, containerPort: 8080}}]
"""


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: digits}
spec:
  selector: {app: digits}
  ports: [{port: 8080, targetPort: http}]
"""


def config_map(name, value="1"):
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: '{value}'}}\n"


def release(image="app:v1", **spec):
    return {
        "digits/dev/deployment.yaml": deployment(image, **spec),
        "digits/dev/service.yaml": SERVICE,
        "digits/dev/release.yaml": config_map("digits-release", image),
    }


def application(name="digits-dev", **changes):
    spec = {
        "project": "services",
        "source": {"repoURL": f"{REPOSITORY}.git", "path": "digits/dev", "targetRevision": "main"},
        "destination": {"server": "https://kubernetes.default.svc", "namespace": name},
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True},
            "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"],
        },
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": name, "namespace": "argocd"},
        "spec": spec | changes,
    }


def project(**changes):
    spec = {
        "sourceRepos": [REPOSITORY],
        "destinations": [{"server": "https://kubernetes.default.svc", "namespace": "*-dev"}],
        "clusterResourceWhitelist": [{"group": "", "kind": "Namespace"}],
        "namespaceResourceWhitelist": [
            {"group": "apps", "kind": "Deployment"},
            {"group": "", "kind": "Service"},
            {"group": "", "kind": "ConfigMap"},
        ],
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "services", "namespace": "argocd"},
        "spec": spec | changes,
    }
