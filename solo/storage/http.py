"""The JSON API over HTTP, and of the XML API the reading of an object: Go's client, so Argo's executor, downloads so.
One table says which operations there are and which query parameters each understands.

What is not in the table is answered with 501 and named: an emulator that ignores a parameter teaches a client a lie.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import format_datetime
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from solo.storage import parse, uploads
from solo.storage.access import Access, Tokens
from solo.storage.blobs import PIECE, Incoming
from solo.storage.core import Storage, writable
from solo.storage.errors import StorageError, invalid, unsupported
from solo.storage.objects import FIELDS, Conditions, Object

log = logging.getLogger("solo.storage")

# headers that change what a request means, and that nobody here reads
REFUSED_HEADERS = {
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "content-md5",
    "x-goog-encryption-algorithm",
    "x-http-method-override",
}
# preconditions of the XML API; the JSON API has them as query parameters
XML_CONDITIONS = {"x-goog-if-generation-match", "x-goog-if-metageneration-match"}


class Call(NamedTuple):
    """One request on its way through an operation; `names` are the parts of the path that the pattern left open."""

    storage: Storage
    access: Access
    request: Request
    body: parse.Body
    names: list[str]
    query: dict[str, str]

    @property
    def base(self) -> str:
        return str(self.request.base_url)

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")

    def allow(self, bucket: str, permission: str) -> None:
        self.access.check(self.header("authorization"), bucket, permission)

    def answer(self, document: Mapping[str, Any]) -> Response:
        fields = self.query.get("fields")
        return JSONResponse(parse.select(document, fields) if fields else document)


Handler = Callable[[Call], Awaitable[Response]]


class Operation(NamedTuple):
    method: str
    path: re.Pattern[str]
    handler: Handler
    parameters: frozenset[str]


def app(storage: Storage, tokens: Tokens, *, closed_by_default: bool = False) -> Starlette:
    """The store as an ASGI app. `tokens`: who may use which bucket; one not named is open, or closed if told so."""
    access = Access(tokens, closed_by_default=closed_by_default)

    async def answer(request: Request) -> Response:
        body = parse.Body(request.receive)
        media, xml = "alt=media" in request.url.query, False
        try:
            operation, names = _operation(request)
            xml = operation.handler is read_xml
            query = _query(request, operation)
            for header in request.headers:
                if header in REFUSED_HEADERS or (header in XML_CONDITIONS and not xml):
                    raise unsupported(f"Header {header!r}")
            return await operation.handler(Call(storage, access, request, body, names, query))
        except StorageError as error:
            failure = error
        except ClientDisconnect:
            return Response(status_code=499)  # nobody is there to read it
        except Exception:
            log.exception("%s %s", request.method, request.url.path)
            failure = StorageError(500, "backendError", "We encountered an internal error. Please try again.")
        if failure.status == 501:
            # a client that tries every 5xx again (Go's does, for ever) would not show the answer to anybody
            log.warning("501 %s %s: %s", request.method, request.url.path[:200], failure.message)
        await body.drain()
        if failure.status == 304:
            return Response(status_code=304)
        if xml:
            return Response(failure.xml(), failure.status, media_type="application/xml")
        # GCS answers a failed download in plain text
        if media:
            return PlainTextResponse(failure.message, failure.status)
        return JSONResponse(failure.document(), failure.status)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


# -- buckets


async def create_bucket(call: Call) -> Response:
    document = await call.body.json()
    for field in document:
        if field != "name" and document[field]:
            raise unsupported(f"Bucket field {field!r}")
    bucket = str(document.get("name", ""))
    call.allow(bucket, "storage.buckets.create")
    await run_in_threadpool(call.storage.create_bucket, bucket)
    buckets = await run_in_threadpool(call.storage.buckets)
    return call.answer(_bucket(call, bucket, buckets[bucket]))


async def list_buckets(call: Call) -> Response:
    buckets = await run_in_threadpool(call.storage.buckets)
    header = call.header("authorization")
    mine = {name: at for name, at in buckets.items() if call.access.allows(header, name, "storage.buckets.get")}
    items = [_bucket(call, name, at) for name, at in mine.items()]
    return call.answer({"kind": "storage#buckets", "items": items})


async def get_bucket(call: Call) -> Response:
    (bucket,) = call.names
    call.allow(bucket, "storage.buckets.get")
    buckets = await run_in_threadpool(call.storage.buckets)
    if bucket not in buckets:
        raise StorageError(404, "notFound", "The specified bucket does not exist.")
    return call.answer(_bucket(call, bucket, buckets[bucket]))


def _bucket(call: Call, name: str, created: str) -> dict[str, Any]:
    return {
        "kind": "storage#bucket",
        "id": name,
        "selfLink": f"{call.base}storage/v1/b/{name}",
        "name": name,
        "projectNumber": "0",
        "metageneration": "1",
        "location": "LOCAL",
        "locationType": "region",
        "storageClass": "STANDARD",
        "etag": "CAE=",
        "timeCreated": created,
        "updated": created,
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}},
    }


# -- objects


async def list_objects(call: Call) -> Response:
    (bucket,) = call.names
    call.allow(bucket, "storage.objects.list")
    limit = parse.number(call.query, "maxResults")
    page = await run_in_threadpool(
        call.storage.list,
        bucket,
        prefix=call.query.get("prefix", ""),
        delimiter=call.query.get("delimiter", ""),
        start=call.query.get("startOffset", ""),
        after=_token(call.query.get("pageToken", "")),
        limit=min(limit or 1000, 1000),
    )
    document: dict[str, Any] = {"kind": "storage#objects"}
    if page.after:
        document["nextPageToken"] = base64.urlsafe_b64encode(page.after.encode()).decode()
    if page.prefixes:
        document["prefixes"] = page.prefixes
    if page.objects:
        document["items"] = [found.resource(call.base) for found in page.objects]
    return call.answer(document)


async def get_object(call: Call) -> Response:
    if call.query.get("alt") == "media":
        return await download(call)
    bucket, name = call.names
    call.allow(bucket, "storage.objects.get")
    found = await run_in_threadpool(call.storage.get, bucket, name, parse.number(call.query, "generation"))
    _check_read(call, found)
    return call.answer(found.resource(call.base))


async def patch_object(call: Call) -> Response:
    bucket, name = call.names
    call.allow(bucket, "storage.objects.update")
    document = await call.body.json()
    for field in document:
        if field not in FIELDS:
            raise unsupported(f"Object field {field!r}")
    generation = parse.number(call.query, "generation")
    made = await run_in_threadpool(
        call.storage.patch, bucket, name, writable(document), generation, parse.conditions(call.query)
    )
    return call.answer(made.resource(call.base))


async def delete_object(call: Call) -> Response:
    bucket, name = call.names
    call.allow(bucket, "storage.objects.delete")
    generation = parse.number(call.query, "generation")
    await run_in_threadpool(call.storage.delete, bucket, name, generation, parse.conditions(call.query))
    return Response(status_code=204)


async def copy_object(call: Call) -> Response:
    return call.answer((await _copy(call)).resource(call.base))


async def rewrite_object(call: Call) -> Response:
    made = await _copy(call)
    sizes = {"totalBytesRewritten": str(made.size), "objectSize": str(made.size), "done": True}
    return call.answer({"kind": "storage#rewriteResponse", **sizes, "resource": made.resource(call.base)})


async def _copy(call: Call) -> Object:
    bucket, name, target_bucket, target = call.names
    call.allow(bucket, "storage.objects.get")
    call.allow(target_bucket, "storage.objects.create")
    for field in await call.body.json():
        if field not in ("name", "bucket"):
            raise unsupported(f"Object field {field!r} of a copy")
    source = await run_in_threadpool(call.storage.get, bucket, name, parse.number(call.query, "sourceGeneration"))
    if parse.number(call.query, "ifSourceGenerationMatch") not in (None, source.generation):
        raise StorageError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
    return await run_in_threadpool(call.storage.copy, source, target_bucket, target, parse.conditions(call.query))


def _check_read(call: Call, found: Object) -> None:
    """Preconditions of a read: what was not changed is 304, not 412."""
    conditions = parse.conditions(call.query)
    conditions._replace(not_generation=None).check(found)
    if conditions.not_generation == found.generation:
        raise StorageError(304, "notModified", "Not Modified")


# -- media


async def download(call: Call) -> Response:
    bucket, name = call.names
    call.allow(bucket, "storage.objects.get")
    if call.query.get("alt") != "media":
        raise unsupported("A download without alt=media")
    return await _media(call, bucket, name, _check_read)


async def read_xml(call: Call) -> Response:
    """GET and HEAD of the XML API."""
    bucket, name = call.names
    call.allow(bucket, "storage.objects.get")
    given = dict(call.request.headers)
    conditions = Conditions(
        generation=parse.number(given, "x-goog-if-generation-match"),
        metageneration=parse.number(given, "x-goog-if-metageneration-match"),
    )
    return await _media(call, bucket, name, lambda _, found: conditions.check(found), _xml_headers)


async def _media(
    call: Call,
    bucket: str,
    name: str,
    check: Callable[[Call, Object], None],
    more: Callable[[Object], dict[str, str]] = lambda _: {},
) -> Response:
    """An object's bytes, or those of a range. `check` raises if a precondition does not hold; `more` are headers."""
    generation = parse.number(call.query, "generation")
    found, file = await run_in_threadpool(call.storage.open, bucket, name, generation)
    try:
        check(call, found)
        start, stop, status = 0, found.size, 200
        headers = {**_media_headers(found), **more(found)}
        if wanted := call.header("range"):
            span = parse.byte_range(wanted, found.size)
            if span is None:
                raise StorageError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
            (start, stop), status = span, 206
            headers["content-range"] = f"bytes {start}-{stop - 1}/{found.size}"
        headers["content-length"] = str(stop - start)
        if call.request.method == "HEAD":
            file.close()
            return Response(status_code=status, headers=headers)
        file.seek(start)
        if stop - start <= PIECE:
            data = await run_in_threadpool(file.read, stop - start)
            file.close()
            return Response(data, status, headers)
    except BaseException:
        file.close()
        raise
    return StreamingResponse(_pieces(file, stop - start), status, headers)


