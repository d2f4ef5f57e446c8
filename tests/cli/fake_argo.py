"""A small Argo Server in the test's own process: workflows as data, a stream of their changes, logs, submits.

Its answers have the shape of Argo 4.1.4's; the workflows are built with nodes as the real controller writes them.
"""

from __future__ import annotations

import json
import queue
import ssl
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from pipelines.cli.runs import PIPELINES

SHA = "0123456789abcdef0123456789abcdef01234567"
COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
IMAGE = "solo.invalid/acme/digits@sha256:" + "1f" * 32
LOCK = "sha256:" + "ab" * 32
NAMES = {
    "ci": f"ci-acme-digits-{SHA[:12]}",
    "ct": f"ct-acme-digits-{SHA[:12]}-1",
    "release": f"release-acme-digits-{SHA[:12]}-1",
    "verify": f"verify-{COMMIT[:12]}",
}


def decision(accuracy=0.9722, accepted=True):
    checks = [
        {"name": "samples", "value": 450, "threshold": 300, "op": ">=", "passed": True, "why": ""},
        {"name": "accuracy", "value": accuracy, "threshold": 0.95, "op": ">=", "passed": accepted, "why": ""},
        *(
            {
                "name": f"accuracy[label={n}]",
                "value": 0.9 + n / 100,
                "threshold": 0.8,
                "op": ">=",
                "passed": True,
                "why": "",
            }
            for n in range(3)
        ),
    ]
    summary = (
        ["accepted: accuracy", "this model goes on to release"]
        if accepted
        else [
            f"refused: accuracy {accuracy} < 0.95, by {0.95 - accuracy:.2g}",
            "the model that serves now (lock abababababab) goes on serving",
        ]
    )
    return json.dumps({"accepted": accepted, "checks": checks, "summary": summary})


class Fake:
    """What the server serves. `put` is a change of a workflow: stored, and sent to whoever watches."""

    def __init__(self):
        self.workflows = {}
        self.logs = {}  # pod name → lines
        self.kept = {}  # node id → lines, as the archive has them
        self.broken = {}  # pod name → the error that its log's stream ends with
        self.cut = 0  # bytes that each log's stream misses at its end
        self.page = 0  # how many Workflows one answer lists; 0: all
        self.asked = []  # (path, Authorization) of each request
        self.events = None  # None: a cluster, which has no such record
        self.applications = {}
        self.submitted = []
        self.templates = {}  # WorkflowTemplates by name
        self.created = []  # (collection, object) of all that was ever made
        self.becomes = lambda workflow: {"phase": "Succeeded"}  # a created Workflow → its status, each time it is asked
        self.refuse = {}  # collection → (status, message)
        self.lost = 0  # streams to break after the next change
        self.watchers = []
        self.lock = threading.Lock()

    def put(self, *workflows):
        for workflow in workflows:
            with self.lock:
                meta = workflow["metadata"]
                self.workflows[meta["namespace"], meta["name"]] = json.loads(json.dumps(workflow))
                for namespace, wanted, stream in self.watchers:
                    if namespace == meta["namespace"] and matches(workflow, wanted):
                        stream.put(workflow)

    def keep(self, run, task, lines, attempt=None):
        """Archive a pod's log, as `archiveLogs` does: the node that has it says so."""
        node = pod(run, task, attempt).replace(f"-{task}-", "-")
        self.kept[node] = lines
        for workflow in self.workflows.values():
            if node in workflow["status"]["nodes"]:
                outputs = workflow["status"]["nodes"][node].setdefault("outputs", {})
                outputs["artifacts"] = [{"name": "main-logs", "gcs": {"key": f"{run}/main.log"}}]
                return
        raise KeyError(node)

    def listed(self, namespace, wanted):
        with self.lock:
            return [w for (ns, _), w in self.workflows.items() if ns == namespace and matches(w, wanted)]

    def parity(self):
        """Names of the Workflows that were created here."""
        return [(w["metadata"]["namespace"], w["metadata"]["name"]) for c, w in self.created if c == "workflows"]

    def watch(self, namespace, wanted):
        stream = queue.SimpleQueue()
        with self.lock:
            self.watchers.append((namespace, wanted, stream))
        for workflow in self.listed(namespace, wanted):
            stream.put(workflow)
        return stream


def matches(workflow, wanted):
    labels = workflow["metadata"]["labels"]
    return all(labels.get(key) == value for key, value in wanted.items())


