"""Claims: `claims/<key>.json`, the create-once marker that makes one run the only one for its commit and attempt."""

from __future__ import annotations

import json

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import Bucket, ExistsError
from pipelines.registry.names import check_path


class Claims:
    """Who was first."""

    bucket: Bucket

    def claim(self, key: str, owner: str) -> bool:
        """True for the first owner of this key, and again for the same one: a retry after a crash or a lost answer."""
        record = json.dumps({"owner": owner}).encode()
        try:
            self.bucket.create(_name(key), record)
        except ExistsError:
            return self.claimed(key) == owner
        return True

    def claimed(self, key: str) -> str | None:
        """The owner, None if nobody claimed it. Raises YardError(CONFLICT) if the marker cannot be read."""
        name = _name(key)
        found = self.bucket.find(name)
        if found is None:
            return None
        try:
            return str(json.loads(found[0])["owner"])
        except (ValueError, KeyError, TypeError):
            raise YardError("not a claim", where=f"{self.bucket}/{name}", code=Exit.CONFLICT) from None


def _name(key: str) -> str:
    return f"claims/{check_path('key', key)}.json"