async def _pieces(file: IO[bytes], left: int) -> AsyncIterator[bytes]:
    with file:
        while left > 0 and (piece := await run_in_threadpool(file.read, min(PIECE, left))):
            left -= len(piece)
            yield piece


def _media_headers(found: Object) -> dict[str, str]:
    headers = {
        "content-type": found.fields.get("contentType", "application/octet-stream"),
        "etag": found.etag,
        "accept-ranges": "bytes",
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": str(found.metageneration),
        "x-goog-hash": f"crc32c={found.crc32c},md5={found.md5}",
        "x-goog-stored-content-encoding": "identity",
        "x-goog-stored-content-length": str(found.size),
        "x-goog-storage-class": "STANDARD",
    }
    for field, header in (
        ("cacheControl", "cache-control"),
        ("contentDisposition", "content-disposition"),
        ("contentLanguage", "content-language"),
    ):
        if field in found.fields:
            headers[header] = found.fields[field]
    return headers


def _xml_headers(found: Object) -> dict[str, str]:
    """Raises StorageError(501) for metadata that no header can hold."""
    headers = {"last-modified": format_datetime(datetime.fromisoformat(found.updated), usegmt=True)}
    for key, value in found.fields.get("metadata", {}).items():
        if not re.fullmatch(r"[\w.-]+", key, re.ASCII) or not re.fullmatch(r"[ -~]*", value):
            raise unsupported(f"Metadata {key[:40]!r} as a header")
        headers[f"x-goog-meta-{key.lower()}"] = value
    return headers


