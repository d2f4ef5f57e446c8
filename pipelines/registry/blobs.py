"""Content by digest: `blobs/sha256/<hex>`, created once, verified on every read."""

from __future__ import annotations

import hashlib
import io
import uuid
from pathlib import Path

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import Bucket, ExistsError, Sink
from pipelines.registry.names import digest_hex

PIECE = 1 << 20
SMALL = 8 << 20  # bytes up to which a file is sent in one request


class Blobs:
    """Bytes and files. A digest is "sha256:<hex>"."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def put_blob(self, content: bytes | Path) -> str:
        """Store it unless it is there, and return its digest.

        Raises YardError(CONFLICT) if something else is under that name. The client repeats an upload whose answer was
        lost, and then hears that the object exists: so "exists" means read it back; only other content is a conflict.
        """
        if isinstance(content, Path) and content.stat().st_size <= SMALL:
            content = content.read_bytes()
        sha256, md5 = _digests(content)
        name = _name(sha256)
        try:
            if isinstance(content, bytes):
                self.bucket.create(name, content)
            else:
                self.bucket.create_from(name, content, md5)
        except ExistsError:
            self._read(name, sha256, None)
        return f"sha256:{sha256}"

    def get_blob(self, digest: str) -> bytes:
        """Raises YardError: NOT_FOUND, CONFLICT if what is there is not what the digest says."""
        sha256 = digest_hex(digest)
        buffer = io.BytesIO()
        self._read(_name(sha256), sha256, buffer)
        return buffer.getvalue()

    def fetch_blob(self, digest: str, path: Path) -> None:
        """Write the blob to `path`, which appears only when it is complete and verified. Raises like `get_blob`."""
        sha256 = digest_hex(digest)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                self._read(_name(sha256), sha256, file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _read(self, name: str, sha256: str, sink: Sink | None) -> None:
        hashing = _Hashing(sink)
        self.bucket.read_into(name, hashing)
        real = hashing.sha256.hexdigest()
        if real != sha256:
            raise YardError(
                f"corrupt: its content is sha256:{real}",
                where=f"{self.bucket}/{name}",
                todo="restore this object from a copy, or delete it and run again what made it",
                code=Exit.CONFLICT,
            )


class _Hashing:
    """Hashes bytes and passes them on."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink, self.sha256 = sink, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        if self._sink is not None:
            self._sink.write(data)
        return len(data)


def _name(sha256: str) -> str:
    return f"blobs/sha256/{sha256}"


def _digests(content: bytes | Path) -> tuple[str, bytes]:
    """sha256 for us, md5 for the store: it cannot check ours, and a file may change between hashing and sending."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), b""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with content.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            md5.update(piece)
    return sha256.hexdigest(), md5.digest()
