"""The registry as a whole: what its parts do, on one bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.registry.aliases import Aliases
from pipelines.registry.runs import Runs
from pipelines.registry.versions import Versions

if TYPE_CHECKING:
    from pipelines.registry.lock import Lock


class Registry(Versions, Aliases, Runs):
    """Blobs, directories, versions, locks, aliases, claims and run records. Made by `open_registry`."""

    def put_lock(self, lock: Lock) -> str:
        """Store a lock and return its digest; the same lock has the same digest."""
        return self.put_blob(lock.canonical())

    def get_lock(self, digest: str) -> Lock:
        """Raises YardError: NOT_FOUND, CONFLICT if it is corrupt or no lock."""
        from pipelines.registry.lock import parse_lock

        return parse_lock(self.get_blob(digest), digest)