async def upload(call: Call) -> Response:
    if "upload_id" in call.query:  # Go's client continues a session by POST
        return await continue_resumable(call)
    kind = call.query.get("uploadType", "")
    handler = {"media": _upload_media, "multipart": _upload_multipart, "resumable": _start_resumable}.get(kind)
    if handler is None:
        raise unsupported(f"uploadType {kind!r}")
    call.allow(call.names[0], "storage.objects.create")
    return await handler(call)


async def _upload_media(call: Call) -> Response:
    (bucket,) = call.names
    name, fields, checks = parse.metadata({}, bucket, call.query.get("name", ""), call.header("content-type"))
    with Incoming(call.storage.temporary) as incoming:
        async for data in _gathered(call.body):
            await run_in_threadpool(incoming.write, data)
        return await _keep(call, incoming, name, fields, checks)


async def _upload_multipart(call: Call) -> Response:
    (bucket,) = call.names
    parts = parse.Multipart(call.header("content-type"))
    with Incoming(call.storage.temporary) as incoming:
        async for data in _gathered(call.body):
            await run_in_threadpool(incoming.write, parts.feed(data))
        incoming.write(parts.rest())
        name, fields, checks = parse.metadata(parts.metadata, bucket, call.query.get("name", ""), parts.content_type)
        return await _keep(call, incoming, name, fields, checks)


