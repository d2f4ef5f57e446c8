"""The Argo Server's HTTP/1 API, as much of it as `yard` needs. On the standard library: it loads ten times faster."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from pipelines.cli.addresses import Addresses
from pipelines.errors import Exit, YardError

QUIET = 60.0  # seconds without a byte after which a stream counts as lost; who watches opens it again
SHORT = 20.0  # seconds for one document
LONG = 60.0  # seconds for all Workflows of a namespace
# what nobody here reads, and is most of a Workflow. Source: util/fields/fields.go, v4.1.4
UNUSED = ("metadata.managedFields", "status.storedTemplates", "status.storedWorkflowTemplateSpec")
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
        self.opener = _opener(self.url, addresses.verify)

    def list(self, namespace: str, labels: Mapping[str, str] | None = None) -> list[Workflow]:
        """Workflows that carry all of `labels`, each once, however many answers it takes."""
        query = f"{_selector(labels or {})}&fields=-{','.join(f'items.{field}' for field in UNUSED)}"
        found: dict[str, Workflow] = {}
        after = ""
        while True:
            more = f"&{urlencode({'listOptions.continue': after})}" if after else ""
            answer = self.json(f"/api/v1/workflows/{namespace}", query + more, timeout=LONG)
            items = answer.get("items") or []
            found |= {item["metadata"]["name"]: item for item in items}
            after = (answer.get("metadata") or {}).get("continue") or ""
            if not after or not items:
                return [*found.values()]

    def get(self, namespace: str, name: str) -> Workflow:
        found: Workflow = self.json(f"/api/v1/workflows/{namespace}/{quote(name, safe='')}")
        return found

    def watch(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Workflow]:
        """Each Workflow as it is, then at each change; ends when the server ends the stream."""
        unused = ",".join(f"result.object.{field}" for field in UNUSED)
        path = f"/api/v1/workflow-events/{namespace}?{_selector(labels)}&fields=-{unused}"
        with self._open("GET", path, timeout=QUIET, accept="text/event-stream") as answer:
            for message in _messages(answer):
                if "error" in message:  # so a real server ends a watch that became old
                    return
                result = message.get("result") or {}
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
        with self._open("GET", path, timeout=3600.0 if follow else QUIET) as answer, self._reading():
            for message in _messages(answer):
                if "error" in message:
                    raise _mistake(message["error"], f"the log of {name}")
                result = message.get("result") or {}
                yield LogLine(str(result.get("podName", "")), str(result.get("content", "")))

    def kept_log(self, namespace: str, name: str, node: str) -> Iterator[str]:
        """The log that Argo archived (`archiveLogs`): on a cluster the pod is gone soon after its step."""
        path = f"/artifact-files/{namespace}/workflows/{quote(name, safe='')}/{quote(node, safe='')}/outputs/main-logs"
        with self._open("GET", path, timeout=QUIET) as answer, self._reading():
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")

    def submit(self, namespace: str, template: str, options: Mapping[str, Any]) -> Workflow:
        body = {
            "namespace": namespace,
            "resourceKind": "WorkflowTemplate",
            "resourceName": template,
            "submitOptions": options,
        }
        made: Workflow = self._document("POST", f"/api/v1/workflows/{namespace}/submit", body)
        return made

    def create(self, collection: str, namespace: str, obj: Mapping[str, Any]) -> None:
        """Create an object of "workflows" or "workflow-templates"."""
        key = "workflow" if collection == "workflows" else "template"
        self._document("POST", f"/api/v1/{collection}/{namespace}", {"namespace": namespace, key: obj})

    def delete(self, collection: str, namespace: str, name: str) -> None:
        self._document("DELETE", f"/api/v1/{collection}/{namespace}/{quote(name, safe='')}")

    def json(self, path: str, query: str = "", *, timeout: float = SHORT) -> Any:
        """Any JSON document of the server. Raises YardError(INVALID) for what is none."""
        return self._document("GET", f"{path}?{query}" if query else path, timeout=timeout)

    def kubernetes(self, path: str) -> Any:
        """A document of the Kubernetes API at KUBERNETES_URL, with KUBERNETES_TOKEN if that is set: the Argo Server's
        token is not for others.
        """
        base = self.addresses.environment.get("KUBERNETES_URL", "").rstrip("/")
        token = os.environ.get("KUBERNETES_TOKEN", "")
        with _ask(_opener(base), "GET", base, path, token=token, timeout=SHORT) as answer, self._reading():
            return _json(answer, f"{base}{path}")

    def _document(self, method: str, path: str, body: object = None, *, timeout: float = SHORT) -> Any:
        with self._open(method, path, body, timeout=timeout) as answer, self._reading():
            return _json(answer, f"{self.url}{path.partition('?')[0]}")

    def _open(
        self, method: str, path: str, body: object = None, *, timeout: float = SHORT, accept: str = "application/json"
    ) -> Any:
        token = self.addresses.token
        return _ask(self.opener, method, self.url, path, body, token=token, timeout=timeout, accept=accept)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """A connection that breaks while an answer is read is no bug, not even within a line of JSON."""
        try:
            yield
        except (OSError, ValueError, HTTPException) as error:
            what = f"the connection was lost: {error or type(error).__name__}"
            raise YardError(what, where=self.url, todo="try again", code=Exit.UNAVAILABLE) from None


def _opener(url: str, verify: bool = True) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = []
    if urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1"):
        # a proxy cannot reach this machine's loopback, and many set one for everything
        handlers.append(urllib.request.ProxyHandler({}))
    if not verify:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _ask(
    opener: urllib.request.OpenerDirector,
    method: str,
    base: str,
    path: str,
    body: object = None,
    *,
    token: str,
    timeout: float,
    accept: str = "application/json",
) -> Any:
    url = f"{base}{path}"
    if not url.startswith(("http://", "https://")):
        raise YardError(f"not an http address: {url!r}", todo="is --server or ARGO_SERVER right?")
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept": accept, **({"Content-Type": "application/json"} if data else {})}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
    if token:
        # Argo's own command takes it with the word "Bearer"; and where a redirect leads it does not go along
        request.add_unredirected_header("Authorization", token if " " in token else f"Bearer {token}")
    try:
        return opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        raise _told(error, f"{method} {url.partition('?')[0]}") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        todo = "is the address right, and can it be reached?"
        if isinstance(reason, ssl.SSLCertVerificationError):
            todo = "trust its certificate with SSL_CERT_FILE=PEM, or set ARGO_INSECURE_SKIP_VERIFY=true"
        elif "127.0.0.1" in url and url.startswith("http:"):
            todo = "is solo up? `yard solo status`"
        raise YardError(f"does not answer: {reason}", where=base, todo=todo, code=Exit.UNAVAILABLE) from None


def _json(answer: Any, where: str) -> Any:
    content = answer.read()
    try:
        return json.loads(content)
    except ValueError:
        raise YardError("answers, but not with JSON", where=where, todo="is the address right?") from None


def _selector(labels: Mapping[str, str]) -> str:
    return urlencode({"listOptions.labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())})


def _messages(answer: Any) -> Iterator[dict[str, Any]]:
    """The messages of a stream of JSON lines, with or without the framing of server-sent events: each has a `result`,
    the last one may have an `error` instead.
    """
    for line in answer:
        text = line.decode(errors="replace").strip().removeprefix("data:").strip()
        if text and not text.startswith(("event:", "id:", "retry:", ":")):
            yield json.loads(text)


def _told(error: urllib.error.HTTPError, where: str) -> YardError:
    content: Any = error.read(2000).decode(errors="replace")
    with contextlib.suppress(ValueError):
        content = json.loads(content)
    if isinstance(content, dict):
        # a stream that fails before its first message wraps the same
        content = content.get("error") if isinstance(content.get("error"), dict) else content
    else:
        content = {"message": content.strip()}
    return _mistake({**content, "http_code": error.code}, where)


def _mistake(error: Mapping[str, Any], where: str) -> YardError:
    """grpc-gateway's form of an error: `message`, and in streams `http_code`."""
    status = error.get("http_code", 500)
    todo = 'set ARGO_TOKEN to "Bearer …"' if status in (401, 403) else ""
    what = f"HTTP {status}: {str(error.get('message', ''))[:300]}"
    return YardError(what, where=where, todo=todo, code=MISTAKES.get(status, Exit.UNAVAILABLE))
