"""The bucket: the few operations that the registry is made of, and the one place where Google's failures become ours.

The retries are the client's own: of what may be repeated safely, with growing pauses, up to a deadline.
"""

# mypy: disable-error-code="no-untyped-call"
# google's libraries have no types

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2 import service_account

from pipelines.errors import Exit, YardError

# Each client would read the bucket's metadata in the background, for traces that nobody takes: one more request a step,
# and a denied one for credentials that may only touch objects (googleapis/google-cloud-python issue 17650)
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
TIMEOUT = (5.0, 30.0)  # seconds to connect, and to wait for the next bytes
# asking again helps; 507 is what a full emulator says
UNAVAILABLE = {408, 429, 500, 502, 503, 504, 507}


class ExistsError(Exception):
    """A create-once write found something there, or a compare-and-swap found another generation."""


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Entry(NamedTuple):
    """One object in a listing."""

    name: str
    metadata: Mapping[str, str]


class Bucket:
    """Objects by name.

    Every method raises YardError: UNAVAILABLE, NOT_FOUND (the bucket), INVALID (credentials), CONFLICT (corrupt bytes).
    """

    def __init__(self, client: storage.Client, name: str, deadline: float) -> None:
        self._client, self.name = client, name
        self._bucket = client.bucket(name)
        retry = DEFAULT_RETRY.with_delay(initial=0.1, maximum=5.0, multiplier=2.0).with_timeout(deadline)
        self._limits: dict[str, Any] = {"retry": retry, "timeout": TIMEOUT}

    @classmethod
    def open(cls, env: Mapping[str, str], deadline: float) -> Self:
        name, url = env.get("REGISTRY_BUCKET", ""), env.get("STORAGE_URL", "")
        if not name:
            raise YardError("REGISTRY_BUCKET is not set", todo="ConfigMap endpoints names the bucket of the registry")
        credentials = _credentials(env.get("REGISTRY_CREDENTIALS", ""), anonymous=bool(url))
        if url and not url.startswith(("http://", "https://")):
            raise YardError(f"not a URL: {url!r}", where="STORAGE_URL", todo="https://host, or empty for Google's own")
        options = {"api_endpoint": url.rstrip("/")} if url else None
        # the project matters for bucket creation only, which is not done here; without one the client would look for it
        return cls(storage.Client(project="none", credentials=credentials, client_options=options), name, deadline)

    def __str__(self) -> str:
        return f"gs://{self.name}"

    def create(self, name: str, data: bytes, metadata: Mapping[str, str] | None = None) -> None:
        """Create once. Raises ExistsError, also if it was this very call that created it and the answer was lost."""
        self._write(name, data, 0, metadata)

    def create_from(self, name: str, path: Path, md5: bytes) -> None:
        """Create once from a file, in pieces; the store refuses it if the file changed since `md5` was taken of it."""
        blob = self._bucket.blob(name)
        blob.md5_hash = base64.b64encode(md5).decode()
        with self._failures(name):
            blob.upload_from_filename(str(path), if_generation_match=0, **self._limits)

    def replace(self, name: str, data: bytes, generation: int) -> int:
        """Write if the object has this generation now (0: if there is none); the new generation. Raises ExistsError."""
        return self._write(name, data, generation, None)

    def overwrite(self, name: str, data: bytes) -> None:
        """Write, whatever is there."""
        with self._failures(name):
            self._bucket.blob(name).upload_from_string(data, "application/octet-stream", **self._limits)

    def read(self, name: str) -> tuple[bytes, int]:
        """The bytes and their generation. Raises YardError(NOT_FOUND)."""
        blob = self._bucket.blob(name)
        with self._failures(name):
            data: bytes = blob.download_as_bytes(**self._limits)
        return data, int(blob.generation)

    def find(self, name: str) -> tuple[bytes, int] | None:
        """Like `read`, None if there is no such object."""
        try:
            return self.read(name)
        except YardError as error:
            if isinstance(error, _NoObjectError):
                return None
            raise

    def read_into(self, name: str, sink: Sink) -> None:
        """Write the bytes to `sink`."""
        with self._failures(name):
            self._bucket.blob(name).download_to_file(sink, **self._limits)

    def entries(self, prefix: str) -> list[Entry]:
        """All objects below a prefix, by name."""
        with self._failures(prefix):
            found = self._client.list_blobs(
                self._bucket, prefix=prefix, fields="items(name,metadata),nextPageToken", **self._limits
            )
            return [Entry(blob.name, blob.metadata or {}) for blob in found]

    def folders(self, prefix: str) -> list[str]:
        """The names of the directories right below a prefix that ends with "/"."""
        with self._failures(prefix):
            found = self._client.list_blobs(
                self._bucket, prefix=prefix, delimiter="/", fields="prefixes,nextPageToken", **self._limits
            )
            names = {name for page in found.pages for name in page.prefixes}
        return sorted(name.removeprefix(prefix).rstrip("/") for name in names)

    def _write(self, name: str, data: bytes, generation: int, metadata: Mapping[str, str] | None) -> int:
        blob = self._bucket.blob(name)
        if metadata:
            blob.metadata = dict(metadata)
        kind = "application/json" if name.endswith(".json") else "application/octet-stream"
        with self._failures(name):
            blob.upload_from_string(data, kind, if_generation_match=generation, **self._limits)
        return int(blob.generation)

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        where = f"{self}/{name}"
        try:
            yield
        except api.PreconditionFailed:
            raise ExistsError(where) from None
        except DataCorruption:
            raise YardError(
                "its bytes do not have the checksum that the store itself gives for them",
                where=where,
                todo="the object or the line is damaged: try again, then restore the object from a copy",
                code=Exit.CONFLICT,
            ) from None
        except (api.RetryError, requests.RequestException, auth.TransportError, ConnectionError, TimeoutError) as error:
            raise self._unavailable(where, _cause(error)) from None
        except auth.GoogleAuthError as error:
            raise self._forbidden(where, str(error)) from None
        except api.GoogleAPICallError as error:
            raise self._failure(where, error) from None

    def _failure(self, where: str, error: api.GoogleAPICallError) -> YardError:
        message, status = _message(error), int(error.code or 0)
        if status == 404 and "bucket does not exist" in message:
            todo = "create it, or correct REGISTRY_BUCKET in ConfigMap endpoints"
            return YardError("there is no such bucket", where=str(self), todo=todo, code=Exit.NOT_FOUND)
        if status == 404:
            return _NoObjectError("no such object", where=where, code=Exit.NOT_FOUND)
        if status in (401, 403):
            return self._forbidden(where, f"HTTP {status} {message}")
        if status in UNAVAILABLE:
            return self._unavailable(where, f"HTTP {status} {message}")
        return YardError(f"the store refused this: HTTP {status} {message}", where=where, code=Exit.INVALID)

    def _unavailable(self, where: str, why: str) -> YardError:
        todo = f"is the object store at {self._client.api_endpoint} up, and does it have room? Then try again"
        return YardError(f"the object store cannot do this now: {why}", where=where, todo=todo, code=Exit.UNAVAILABLE)

    def _forbidden(self, where: str, why: str) -> YardError:
        todo = "check the credentials: the file that REGISTRY_CREDENTIALS names, from Secret registry or registry-read"
        return YardError(f"not allowed: {why}", where=where, todo=todo, code=Exit.INVALID)