async def _keep(call: Call, incoming: Incoming, name: str, fields: dict[str, Any], checks: dict[str, str]) -> Response:
    checks = {**checks, **parse.hashes(call.header("x-goog-hash"))}

    def keep() -> Object:
        content = incoming.finish()
        uploads.check(content, checks)
        return call.storage.commit(call.names[0], name, incoming.path, content, fields, parse.conditions(call.query))

    made = await run_in_threadpool(keep)
    return call.answer(made.resource(call.base))


async def _start_resumable(call: Call) -> Response:
    (bucket,) = call.names
    document = await call.body.json()
    name, fields, checks = parse.metadata(
        document, bucket, call.query.get("name", ""), call.header("x-upload-content-type")
    )
    total = parse.number(dict(call.request.headers), "x-upload-content-length")
    conditions = parse.conditions(call.query)
    session = await run_in_threadpool(uploads.start, call.storage, bucket, name, fields, conditions, checks, total)
    address = f"{call.base}upload/storage/v1/b/{bucket}/o"
    location = f"{address}?uploadType=resumable&name={quote(name, safe='')}&upload_id={session}"
    return Response(headers={"location": location, "x-guploader-uploadid": session})


async def continue_resumable(call: Call) -> Response:
    (bucket,) = call.names
    call.allow(bucket, "storage.objects.create")
    session = call.query.get("upload_id", "")
    with uploads.alone(session):
        found = await run_in_threadpool(uploads.find, call.storage, session)
        if found.bucket != bucket:
            raise StorageError(404, "notFound", "This upload session belongs to another bucket.")
        if found.result is not None:  # the answer was lost: say it again
            await call.body.drain()
            return call.answer(found.result.resource(call.base))
        header = call.header("content-range") or f"bytes 0-*/{call.header('content-length') or '*'}"
        match = re.fullmatch(r"bytes (?:(\*)|([0-9]+)-([0-9]+|\*))/([0-9]+|\*)", header)
        if not match:
            raise invalid(f"Failed to parse Content-Range header: {header[:60]!r}")
        query, first, last, declared = match.groups()
        total = found.total if declared == "*" else int(declared)
        if found.total not in (None, total):
            raise invalid(f"Content-Range says {total} bytes in total, the upload was begun with {found.total}.")
        if not query:
            found = await _receive(call, found, int(first), last, total)
            if last == "*":
                total = found.received
        # `bytes */N` with all N bytes here is the end of an upload whose size was not known before
        if total == found.received and (not query or declared != "*"):
            checks = parse.hashes(call.header("x-goog-hash"))
            made = await run_in_threadpool(uploads.finish, call.storage, found, checks)
            return call.answer(made.resource(call.base))
    headers = {"range": f"bytes=0-{found.received - 1}"} if found.received else {}
    headers["x-guploader-uploadid"] = session
    if call.header("x-guploader-no-308") == "yes":  # Go's client: 308 means something else to its HTTP library
        return Response(status_code=200, headers={**headers, "x-http-status-code-override": "308"})
    return Response(status_code=308, headers=headers)


async def _receive(call: Call, found: uploads.Upload, first: int, last: str, total: int | None) -> uploads.Upload:
    if last != "*":
        length = int(last) + 1 - first
        if length < 1 or (total is not None and int(last) >= total):
            raise invalid("Invalid Content-Range: the range is empty or beyond the total")
        if length % uploads.CHUNK and int(last) + 1 != total:
            raise invalid(
                "Invalid request. The number of bytes uploaded is required to be equal or greater than "
                f"{uploads.CHUNK}, except for the final request (it's recommended to be the exact multiple of "
                f"{uploads.CHUNK}). The received request contained {length} bytes, which does not meet this."
            )
    with uploads.Chunk(call.storage, found, first) as chunk:
        async for data in _gathered(call.body):
            await run_in_threadpool(chunk.write, data)
        if last != "*" and chunk.end != int(last) + 1:
            raise invalid(f"Content-Range says {last} is the last byte, the body ends at {chunk.end - 1}.")
        return await run_in_threadpool(chunk.commit)


