"""What the store holds: objects with generations, the conditions on them, and pages of them."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple
from urllib.parse import quote

from solo.storage.errors import precondition

# what a client may say about an object; anything else is refused by name
FIELDS = ("contentType", "metadata", "cacheControl", "contentDisposition", "contentLanguage", "customTime")


class Content(NamedTuple):
    """Bytes by what identifies them; `crc32c` and `md5` in base64, as GCS has them."""

    size: int
    sha256: str
    crc32c: str
    md5: str


class Object(NamedTuple):
    """The live generation of one object. `fields` are those of FIELDS that are set."""

    bucket: str
    name: str
    generation: int
    metageneration: int
    size: int
    sha256: str
    crc32c: str
    md5: str
    created: str
    updated: str
    fields: dict[str, Any]

    @property
    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()

    def resource(self, base: str) -> dict[str, Any]:
        """The object as the JSON API shows it; `base` is the server's own address, ending in "/"."""
        path = f"b/{self.bucket}/o/{quote(self.name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{base}storage/v1/{path}",
            "mediaLink": f"{base}download/storage/v1/{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "storageClass": "STANDARD",
            "size": str(self.size),
            "md5Hash": self.md5,
            "crc32c": self.crc32c,
            "etag": self.etag,
            "timeCreated": self.created,
            "updated": self.updated,
            "timeStorageClassUpdated": self.created,
            "timeFinalized": self.created,
            **self.fields,
        }


class Conditions(NamedTuple):
    """GCS's preconditions; a generation of 0 means "there is no such object"."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None

    def check(self, current: Object | None) -> None:
        """Raises StorageError(412)."""
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if (
            self.generation not in (None, generation)
            or self.not_generation == generation
            or self.metageneration not in (None, metageneration)
        ):
            raise precondition()


class Listing(NamedTuple):
    """One page: objects, the prefixes that a delimiter cut, and behind what the next page begins ("" = no more)."""

    objects: list[Object]
    prefixes: list[str]
    after: str