def workflow(pipeline, steps=(), phase="Running", *, sha=None, attempt="1", minute=0, message="", **parameters):
    """A Workflow of ours; `steps` are made by `step`."""
    name = parameters.pop("name", NAMES[pipeline])
    sha = sha or (COMMIT if pipeline == "verify" else SHA)
    given = {"service": "digits", "repo": "acme/digits", "branch": "main", "sha": sha, "attempt": attempt}
    if pipeline == "verify":
        given = {"repo": "acme/releases", "commit": sha}
    nodes = {name: {"id": name, "name": name, "displayName": name, "type": "DAG", "phase": phase}}
    for made in steps:
        nodes.update(made(name))
    labels = {"trainyard/pipeline": pipeline, "trainyard/sha": sha}
    if pipeline != "verify":
        labels["trainyard/service"] = "digits"
    if pipeline == "ci":
        labels |= {"events.argoproj.io/sensor": "ci", "events.argoproj.io/trigger": "ci-digits"}
    return {
        "metadata": {
            "name": name,
            "namespace": PIPELINES[pipeline],
            "labels": labels,
            "annotations": {"trainyard/delivery": "6f1c1f0e"},
            "creationTimestamp": f"2026-11-24T02:{minute:02}:00Z",
        },
        "spec": {
            "workflowTemplateRef": {"name": pipeline},
            "arguments": {"parameters": [{"name": k, "value": v} for k, v in (given | parameters).items()]},
        },
        "status": {
            "phase": phase,
            "message": message,
            "nodes": nodes,
            **({"finishedAt": f"2026-11-24T02:{minute:02}:40Z"} if phase != "Running" else {}),
        },
    }


def step(task, phase="Succeeded", at=0, *, message="", code=None, retried=False, **outputs):
    """Makes the nodes of one task that began at second `at` and took 1.5 s (as Retry with tries, if retried)."""

    def nodes(run):
        def node(name, display, kind, phase, **more):
            ident = f"{run}-{zlib.crc32(name.encode())}"
            body = {
                "id": ident,
                "name": name,
                "displayName": display,
                "type": kind,
                "phase": phase,
                "templateName": task,
                "message": message if phase != "Succeeded" else "",
                "startedAt": f"2026-11-24T02:00:{at:02}.0Z",
                **more,
            }
            if phase not in ("Running", "Pending"):
                body["finishedAt"] = f"2026-11-24T02:00:{at + 1:02}.5Z"
            return ident, body

        if phase == "Omitted":
            return dict([node(f"{run}.{task}", task, "Skipped", phase)])
        given = {"parameters": [{"name": key, "value": value} for key, value in outputs.items()]}
        if code is not None:
            given["exitCode"] = str(code)
        if not retried:
            return dict([node(f"{run}.{task}", task, "Pod", phase, outputs=given)])
        first, second = (node(f"{run}.{task}({n})", f"{task}({n})", "Pod", p) for n, p in ((0, "Error"), (1, phase)))
        return dict(
            [
                node(
                    f"{run}.{task}",
                    task,
                    "Retry",
                    phase,
                    outputs=given,
                    children=[first[0], second[0]],
                    message="No more retries left",
                ),
                first,
                second,
            ]
        )

    nodes.task = task
    return nodes


def pod(run, task, attempt=None):
    """The name of a task's pod."""
    name = f"{run}.{task}" + ("" if attempt is None else f"({attempt})")
    return f"{run}-{task}-{zlib.crc32(name.encode())}"


def exit_step(run):
    """The exit handler's nodes, which are no step of the run."""
    return step("status", at=50)(f"{run}.onExit")


def ci(phase="Succeeded", **more):
    return workflow(
        "ci",
        [
            step("claim", at=1, claimed="true"),
            step("checkout", at=2),
            step("validate", at=3),
            step("build", at=4, image=IMAGE),
            step("test", at=6),
            step("built", at=8),
            exit_step,
        ],
        phase,
        **more,
    )


def ct(phase="Succeeded", **more):
    return workflow(
        "ct",
        [
            step("plan", at=10, claimed="true"),
            step("ingest", at=11),
            step("train-cpu", at=13, retried=True),
            step("train-gpu", "Omitted"),
            step("gate", at=15, decision=decision()),
            step("register", at=17, lock=LOCK, versions='{"data": "digits/v1", "model": "digits/v3"}'),
            step("accepted", at=19),
        ],
        phase,
        minute=1,
        **more,
    )


def release(phase="Succeeded", outcome="released", commit=COMMIT, **more):
    return workflow("release", [step("release", at=21, outcome=outcome, commit=commit)], phase, minute=2, **more)


def verify(phase="Succeeded", **more):
    return workflow(
        "verify",
        [
            step("inspect", at=23, claimed="true"),
            step("wait", at=24, outcome="healthy", address="http://127.0.0.1:41233"),
            step("smoke", at=26),
            step("keep", at=28),
            step("revert", "Omitted"),
        ],
        phase,
        minute=3,
        **more,
    )


