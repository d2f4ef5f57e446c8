"""HTTP for the steps, on the standard library: importing a client library would cost more than the call."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pipelines.errors import Exit, YardError

# of a request that was refused or answered 5xx: 0.5 + 1 + 2 s, then the step's own retry takes over
TRIES, PAUSE = 4, 0.5

T = TypeVar("T")


class Response(NamedTuple):
    status: int
    body: bytes
    url: str
    headers: Message = Message()

    def json(self) -> Any:
        return json.loads(self.body)

    def text(self) -> str:
        """The beginning of the body, for a message."""
        return self.body[:200].decode(errors="replace")


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Keeps method and body on 307 and 308, as RFC 9110 §15.4 asks; urllib itself refuses those for POST.

    A token goes to no other host than the one it was meant for.
    """

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new: urllib.request.Request | None
        if code in (307, 308):
            new = urllib.request.Request(newurl, req.data, dict(req.headers), method=req.get_method())  # noqa: S310
        else:
            new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and new.host != req.host:
            new.remove_header("Authorization")
        return new


def request(
    method: str,
    url: str,
    body: Any = None,
    *,
    token: str = "",
    ca: Path | None = None,
    timeout: float = 20.0,
    tries: int = TRIES,
) -> Response:
    """Send JSON, get the answer whatever its status below 500.

    Raises YardError(UNAVAILABLE) when the address does not answer or says 5xx or 429, after `tries` tries.
    """
    headers = {"Accept": "application/json"}
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return send(method, url, data, headers, ca=ca, timeout=timeout, tries=tries)


def send(
    method: str,
    url: str,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    ca: Path | None = None,
    timeout: float = 20.0,
    tries: int = TRIES,
) -> Response:
    """Send bytes, get the answer as `request` does, and under the same conditions."""

    def whole() -> Response:
        found, body = _open(method, url, data, headers, ca, timeout)
        if body is None:
            return found
        with body:
            return found._replace(body=body.read())

    return _tried(f"{method} {url}", whole, tries)


@contextlib.contextmanager
def download(
    url: str, headers: Mapping[str, str] | None = None, *, timeout: float = 20.0, tries: int = TRIES
) -> Iterator[tuple[Response, IO[bytes]]]:
    """GET an answer and its body, yet to be read: for what may not fit into memory.

    Raises YardError(UNAVAILABLE) as `request` does, and at once for a connection that breaks while the body is read.
    """
    found, body = _tried(f"GET {url}", lambda: _open("GET", url, None, headers, None, timeout), tries)
    with body or io.BytesIO(found.body) as content:
        try:
            yield found, content
        except (OSError, http.client.HTTPException) as error:
            raise YardError(f"GET {url}: {error}", todo="try again", code=Exit.UNAVAILABLE) from error


def _tried(what: str, work: Callable[[], T], tries: int) -> T:
    problem = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return work()
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error))
    raise YardError(f"{what}: {problem}", todo="is the service up?", code=Exit.UNAVAILABLE)


def _open(
    method: str,
    url: str,
    data: bytes | None,
    headers: Mapping[str, str] | None,
    ca: Path | None,
    timeout: float,
) -> tuple[Response, IO[bytes] | None]:
    """One try: the answer and its body to be read; of an error the body is read. Raises OSError for what may be
    better the next time.
    """
    if not url.startswith(("http://", "https://")):
        raise YardError(f"not an http address: {url!r}", where="ConfigMap endpoints")
    handlers: list[Any] = [_Redirect()]
    if context := _trust(ca):
        handlers.append(urllib.request.HTTPSHandler(context=context))
    wanted = urllib.request.Request(url, data, dict(headers or {}), method=method)  # noqa: S310
    try:
        answer = urllib.request.build_opener(*handlers).open(wanted, timeout=timeout)
    except urllib.error.HTTPError as error:
        found = Response(error.code, error.read(), error.url, error.headers)
        if error.code < 500 and error.code != 429:
            return found, None
        raise OSError(f"HTTP {error.code} {found.text()}") from None
    return Response(answer.status, b"", answer.url, answer.headers), answer


def _trust(ca: Path | None) -> ssl.SSLContext | None:
    """That CA and no other; or the system's, and beside them the one at REGISTRY_CA, which need not be there."""
    if ca:
        return ssl.create_default_context(cafile=str(ca))
    own = os.environ.get("REGISTRY_CA", "")
    if not Path(own).is_file():
        return None
    context = ssl.create_default_context()
    context.load_verify_locations(own)
    return context


def secret(path: str) -> str:
    """The content of a mounted Secret, "" if it is not mounted (it is optional then)."""
    try:
        return Path(path).read_text().strip() if path else ""
    except OSError:
        return ""