class _NoObjectError(YardError):
    """The bucket is there, the object is not."""


class _Bearer(Credentials):
    """A token as it is: there is nothing to refresh it with."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    def refresh(self, request: Any) -> None:
        raise auth.RefreshError("the store does not accept this bearer token")


def _credentials(file: str, *, anonymous: bool) -> Credentials | None:
    """None means Google's application default credentials."""
    path = Path(file)
    try:
        text = path.read_text().strip() if file and path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise YardError(f"cannot be read: {error}", where=file, todo="REGISTRY_CREDENTIALS names this file") from None
    if not text:
        return AnonymousCredentials() if anonymous else _default(file)
    if not text.startswith("{"):
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise YardError("neither a service account key (JSON) nor one bearer token", where=file)
        return _Bearer(text)
    try:
        found: Credentials = service_account.Credentials.from_service_account_info(json.loads(text), scopes=[SCOPE])
        return found
    except (ValueError, auth.GoogleAuthError) as error:
        raise YardError(
            f"not a service account key: {error}", where=file, todo="REGISTRY_CREDENTIALS names it"
        ) from None


def _default(file: str) -> Credentials:
    import google.auth

    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except auth.DefaultCredentialsError:
        where = file or "REGISTRY_CREDENTIALS"
        todo = "give a service account key, or set STORAGE_URL if the store is not Google's"
        raise YardError("no credentials for Google Cloud Storage", where=where, todo=todo) from None


def _message(error: api.GoogleAPICallError) -> str:
    """What the store said, without what the client puts before and behind it."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, ValueError, KeyError, TypeError):
        text = error.response.text if isinstance(error.response, requests.Response) else str(error.message)
        return text.strip()[:300]


def _cause(error: BaseException) -> str:
    """The last failure of a series of retries, in few words."""
    cause = error.cause if isinstance(error, api.RetryError) else error
    response = getattr(cause, "response", None)
    if isinstance(response, requests.Response):
        return f"HTTP {response.status_code} {response.text.strip()[:200]}"
    while cause is not None and (below := _below(cause)) is not None:
        cause = below
    return str(cause).rpartition(": ")[2] or type(cause).__name__


def _below(error: BaseException) -> BaseException | None:
    """requests wraps urllib3, which wraps the socket's error."""
    reason = getattr(error, "reason", None) or next(iter(error.args), None)
    return reason if isinstance(reason, BaseException) else None
