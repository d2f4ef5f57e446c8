"""A Git host in the cluster, as much of GitHub as the platform meets: repositories over HTTP, signed webhooks that are
sent once and never again, and commit statuses.

Runs as a pod from the platform's own image (it has Python and git), on the standard library.

    GET  /deliveries                       what was sent, to whom, and how it was answered
    POST /hooks/off, /hooks/on             a webhook that is dead, and alive again
    POST /repos/O/R/statuses/SHA           with the bearer token; GET /repos/O/R/commits/SHA/statuses
    *    /O/R.git/…                        git, made on first use of a name in REPOSITORIES
"""

import hashlib
import hmac
import json
import os
import queue
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path("/srv/git")
URL = os.environ["URL"]  # this host, as pods see it
REPOSITORIES = os.environ["REPOSITORIES"].split()
HOOKS = json.loads(os.environ["HOOKS"])  # repository or "*" → addresses
PORT = 8080
HOOK = f"""#!/bin/sh
exec python -c '
import json, sys, urllib.request
for line in sys.stdin:
    before, after, ref = line.split()
    body = json.dumps({{"repo": "$1", "before": before, "after": after, "ref": ref}}).encode()
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:{PORT}/pushed", body), timeout=10)
'
"""

hooks_on = threading.Event()
hooks_on.set()
outbox: "queue.Queue[tuple[str, str, dict]]" = queue.Queue()
deliveries: list[dict] = []
statuses: list[dict] = []


def main() -> None:
    for name in REPOSITORIES:
        path = ROOT / f"{name}.git"
        if not path.exists():
            git("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(path))
        for key, value in {"http.receivepack": "true", "uploadpack.allowAnySHA1InWant": "true"}.items():
            git("--git-dir", str(path), "config", key, value)
        (path / "hooks").mkdir(exist_ok=True)
        hook = path / "hooks/post-receive"
        hook.write_text(HOOK.replace("$1", name))
        hook.chmod(0o755)
    for _ in range(4):
        threading.Thread(target=send, daemon=True).start()
    ThreadingHTTPServer(("", PORT), Host).serve_forever()


def git(*args: str) -> None:
    subprocess.run(["git", *args], check=True)


def pushed(repo: str, before: str, after: str, ref: str) -> None:
    owner, name = repo.split("/")
    payload = {
        "ref": ref,
        "before": before,
        "after": after,
        "created": not int(before, 16),
        "deleted": not int(after, 16),
        "forced": False,
        "repository": {
            "full_name": repo,
            "name": name,
            "html_url": f"{URL}/{repo}",
            "clone_url": f"{URL}/{repo}.git",
            "default_branch": "main",
            "owner": {"login": owner, "name": owner},
        },
        "pusher": {"name": "ann"},
        "commits": [],
    }
    delivery = str(uuid.uuid4())
    for url in [*HOOKS.get("*", []), *HOOKS.get(repo, [])]:
        if hooks_on.is_set():
            outbox.put((url, delivery, payload))
        else:
            record(url, delivery, payload, 0, "hooks are off")


def send() -> None:
    secret = os.environ["WEBHOOK_SECRET"].encode()
    while True:
        url, delivery, payload = outbox.get()
        body = json.dumps(payload).encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
        }
        try:  # once, and for ten seconds, as GitHub does
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                record(url, delivery, payload, answer.status, answer.read(200).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            record(url, delivery, payload, error.code, error.read(200).decode(errors="replace"))
        except OSError as error:
            record(url, delivery, payload, 0, str(error))


def record(url: str, delivery: str, payload: dict, status: int, said: str) -> None:
    entry = {"time": time.time(), "url": url, "delivery": delivery, "status": status, "answer": said}
    deliveries.append({**entry, "repo": payload["repository"]["full_name"], "after": payload["after"]})


class Host(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.say(200, {"repositories": REPOSITORIES})
        elif self.path == "/deliveries":
            self.say(200, deliveries)
        elif found := re.fullmatch(r"/repos/([^/]+/[^/]+)/commits/([0-9a-f]{40})/statuses", self.path):
            self.say(200, [s for s in reversed(statuses) if (s["repo"], s["sha"]) == found.groups()])
        else:
            self.git()

    def do_POST(self) -> None:
        if self.path in ("/hooks/on", "/hooks/off"):
            (hooks_on.set if self.path.endswith("on") else hooks_on.clear)()
            self.say(200, {})
        elif self.path == "/pushed":
            pushed(**json.loads(self.body()))
            self.say(200, {})
        elif found := re.fullmatch(r"/repos/([^/]+/[^/]+)/statuses/([0-9a-f]{40})", self.path):
            body = json.loads(self.body())
            given = self.headers.get("Authorization", "").partition(" ")[2]
            if not hmac.compare_digest(given, os.environ["STATUS_TOKEN"]):
                self.say(401, {"message": "Bad credentials"})
            else:
                statuses.append({"repo": found[1], "sha": found[2], **body})
                self.say(201, body)
        else:
            self.git()

    def git(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.body()
        name = re.match(r"/([^/]+/[^/]+)\.git/", path)
        if not name or name[1] not in REPOSITORIES:
            self.say(404, {"message": "Not Found"})
            return
        variables = {
            "GIT_PROJECT_ROOT": str(ROOT),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env={**os.environ, **variables}, stdout=subprocess.PIPE, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        self.finish_with(headers, content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def say(self, status: int, document: object) -> None:
        self.send_response(status)
        self.finish_with({"Content-Type": "application/json"}, json.dumps(document).encode())

    def finish_with(self, headers: dict[str, str], content: bytes) -> None:
        for item in headers.items():
            self.send_header(*item)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, form: str, *args: object) -> None:
        if "/healthz" not in self.path:
            super().log_message(form, *args)


if __name__ == "__main__":
    main()
