"""The Argo Server's HTTP/1 API, as much of it as `yard` needs. On the standard library: it loads ten times faster."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from pipelines.cli.addresses import Addresses
from pipelines.errors import Exit, YardError

QUIET = 60.0  # seconds without a byte after which a stream counts as lost; who watches opens it again
MISTAKES = {400: Exit.INVALID, 401: Exit.INVALID, 403: Exit.INVALID, 404: Exit.NOT_FOUND, 409: Exit.CONFLICT}

Workflow = dict[str, Any]


class LogLine(NamedTuple):
    pod: str
    text: str


class Argo:
    """Methods raise YardError: UNAVAILABLE if nothing answers, NOT_FOUND, CONFLICT or INVALID as the server says."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.url = addresses.argo
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        # a proxy cannot reach this machine's loopback, and many set one for everything
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self.opener = urllib.request.build_opener(*proxies)

    def list(self, namespace: str, labels: Mapping[str, str] | None = None) -> list[Workflow]:
        """Workflows that carry all of `labels`."""
        return list(self.json(f"/api/v1/workflows/{namespace}", _selector(labels or {})).get("items") or [])

    def get(self, namespace: str, name: str) -> Workflow:
        found: Workflow = self.json(f"/api/v1/workflows/{namespace}/{quote(name, safe='')}")
        return found

    def watch(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Workflow]:
        """Each Workflow as it is, then at each change; ends when the server ends the stream."""
        path = f"/api/v1/workflow-events/{namespace}?{_selector(labels)}"
        with self._open("GET", path, timeout=QUIET, accept="text/event-stream") as answer:
            for result in _results(answer):
                if result.get("type") in ("ADDED", "MODIFIED"):
                    yield result["object"]

    def log(
        self, namespace: str, name: str, pod: str = "", *, follow: bool = False, tail: int = 0
    ) -> Iterator[LogLine]:
        """What `main` of one pod (of all, without `pod`) printed; with `follow`, until the Workflow ends."""
        query = {"logOptions.container": "main", "podName": pod, "logOptions.follow": "true" if follow else ""}
        query["logOptions.tailLines"] = str(tail or "")
        given = urlencode({key: value for key, value in query.items() if value})
        path = f"/api/v1/workflows/{namespace}/{quote(name, safe='')}/log?{given}"
        with self._open("GET", path, timeout=3600.0 if follow else QUIET) as answer:
            for result in _results(answer):
                yield LogLine(str(result.get("podName", "")), str(result.get("content", "")))

    def kept_log(self, namespace: str, name: str, node: str) -> Iterator[str]:
        """The log that Argo archived (`archiveLogs`): on a cluster the pod is gone soon after its step."""
        path = f"/artifact-files/{namespace}/workflows/{quote(name, safe='')}/{quote(node, safe='')}/outputs/main-logs"
        with self._open("GET", path, timeout=QUIET) as answer:
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")

    def submit(self, namespace: str, template: str, options: Mapping[str, Any]) -> Workflow:
        body = {
            "namespace": namespace,
            "resourceKind": "WorkflowTemplate",
            "resourceName": template,
            "submitOptions": options,
        }
        with self._open("POST", f"/api/v1/workflows/{namespace}/submit", body) as answer:
            made: Workflow = json.loads(answer.read())
            return made

    def create(self, collection: str, namespace: str, obj: Mapping[str, Any]) -> None:
        """Create an object of "workflows" or "workflow-templates"."""
        key = "workflow" if collection == "workflows" else "template"
        with self._open("POST", f"/api/v1/{collection}/{namespace}", {"namespace": namespace, key: obj}) as answer:
            answer.read()

    def delete(self, collection: str, namespace: str, name: str) -> None:
        with self._open("DELETE", f"/api/v1/{collection}/{namespace}/{quote(name, safe='')}") as answer:
            answer.read()

    def json(self, path: str, query: str = "") -> Any:
        """Any JSON document of the server, or of another address (a URL) with the same token."""
        with self._open("GET", f"{path}?{query}" if query else path) as answer:
            return json.loads(answer.read())

    def _open(
        self, method: str, path: str, body: object = None, *, timeout: float = 20.0, accept: str = "application/json"
    ) -> Any:
        url = path if "://" in path else f"{self.url}{path}"
        if not url.startswith(("http://", "https://")):
            raise YardError(f"not an http address: {url!r}", todo="is --server or ARGO_SERVER right?")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, **({"Content-Type": "application/json"} if data else {}), **_token()}
        try:
            return self.opener.open(urllib.request.Request(url, data, headers, method=method), timeout=timeout)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise _told(error, f"{method} {url.partition('?')[0]}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            todo = (
                "is solo up? `yard solo status`"
                if "127.0.0.1" in url
                else "is the address right, and can it be reached?"
            )
            raise YardError(f"does not answer: {reason}", where=self.url, todo=todo, code=Exit.UNAVAILABLE) from None


def _token() -> dict[str, str]:
    """ARGO_TOKEN as Argo's own command takes it: "Bearer …"."""
    token = os.environ.get("ARGO_TOKEN", "")
    return {"Authorization": token if " " in token else f"Bearer {token}"} if token else {}


def _selector(labels: Mapping[str, str]) -> str:
    return urlencode({"listOptions.labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())})


def _results(answer: Any) -> Iterator[dict[str, Any]]:
    """The results of a stream of JSON lines, with or without the framing of server-sent events."""
    for line in answer:
        text = line.decode(errors="replace").strip().removeprefix("data:").strip()
        if not text or text.startswith(("event:", "id:", "retry:", ":")):
            continue
        message = json.loads(text)
        if "result" in message:
            yield message["result"]


def _told(error: urllib.error.HTTPError, where: str) -> YardError:
    content = error.read(2000).decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = json.loads(content)["message"]
    todo = 'set ARGO_TOKEN to "Bearer …"' if error.code in (401, 403) else ""
    return YardError(
        f"HTTP {error.code}: {content[:300]}", where=where, todo=todo, code=MISTAKES.get(error.code, Exit.UNAVAILABLE)
    )
