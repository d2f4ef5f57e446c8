"""A registry of container images over HTTP: what the steps need of it, on the standard library (as `steps/_http.py`).

Source: OCI distribution specification 1.1 (manifests, blobs, referrers and their fallback tag), OCI image
specification 1.1 (artifacts), Docker's token authentication (`WWW-Authenticate: Bearer realm=…`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import platform
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipelines.errors import Exit, YardError
from pipelines.steps._http import Response, download, send

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
ACCEPT = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX))
IMAGE = re.compile(
    r"(?P<name>(?P<host>[\w.-]+(?::\d+)?)/(?P<path>[a-z0-9][a-z0-9._/-]*))(?P<mark>[:@])(?P<ref>[\w.:-]+)"
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as uname says → as Go and OCI say
SMALL = 64 << 20  # bytes of a blob that is read into memory

Document = dict[str, Any]


class Image(NamedTuple):
    """`name` is the repository with its registry's host, `reference` a digest or a tag."""

    name: str
    host: str
    path: str
    reference: str

    @property
    def pinned(self) -> bool:
        return DIGEST.fullmatch(self.reference) is not None


class Manifest(NamedTuple):
    media_type: str
    digest: str
    body: bytes

    @property
    def document(self) -> Document:
        found: Document = json.loads(self.body)
        return found

    @property
    def descriptor(self) -> Document:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}


def parse(image: str) -> Image:
    """Raises YardError(INVALID) for what does not say registry, repository, and tag or digest."""
    found = IMAGE.fullmatch(image)
    if found is None or (found["mark"] == "@" and not DIGEST.fullmatch(found["ref"])):
        raise YardError(f"{image!r} is not an image", todo="write HOST/NAME@sha256:… or HOST/NAME:TAG")
    return Image(found["name"], found["host"], found["path"], found["ref"])


def open_repository(image: Image, env: Mapping[str, str] = os.environ) -> Repository:
    """The repository of an image.

    `env`: REGISTRY_URL is where the registry of REGISTRY answers (another one: https at its own name); REGISTRY_AUTH
    is the path of a Docker `config.json`, which need not be there.
    """
    ours = env.get("REGISTRY", "").partition("/")[0] == image.host
    url = (ours and env.get("REGISTRY_URL")) or f"https://{image.host}"
    return Repository(url, image.path, login(Path(env.get("REGISTRY_AUTH", "")), image.host, url))