@contextmanager
def serve(fake, tls=None):
    """The address of a server over `fake`; with `tls`, a file with certificate and key, by https."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            url = urlsplit(self.path)
            fake.asked.append((self.path, self.headers.get("Authorization")))
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            selector = query.get("listOptions.labelSelector", "")
            wanted = dict(pair.split("=", 1) for pair in selector.split(",") if pair)
            match [unquote(part) for part in url.path.strip("/").split("/")]:
                case ["api", "v1", "version"]:
                    self.answer({"version": "v4.1.4"})
                case ["api", "v1", "workflows", namespace, name] if (namespace, name) in fake.parity():
                    found = fake.workflows[namespace, name]
                    self.answer({**found, "status": fake.becomes(found)})
                case ["api", "v1", "workflows", namespace]:
                    first, found = int(query.get("listOptions.continue", "0")), fake.listed(namespace, wanted)
                    last = first + (fake.page or len(found))
                    meta = {"continue": str(last)} if last < len(found) else {}
                    self.answer({"metadata": meta, "items": found[first:last] or None})
                case ["api", "v1", "workflows", namespace, name]:
                    found = fake.workflows.get((namespace, name))
                    self.answer(found) if found else self.fail(404, f'workflows "{name}" not found')
                case ["api", "v1", "workflows", namespace, name, "log"]:
                    self.logs(name, query)
                case ["api", "v1", "workflow-events", namespace]:
                    self.stream(fake.watch(namespace, wanted))
                case ["artifact-files", _, "workflows", _, node, "outputs", "main-logs"] if node in fake.kept:
                    self.send("".join(f"{line}\n" for line in fake.kept[node]).encode(), "text/plain")
                case ["artifact-files", *_]:
                    self.send(b"Internal Server Error\n", "text/plain", 500)
                case ["solo", "v1", "events"] if fake.events is None:
                    self.send(b"<!doctype html><title>Argo</title>", "text/html")  # its UI
                case ["solo", "v1", "events"] if fake.events is not None:
                    self.answer([one for one in fake.events if one["sha"].startswith(query["sha"])])
                case ["apis", *_, "applications", name] if name in fake.applications:
                    self.answer({"status": fake.applications[name]})
                case _:
                    self.fail(404, "Not Found")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            match urlsplit(self.path).path.strip("/").split("/"):
                case ["api", "v1", ("workflows" | "workflow-templates") as collection, namespace]:
                    self.create(collection, namespace, body)
                    return
            fake.submitted.append((self.path, body))
            self.answer({"metadata": {"name": body["submitOptions"]["name"]}})

        def create(self, collection, namespace, body):
            made = body["workflow" if collection == "workflows" else "template"]
            if collection in fake.refuse:
                self.fail(*fake.refuse[collection])
                return
            made["metadata"] |= {"uid": f"uid-{len(fake.created)}", "namespace": namespace}
            with fake.lock:
                fake.created.append((collection, made))
                if collection == "workflows":
                    fake.workflows[namespace, made["metadata"]["name"]] = made
                else:
                    fake.templates[made["metadata"]["name"]] = made
            self.answer(made)

        def do_DELETE(self):
            _, _, collection, namespace, name = urlsplit(self.path).path.strip("/").split("/")
            with fake.lock:
                found = (
                    fake.workflows.pop((namespace, name), None)
                    if collection == "workflows"
                    else fake.templates.pop(name, None)
                )
            self.answer({}) if found else self.fail(404, f"{name} not found")

        def logs(self, name, query):
            wanted = query.get("podName")
            lines = [(p, line) for p, all_ in fake.logs.items() for line in all_ if wanted in (None, p)]
            lines = [(p, line) for p, line in lines if p.startswith(name)]
            text = "".join(json.dumps({"result": {"content": line, "podName": p}}) + "\n" for p, line in lines)
            if wanted in fake.broken:
                error = {"grpc_code": 7, "http_code": 403, "message": fake.broken[wanted]}
                text += json.dumps({"error": error}) + "\n"
            self.send(text.encode()[: -fake.cut or None], "application/json")

        def stream(self, changes):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while (change := changes.get()) is not None:
                    event = {"result": {"type": "MODIFIED", "object": change}}
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                    self.wfile.flush()
                    if fake.lost:
                        fake.lost -= 1
                        self.wfile.write(b'data: {"result": {"type": "MODI')
                        break
            except OSError:
                pass
            self.close_connection = True

        def answer(self, body):
            self.send(json.dumps(body).encode(), "application/json")

        def fail(self, status, message):
            self.send(json.dumps({"code": 5, "message": message}).encode(), "application/json", status)

        def send(self, content, kind, status=200):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        with fake.lock:
            for _, _, stream in fake.watchers:
                stream.put(None)
        server.server_close()
        thread.join(5)
