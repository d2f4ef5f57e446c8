"""EventSources `github` and `webhook`: an HTTP request becomes an event on the bus, or is refused as by the real ones.

The real `github` source looks neither at the repository nor at the kind of event nor at the method: Sensors filter.
A wrong signature, a body that is too large or no JSON object is a 400. 200 is said when the event is committed,
never before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from solo.events.bus import Bus
from solo.events.event import Event
from solo.events.jsontext import Number, as_go_map, load
from solo.store import Object, Store

DEFAULT_LIMIT = 1 << 20
FORM_LIMIT = 10 << 20
KINDS = ("github", "webhook")
MASK = "*** Masked Auth Secret ***"
_FORM = "application/x-www-form-urlencoded"

Secrets = Callable[[str, str], str | None]
"""(Secret, key) of one namespace → its text."""


class Hook(NamedTuple):
    """One event of an EventSource: what listens on a port under a path."""

    namespace: str
    source: str
    kind: str
    name: str
    spec: dict[str, Any]

    @property
    def web(self) -> dict[str, Any]:
        """Where port, endpoint and limits are: `github` has them one level deeper."""
        inner: dict[str, Any] = self.spec["webhook"] if self.kind == "github" else self.spec
        return inner

    @property
    def port(self) -> int:
        return int(self.web["port"])

    @property
    def endpoint(self) -> str:
        return str(self.web["endpoint"])


class Target(NamedTuple):
    """Where a push of a repository is to be delivered, and the secret to sign it with."""

    url: str
    secret: str


class RefusedError(Exception):
    """A request that makes no event: HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def app(store: Store, bus: Bus, port: int) -> ASGIApp:
    """What listens on one port. EventSources are read from the Store at each request, so changes count at once."""
    return Starlette(routes=[Mount("/", _Port(store, bus, port))])


def apps(store: Store, bus: Bus) -> dict[int, ASGIApp]:
    """By port, all that the EventSources in the Store want."""
    return {port: app(store, bus, port) for port in sorted(ports(store))}


def ports(store: Store) -> set[int]:
    """The ports that the EventSources in the Store want."""
    return {hook.port for hook in hooks(store.list("EventSource"))}


def targets(store: Store, repository: str, address: Callable[[int], str]) -> list[Target]:
    """The `github` hooks that GitHub would call for a push to `owner/name`; `address` gives a port's base URL."""
    found = []
    for hook in hooks(store.list("EventSource")):
        if hook.kind == "github" and _registered(hook.spec, repository):
            wanted = hook.spec.get("webhookSecret")
            secret = store_secrets(store, hook.namespace)(wanted["name"], wanted["key"]) if wanted else ""
            found.append(Target(address(hook.port) + hook.endpoint, secret or ""))
    return found


def hooks(sources: Iterable[Object]) -> Iterator[Hook]:
    for source in sources:
        meta = source["metadata"]
        for kind in KINDS:
            for name, spec in (source["spec"].get(kind) or {}).items():
                yield Hook(meta.get("namespace", ""), meta["name"], kind, name, spec)


def store_secrets(store: Store, namespace: str) -> Secrets:
    """Secrets as a pod sees them: decoded, and without the newline at the end that editors add."""

    def read(name: str, key: str) -> str | None:
        secret = store.find("Secret", namespace, name) or {}
        if key in (secret.get("stringData") or {}):
            value = str(secret["stringData"][key])
        elif key in (secret.get("data") or {}):
            value = base64.b64decode(secret["data"][key]).decode(errors="replace")
        else:
            return None
        return value.rstrip("\r\n")

    return read


def make_event(hook: Hook, headers: Mapping[str, list[str]], body: Any) -> Event:
    """The event of a request that was accepted; the two sources spell `header` differently."""
    data = {"headers" if hook.kind == "github" else "header": dict(sorted(headers.items())), "body": body}
    if metadata := hook.web.get("metadata") if hook.kind == "webhook" else hook.spec.get("metadata"):
        data["metadata"] = dict(sorted(metadata.items()))
    return Event(hook.namespace, hook.source, hook.name, hook.kind, data)