def login(path: Path, *addresses: str) -> str:
    """`user:password` for the first of these registries that a Docker `config.json` has; "" if there is none.

    Raises YardError(INVALID) for a file that is not one.
    """
    if not path.is_file():
        return ""
    try:
        entries = {_host(name): entry for name, entry in json.loads(path.read_text()).get("auths", {}).items()}
        for entry in (entries[host] for host in map(_host, addresses) if host in entries):
            if entry.get("auth"):
                return base64.b64decode(entry["auth"], validate=True).decode()
            if entry.get("username"):
                return f"{entry['username']}:{entry['password']}"
    except (ValueError, KeyError, TypeError, AttributeError):  # without the problem's text: it may quote the file
        todo = "kubectl create secret docker-registry writes a right one"
        raise YardError("not a Docker config.json", where=str(path), todo=todo) from None
    return ""


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical(document: Document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class Repository:
    """One repository of a registry. Every method raises YardError: UNAVAILABLE if the registry does not answer or
    breaks off, INVALID if it refuses the login or sends other bytes than were asked for, NOT_FOUND.
    """

    def __init__(self, url: str, path: str, login: str = "") -> None:
        self.url, self.path, self._login = url.rstrip("/"), path, login
        self._authorization = ""

    # reading

    def manifest(self, reference: str) -> Manifest:
        """By tag or digest; what was asked for by digest has that digest."""
        answer = self._send("GET", f"manifests/{reference}", accept=ACCEPT)
        self._expect(answer, 200, reference)
        found = digest_of(answer.body)
        if DIGEST.fullmatch(reference) and found != reference:
            raise self._wrong(f"the manifest {reference} is {found}")
        try:
            document = answer.json()
            media_type = document.get("mediaType") or str(answer.headers.get("Content-Type")).partition(";")[0]
            if document["schemaVersion"] != 2:
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError):
            raise self._wrong(f"{reference} is no manifest of an image") from None
        return Manifest(media_type, found, answer.body)

    def platform(self, manifest: Manifest) -> Manifest:
        """Of an image for several platforms the one that this machine runs; any other image as it is."""
        if manifest.media_type not in (INDEX, DOCKER_INDEX):
            return manifest
        wanted = ("linux", ARCHITECTURES.get(platform.machine(), platform.machine()))
        for entry in manifest.document.get("manifests", []):
            where = entry.get("platform") or {}
            if (where.get("os"), where.get("architecture")) == wanted:
                return self.manifest(entry["digest"])
        what = f"the image {manifest.digest} has nothing for {'/'.join(wanted)}"
        raise YardError(what, where=self.path, todo="build it for this platform", code=Exit.NOT_FOUND)

    @contextlib.contextmanager
    def blob(self, descriptor: Document) -> Iterator[Verified]:
        """A blob as a stream. Only after the `with` is it known to be what its digest says: believe nothing earlier."""
        digest, size = _described(descriptor)
        for attempt in (1, 2):
            path = f"blobs/{digest}"
            with download(self._address(path), self._headers()) as (answer, body):
                if answer.status == 401 and attempt == 1:
                    self._authorize(answer)
                    continue
                self._expect(answer, 200, digest)
                stream, failure = Verified(body), None
                try:
                    yield stream
                except YardError as error:  # perhaps because the bytes are wrong, which says more
                    failure = error
                stream.drain()
            if stream.size < size:
                what = f"{self._address(path)}: broke off after {stream.size} of {size} bytes"
                raise YardError(what, todo="try again", code=Exit.UNAVAILABLE)
            if stream.size > size or stream.digest != digest:
                raise self._wrong(f"the blob {digest} ({size} bytes) is {stream.digest} ({stream.size} bytes)")
            if failure:
                raise failure
            return

    def small_blob(self, descriptor: Document) -> bytes:
        """A blob in memory. Raises YardError(INVALID) for one above 64 MiB."""
        digest, size = _described(descriptor)
        if size > SMALL:
            raise YardError(f"{size} bytes, {SMALL} at most", where=f"{self.path}@{digest}")
        with self.blob(descriptor) as stream:
            return stream.read(SMALL + 1)

    def referrers(self, digest: str, artifact_type: str) -> list[Document]:
        """Descriptors of what is attached to a manifest, by digest."""
        answer = self._send("GET", f"referrers/{digest}?artifactType={urllib.parse.quote(artifact_type, safe='')}")
        if answer.status == 404:  # a registry before 1.1
            found = self.find(_fallback(digest))
            entries = found.document.get("manifests", []) if found else []
        else:
            self._expect(answer, 200, f"referrers of {digest}")
            entries = answer.json().get("manifests") or []
        own = {entry["digest"]: entry for entry in entries if entry.get("artifactType") == artifact_type}
        return [own[key] for key in sorted(own)]

    # writing

    def put_blob(self, data: bytes, media_type: str) -> Document:
        """Upload, unless it is there; its descriptor."""
        digest = digest_of(data)
        if self._send("HEAD", f"blobs/{digest}").status != 200:
            begun = self._send("POST", "blobs/uploads/", b"")
            self._expect(begun, 202, "an upload")
            place = urllib.parse.urljoin(begun.url, str(begun.headers.get("Location", "")))
            sign = "&" if "?" in place else "?"
            done = self._send("PUT", f"{place}{sign}digest={digest}", data, "application/octet-stream")
            self._expect(done, 201, f"the upload of {digest}")
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def put_manifest(self, document: Document, tag: str = "") -> Manifest:
        """Under a tag, or by its digest alone; a `subject` finds it among its referrers, on any registry."""
        body = canonical(document)
        manifest = Manifest(document["mediaType"], digest_of(body), body)
        answer = self._send("PUT", f"manifests/{tag or manifest.digest}", body, manifest.media_type)
        self._expect(answer, 201, f"the manifest {tag or manifest.digest}")
        subject = document.get("subject")
        if subject and answer.headers.get("OCI-Subject") != subject["digest"]:
            self._refer(subject["digest"], {**manifest.descriptor, "artifactType": document["artifactType"]})
        return manifest

    def attach(self, subject: Manifest, artifact_type: str, data: bytes) -> Manifest:
        """Attach one file to a manifest. The same file again changes nothing."""
        return self.put_manifest(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": artifact_type,
                "config": self.put_blob(b"{}", EMPTY),
                "layers": [self.put_blob(data, artifact_type)],
                "subject": subject.descriptor,
            }
        )

    def find(self, tag: str) -> Manifest | None:
        """The manifest of a tag, None if there is no such tag."""
        try:
            return self.manifest(tag)
        except YardError as error:
            if error.code != Exit.NOT_FOUND:
                raise
            return None

    def _refer(self, digest: str, descriptor: Document) -> None:
        """List a referrer in the index that stands for the API of registries before 1.1. Of two writers at once the
        later wins, as the specification has it; here one step of one run writes.
        """
        tag = _fallback(digest)
        before = self.find(tag)
        entries = {entry["digest"]: entry for entry in before.document.get("manifests", [])} if before else {}
        if descriptor["digest"] not in entries:
            entries[descriptor["digest"]] = descriptor
            listed = [entries[key] for key in sorted(entries)]
            self.put_manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}, tag)

    # HTTP

    def _send(
        self, method: str, path: str, data: bytes | None = None, content: str = "", *, accept: str = "*/*"
    ) -> Response:
        url = self._address(path)
        for attempt in (1, 2):
            headers = {"Accept": accept, **({"Content-Type": content} if content else {})}
            if _origin(url) == _origin(self.url):  # an upload may go elsewhere: then its address is its own credential
                headers |= self._headers()
            answer = send(method, url, data, headers, timeout=60.0)
            if answer.status != 401 or attempt == 2:
                break
            self._authorize(answer)
        return answer

    def _address(self, path: str) -> str:
        return path if "://" in path else f"{self.url}/v2/{self.path}/{path}"

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    def _authorize(self, answer: Response) -> None:
        """Do as the challenge of a 401 says: Basic, or a token from its realm."""
        challenges = answer.headers.get_all("WWW-Authenticate") or []
        basic = "Basic " + base64.b64encode(self._login.encode()).decode()
        for challenge in challenges:
            scheme, _, rest = challenge.strip().partition(" ")
            if scheme.lower() == "bearer":
                self._authorization = "Bearer " + self._token(dict(re.findall(r'(\w+)="([^"]*)"', rest)), basic)
                return
        if self._login and any(challenge.lower().startswith("basic") for challenge in challenges):
            self._authorization = basic
            return
        raise self._closed(f"HTTP 401 {answer.text()}")

    def _token(self, challenge: dict[str, str], basic: str) -> str:
        realm = challenge.get("realm", "")
        if not realm.startswith("https://" if self.url.startswith("https://") else ("http://", "https://")):
            raise self._wrong(f"it wants the login sent to {realm!r}")
        scope = f"repository:{self.path}:{'pull,push' if self._login else 'pull'}"
        query = urllib.parse.urlencode({"service": challenge.get("service", ""), "scope": scope})
        headers = {"Accept": "application/json", **({"Authorization": basic} if self._login else {})}
        answer = send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", None, headers)
        if answer.status != 200:
            raise self._closed(f"{realm}: HTTP {answer.status} {answer.text()}")
        try:
            found = answer.json()
            return str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise self._wrong(f"{realm} gave no token") from None

    def _expect(self, answer: Response, status: int, what: str) -> None:
        if answer.status in (401, 403):
            raise self._closed(f"HTTP {answer.status} {answer.text()}")
        if answer.status == 404:
            todo = "was it built, and pushed there? ConfigMap endpoints, REGISTRY_URL, says where"
            raise YardError(f"{what}: not there", where=f"{self.url}/v2/{self.path}", todo=todo, code=Exit.NOT_FOUND)
        if answer.status != status:
            raise self._wrong(f"{what}: HTTP {answer.status} {answer.text()}")

    def _closed(self, what: str) -> YardError:
        todo = "the login of Secret registry-push may pull and push there?" if self._login else "Secret registry-push"
        return YardError(what, where=f"{self.url}/v2/{self.path}", todo=todo)

    def _wrong(self, what: str) -> YardError:
        return YardError(what, where=f"{self.url}/v2/{self.path}", todo="is REGISTRY_URL a registry's address?")


class Verified:
    """A stream that counts and hashes what is read from it."""

    def __init__(self, body: IO[bytes]) -> None:
        self._body, self._hash, self.size = body, hashlib.sha256(), 0

    def read(self, size: int = 1 << 20) -> bytes:
        data = self._body.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        while self.read():
            pass

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _described(descriptor: Document) -> tuple[str, int]:
    """Digest and size. Raises YardError(INVALID) for a descriptor without them."""
    digest, size = descriptor.get("digest"), descriptor.get("size")
    if not (isinstance(digest, str) and DIGEST.fullmatch(digest) and isinstance(size, int) and size >= 0):
        raise YardError(f"not a descriptor: {str(descriptor)[:200]}", where="the image's manifest")
    return digest, size


def _fallback(digest: str) -> str:
    return digest.replace(":", "-")


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _host(address: str) -> str:
    """`harbor.example.com` of what a Docker config.json calls a registry: with or without scheme and path."""
    return address.partition("://")[2].partition("/")[0] if "://" in address else address.partition("/")[0]