async def ready(call: Call) -> Response:
    """For probes, without a token. No bucket's name begins with "-"."""
    await run_in_threadpool(call.storage.buckets)
    return PlainTextResponse("ready")


# -- the table

COMMON = {"alt", "fields", "prettyPrint", "projection"}
READ = {"generation", "ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch"}
WRITE = {"ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch"}
COPY = {"sourceGeneration", "ifSourceGenerationMatch"} | WRITE
# `uploadType`, `alt`: what they may say is checked where they are read; JSON and no ACLs is all there is otherwise
VALUES = {
    "alt": ("json", "media"),
    "projection": ("noAcl", "full"),
    "prettyPrint": ("true", "false"),
    # Go's client says all of them, always
    "endOffset": ("",),
    "matchGlob": ("",),
    "versions": ("false",),
    "includeTrailingDelimiter": ("false",),
    "includeFoldersAsPrefixes": ("false",),
}
LIST = {"prefix", "delimiter", "pageToken", "maxResults", "startOffset", "endOffset", "matchGlob", "versions"}
LIST |= {"includeTrailingDelimiter", "includeFoldersAsPrefixes"}
UPLOAD = {"uploadType", "name", "upload_id"} | WRITE

# the first that fits counts
TABLE: tuple[tuple[str, str, Handler, set[str]], ...] = (
    ("GET", "/storage/v1/b", list_buckets, {"project"}),
    ("POST", "/storage/v1/b", create_bucket, {"project"}),
    ("GET", "/storage/v1/b/{}", get_bucket, set()),
    ("GET", "/storage/v1/b/{}/o", list_objects, LIST),
    ("GET", "/storage/v1/b/{}/o/{}", get_object, READ),
    ("PATCH", "/storage/v1/b/{}/o/{}", patch_object, READ),
    ("DELETE", "/storage/v1/b/{}/o/{}", delete_object, READ),
    ("POST", "/storage/v1/b/{}/o/{}/copyTo/b/{}/o/{}", copy_object, COPY),
    ("POST", "/storage/v1/b/{}/o/{}/rewriteTo/b/{}/o/{}", rewrite_object, COPY),
    ("GET", "/download/storage/v1/b/{}/o/{}", download, READ),
    ("POST", "/upload/storage/v1/b/{}/o", upload, UPLOAD),
    ("PUT", "/upload/storage/v1/b/{}/o", continue_resumable, UPLOAD),
    ("GET", "/-/ready", ready, set()),
    ("GET", "/{}/{}", read_xml, {"generation"}),
    ("HEAD", "/{}/{}", read_xml, {"generation"}),
)
OPERATIONS = tuple(
    Operation(
        method,
        re.compile(re.escape(path).replace(r"\{\}", "([^/]+)")),
        handler,
        frozenset(parameters | (COMMON if "/storage/v1/" in path else set())),
    )
    for method, path, handler, parameters in TABLE
)


def _operation(request: Request) -> tuple[Operation, list[str]]:
    """By the path as it was sent: the "/" of an object's name comes as %2F, and only so."""
    path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    for operation in OPERATIONS:
        match = operation.path.fullmatch(path)
        if match and operation.method == request.method:
            return operation, [unquote(name, errors="surrogateescape") for name in match.groups()]
    raise unsupported(f"{request.method} {path[:200]}")


def _query(request: Request, operation: Operation) -> dict[str, str]:
    pairs = parse_qsl(request.url.query, keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs):
        raise invalid("A query parameter is given twice")
    for name, value in query.items():
        if name not in operation.parameters:
            raise unsupported(f"Query parameter {name!r} of {request.method} {request.url.path[:200]}")
        if value not in VALUES.get(name, (value,)):
            raise unsupported(f"{name}={value[:40]!r}")
    return query


def _token(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text).decode()
    except ValueError:
        raise invalid("Invalid pageToken") from None


async def _gathered(body: parse.Body) -> AsyncIterator[bytes]:
    """The body in pieces worth a trip to a thread."""
    held: list[bytes] = []
    size = 0
    async for piece in body.pieces():
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
