"""HTTP for the steps, on the standard library: importing a client library would cost more than the call."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import Exit, YardError

# of a request that was refused or answered 5xx: 0.5 + 1 + 2 s, then the step's own retry takes over
TRIES, PAUSE = 4, 0.5


class Response(NamedTuple):
    status: int
    body: bytes
    url: str

    def json(self) -> Any:
        return json.loads(self.body)


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
    if not url.startswith(("http://", "https://")):
        raise YardError(f"not an http address: {url!r}", where="ConfigMap endpoints")
    headers = {"Accept": "application/json"}
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    handlers: list[Any] = [_Redirect(), *([urllib.request.HTTPSHandler(context=context)] if context else [])]
    opener = urllib.request.build_opener(*handlers)
    problem = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            with opener.open(urllib.request.Request(url, data, headers, method=method), timeout=timeout) as answer:  # noqa: S310
                return Response(answer.status, answer.read(), answer.url)
        except urllib.error.HTTPError as error:
            content = error.read()
            if error.code < 500 and error.code != 429:
                return Response(error.code, content, error.url)
            problem = f"HTTP {error.code} {content[:200].decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error))
    raise YardError(f"{method} {url}: {problem}", todo="is the service up?", code=Exit.UNAVAILABLE)


def secret(path: str) -> str:
    """The content of a mounted Secret, "" if it is not mounted (it is optional then)."""
    try:
        return Path(path).read_text().strip() if path else ""
    except OSError:
        return ""