def canonical(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Headers as Go keeps them: `X-Github-Event: [push]`. Host is not among them."""
    out: dict[str, list[str]] = {}
    for name, value in headers:
        name = "-".join(part.capitalize() for part in name.split("-"))
        if name not in ("Host", "Transfer-Encoding"):
            out.setdefault(name, []).append(MASK if name == "Authorization" else value)
    return out


def github_body(headers: Mapping[str, list[str]], body: bytes, secret: str | None) -> Any:
    """The payload of a delivery, with event and delivery id in it as the real source adds them. Raises RefusedError."""
    content_type = _first(headers, "Content-Type").split(";")[0].strip().lower()
    if content_type not in ("application/json", _FORM):
        raise RefusedError(400, f"webhook request has unsupported Content-Type {content_type!r}")
    if secret:
        _check_signature(headers, body, secret)
    try:
        payload = load(_form(body)["payload"][0] if content_type == _FORM else body, last_wins=True)
    except (ValueError, KeyError) as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from None
    if not isinstance(payload, dict):
        raise RefusedError(400, "the body is no JSON object")
    if _infinite(payload):
        raise RefusedError(400, "the body has a number that is too large")
    for name in ("X-GitHub-Event", "X-GitHub-Delivery"):
        payload[name] = _first(headers, "-".join(part.capitalize() for part in name.split("-")))
    return as_go_map(payload)


def webhook_body(headers: Mapping[str, list[str]], body: bytes) -> Any:
    """The body of a plain webhook: JSON of any type, or a form as an object of lists. Raises RefusedError."""
    if _first(headers, "Content-Type") == _FORM:
        return dict(sorted(_form(body).items()))
    try:
        return load(body)
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from None


class _Port:
    def __init__(self, store: Store, bus: Bus, port: int) -> None:
        self.store, self.bus, self.port = store, bus, port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == "/health":
            return PlainTextResponse("OK")
        if "//" in path:
            return RedirectResponse(re.sub("/+", "/", path), 301)
        found = hooks(self.store.list("EventSource"))
        hook = next((h for h in found if (h.port, h.endpoint) == (self.port, path)), None)
        if hook is None:
            return PlainTextResponse(f"no EventSource listens on port {self.port} under {path}", 404)
        try:
            event = await self._accept(hook, request)
        except RefusedError as refused:
            delivery = request.headers.get("x-github-delivery")
            self.bus.refuse(hook.namespace, hook.source, hook.name, refused.why, delivery)
            return PlainTextResponse(refused.why, refused.status)
        except ClientDisconnect:
            return PlainTextResponse("the request ended too early", 400)
        self.bus.publish(event)
        return PlainTextResponse("success")

    async def _accept(self, hook: Hook, request: Request) -> Event:
        secrets = store_secrets(self.store, hook.namespace)
        if wanted := hook.web.get("authSecret"):
            _check_bearer(request.headers.get("authorization", ""), _secret(secrets, wanted))
        if hook.kind == "webhook" and request.method != hook.web["method"]:
            raise RefusedError(400, f"http method does not match: {hook.web['method']} is wanted")
        raw = [(name.decode("latin-1"), value.decode(errors="replace")) for name, value in request.headers.raw]
        headers = canonical(raw)
        form = hook.kind == "webhook" and _first(headers, "Content-Type") == _FORM
        limit = int(hook.web.get("maxPayloadSize") or DEFAULT_LIMIT)
        body = await _read(request, FORM_LIMIT if form else limit)
        if hook.kind == "github":
            wanted = hook.spec.get("webhookSecret")
            return make_event(hook, headers, github_body(headers, body, _secret(secrets, wanted) if wanted else None))
        return make_event(hook, headers, webhook_body(headers, body))


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise RefusedError(400, f"http: request body too large: more than {limit} bytes")
    return bytes(body)


def _secret(secrets: Secrets, wanted: dict[str, str]) -> str:
    value = secrets(wanted["name"], wanted["key"])
    if not value:
        # an empty secret would let everybody in
        raise RefusedError(500, f"Secret {wanted['name']} has no key {wanted['key']}")
    return value


def _check_bearer(given: str, token: str) -> None:
    if not given.startswith("Bearer "):
        raise RefusedError(401, "Invalid Authorization Header")
    if not hmac.compare_digest(given.removeprefix("Bearer ").encode(), token.encode()):
        raise RefusedError(401, "Invalid Auth token")


def _check_signature(headers: Mapping[str, list[str]], body: bytes, secret: str) -> None:
    signature = _first(headers, "X-Hub-Signature-256") or _first(headers, "X-Hub-Signature")
    if not signature:
        raise RefusedError(400, "missing signature")
    algorithm, _, digest = signature.partition("=")
    if algorithm not in ("sha1", "sha256", "sha512"):
        raise RefusedError(400, f"unknown hash type prefix: {algorithm[:20]!r}")
    expected = hmac.new(secret.encode(), body, getattr(hashlib, algorithm)).hexdigest()
    if not hmac.compare_digest(expected.encode(), digest.lower().encode()):
        raise RefusedError(400, "payload signature check failed")


def _registered(spec: dict[str, Any], repository: str) -> bool:
    owner, _, name = repository.partition("/")
    listed = spec.get("repositories") or []
    named = not listed or any(item["owner"] == owner and name in item["names"] for item in listed)
    events = spec.get("events") or ["*"]
    return named and spec.get("active") is not False and ("push" in events or "*" in events)


def _first(headers: Mapping[str, list[str]], name: str) -> str:
    return headers.get(name, [""])[0]


def _form(body: bytes) -> dict[str, list[str]]:
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True)


def _infinite(value: Any) -> bool:
    if isinstance(value, Number):
        return value in (float("inf"), float("-inf"))
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_infinite(item) for item in items)
