"""Solo's image store as a registry, for what reads images and attaches to them: bills of materials, signatures.

Source: OCI distribution specification 1.1: pull, push (monolithic, and in one or more pieces), referrers. Deletions
and lists of tags are answered UNSUPPORTED; a mount becomes an upload. Repositories share one store, as they belong to
one user.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from solo.builder.store import MANIFEST, ImageStore

INDEX = "application/vnd.oci.image.index.v1+json"
HEX = re.compile(r"sha256:([0-9a-f]{64})")
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
NAME = r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
LARGEST = 4 << 20  # bytes of a manifest, as everywhere
METHODS = ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"]
STATUS = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "SIZE_INVALID": 413,
    "UNAUTHORIZED": 401,
    "UNSUPPORTED": 405,
}


class RegistryError(Exception):
    """An answer with one of the specification's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


Handler = Callable[..., Awaitable[Response]]


class Registry:
    """`host` is what images of this store are called by (`solo.invalid`), `login` the user:password that may enter."""

    def __init__(self, store: ImageStore, host: str, login: str) -> None:
        self.store, self.host = store, host
        self.login = b"Basic " + base64.b64encode(login.encode())
        self.uploads = store.root / "uploads"
        self.uploads.mkdir(exist_ok=True)
        for left in self.uploads.iterdir():  # by whoever pushed when solo ended
            left.unlink()
        paths: dict[str, dict[str, Handler]] = {
            r"": {"GET": self._base},
            rf"{NAME}/manifests/(?P<reference>[^/]+)": {
                "GET": self._get_manifest,
                "HEAD": self._get_manifest,
                "PUT": self._put_manifest,
            },
            rf"{NAME}/blobs/uploads/": {"POST": self._begin},
            rf"{NAME}/blobs/uploads/(?P<upload>[0-9a-f]{{32}})": {"PATCH": self._append, "PUT": self._finish},
            rf"{NAME}/blobs/(?P<digest>[^/]+)": {"GET": self._get_blob, "HEAD": self._get_blob},
            rf"{NAME}/referrers/(?P<digest>[^/]+)": {"GET": self._referrers},
        }
        self.paths = [(re.compile(path), methods) for path, methods in paths.items()]

    def routes(self) -> list[Route]:
        return [Route("/v2/{path:path}", self.answer, methods=METHODS)]

    async def answer(self, request: Request) -> Response:
        try:
            if not hmac.compare_digest(request.headers.get("authorization", "").encode(), self.login):
                raise RegistryError("UNAUTHORIZED", "Secret registry-push has the login")
            for path, methods in self.paths:
                if found := path.fullmatch(request.path_params["path"]):
                    if request.method not in methods:
                        break
                    return await methods[request.method](request, **found.groupdict())
            raise RegistryError("UNSUPPORTED", f"solo's registry does not answer {request.method} {request.url.path}")
        except RegistryError as error:
            body = {"errors": [{"code": error.code, "message": str(error)}]}
            headers = {"WWW-Authenticate": 'Basic realm="solo"'} if error.code == "UNAUTHORIZED" else {}
            return JSONResponse(body, STATUS[error.code], headers)

    async def _base(self, request: Request) -> Response:
        return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})

    # manifests

    async def _get_manifest(self, request: Request, name: str, reference: str) -> Response:
        match = HEX.fullmatch(reference)
        digest = match[1] if match else self.store.tagged(f"{self.host}/{name}:{reference}")
        data = self._manifest(digest) if digest else None
        if data is None:
            raise RegistryError("MANIFEST_UNKNOWN", f"no manifest {reference} in {name}")
        headers = {"Docker-Content-Digest": f"sha256:{digest}"}
        return Response(data, media_type=_media_type(json.loads(data)), headers=headers)

    def _manifest(self, digest: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError):
            path = self.store.root / "blobs" / digest
            if path.stat().st_size <= LARGEST and json.loads(data := path.read_bytes()).get("schemaVersion") == 2:
                return data
        return None

    async def _put_manifest(self, request: Request, name: str, reference: str) -> Response:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > LARGEST:
                raise RegistryError("SIZE_INVALID", f"a manifest has {LARGEST} bytes at most")
        digest, match = hashlib.sha256(data).hexdigest(), HEX.fullmatch(reference)
        if match and match[1] != digest:
            raise RegistryError("DIGEST_INVALID", f"this is sha256:{digest}")
        if not match and not TAG.fullmatch(reference):
            raise RegistryError("MANIFEST_INVALID", f"{reference!r} is no tag")
        subject = self._check(bytes(data))
        self.store.put_blob(bytes(data))
        headers = {"Location": f"/v2/{name}/manifests/sha256:{digest}", "Docker-Content-Digest": f"sha256:{digest}"}
        if subject:
            self.store.refer(subject, digest)
            headers["OCI-Subject"] = f"sha256:{subject}"
        if not match:
            self.store.tag(f"{self.host}/{name}:{reference}", digest)
        return Response(status_code=201, headers=headers)

    def _check(self, data: bytes) -> str | None:
        """The digest of a manifest's subject. Raises RegistryError for what is none, or names blobs that are not
        here.
        """
        try:
            document = json.loads(data)
            if document["schemaVersion"] != 2:
                raise ValueError
            listed = document["manifests"] if "manifests" in document else [document["config"], *document["layers"]]
            wanted = [_hex(entry["digest"]) for entry in listed]
            subject = _hex(document["subject"]["digest"]) if "subject" in document else None
        except (ValueError, KeyError, TypeError):
            raise RegistryError("MANIFEST_INVALID", "neither a manifest of an image nor an index") from None
        for digest in wanted:
            if self.store.blob(digest) is None:
                raise RegistryError("MANIFEST_BLOB_UNKNOWN", f"sha256:{digest} is not here")
        return subject

    async def _referrers(self, request: Request, name: str, digest: str) -> Response:
        wanted = request.query_params.get("artifactType")
        entries = []
        for found in self.store.referrers(_hex(digest)):
            data = self._manifest(found) or b"{}"
            document = json.loads(data)
            kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType", "")
            if wanted in (None, kind):
                entry = {"mediaType": _media_type(document), "digest": f"sha256:{found}", "size": len(data)}
                notes = {"annotations": document["annotations"]} if document.get("annotations") else {}
                entries.append({**entry, "artifactType": kind, **notes})
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return Response(json.dumps(body), media_type=INDEX, headers=headers)

    # blobs

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        found = await run_in_threadpool(self.store.blob, _hex(digest))
        if found is None:
            raise RegistryError("BLOB_UNKNOWN", f"no blob {digest}")
        size, pieces = found
        headers = {"Content-Length": str(size), "Docker-Content-Digest": digest}
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)

    async def _begin(self, request: Request, name: str) -> Response:
        upload = uuid.uuid4().hex
        (self.uploads / upload).touch()
        if "digest" in request.query_params:  # the whole blob in one request
            return await self._finish(request, name, upload)
        return self._accepted(name, upload)

    async def _append(self, request: Request, name: str, upload: str) -> Response:
        await self._receive(request, upload)
        return self._accepted(name, upload)

    async def _finish(self, request: Request, name: str, upload: str) -> Response:
        wanted = _hex(request.query_params.get("digest", ""))
        path = await self._receive(request, upload)
        try:
            digest = await run_in_threadpool(self.store.take_blob, path, wanted)
        finally:
            path.unlink(missing_ok=True)
        if digest != wanted:
            raise RegistryError("DIGEST_INVALID", f"this is sha256:{digest}")
        headers = {"Location": f"/v2/{name}/blobs/sha256:{digest}", "Docker-Content-Digest": f"sha256:{digest}"}
        return Response(status_code=201, headers=headers)

    async def _receive(self, request: Request, upload: str) -> Path:
        path = self.uploads / upload
        if not path.exists():
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", "this upload has ended")
        with path.open("ab") as file:
            async for piece in request.stream():
                file.write(piece)
        return path

    def _accepted(self, name: str, upload: str) -> Response:
        size = (self.uploads / upload).stat().st_size
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{max(size - 1, 0)}"}
        return Response(status_code=202, headers={**headers, "Docker-Upload-UUID": upload})


def _hex(digest: Any) -> str:
    found = HEX.fullmatch(str(digest))
    if found is None:
        raise RegistryError("DIGEST_INVALID", f"{digest!r} is not sha256:<hex>")
    return found[1]


def _media_type(document: dict[str, Any]) -> str:
    return str(document.get("mediaType") or (INDEX if "manifests" in document else MANIFEST))
