"""Aliases: `model/<service>/aliases/<alias>.json` says which lock "serving" means, changed by compare-and-swap."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import NamedTuple

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import Bucket, ExistsError
from pipelines.registry.names import check, digest_hex

TRIES = 10


class Alias(NamedTuple):
    """What an alias names, and the generation to give when changing it."""

    lock: str
    generation: int


class Aliases:
    """The aliases of a service."""

    bucket: Bucket

    def get_alias(self, service: str, alias: str) -> Alias | None:
        """None if nobody has set it. Raises YardError(CONFLICT) if it cannot be read."""
        name = _name(service, alias)
        found = self.bucket.find(name)
        if found is None:
            return None
        return Alias(self._parse(name, found[0])["lock"], found[1])

    def set_alias(self, service: str, alias: str, lock: str, expect_generation: int) -> int:
        """Change it if it still has this generation (0: if it does not exist); the new generation.

        Raises YardError(CONFLICT) if somebody else changed it. Each write carries a mark of its own, so that one whose
        answer was lost is known for what it is.
        """
        digest_hex(lock)
        name, mark = _name(service, alias), uuid.uuid4().hex
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = json.dumps({"lock": lock, "mark": mark, "at": at}, sort_keys=True, separators=(",", ":"))
        try:
            return self.bucket.replace(name, record.encode(), expect_generation)
        except ExistsError:
            found = self.bucket.find(name)
            if found is not None and self._parse(name, found[0]).get("mark") == mark:
                return found[1]
        raise YardError("changed by somebody else meanwhile", where=f"{self.bucket}/{name}", code=Exit.CONFLICT)

    def move_alias(self, service: str, alias: str, lock: str) -> Alias:
        """Make it name this lock, whatever it named before; no write if it does already."""
        for _ in range(TRIES):
            now = self.get_alias(service, alias)
            if now is not None and now.lock == lock:
                return now
            try:
                return Alias(lock, self.set_alias(service, alias, lock, now.generation if now else 0))
            except YardError as error:
                if error.code != Exit.CONFLICT:
                    raise
        raise YardError("changed by somebody else again and again", where=_name(service, alias), code=Exit.UNAVAILABLE)

    def _parse(self, name: str, data: bytes) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(data)
            digest_hex(found["lock"])
        except (ValueError, KeyError, TypeError, YardError):
            todo = "delete it; the next release that proves itself sets it again"
            raise YardError("not an alias", where=f"{self.bucket}/{name}", todo=todo, code=Exit.CONFLICT) from None
        return found


def _name(service: str, alias: str) -> str:
    return f"model/{check('service', service)}/aliases/{check('alias', alias)}.json"
