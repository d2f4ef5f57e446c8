"""Who may do what over HTTP: bearer tokens per bucket. In-process use asks nobody."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping

from solo.storage.errors import StorageError

# {"write": tokens, "read": tokens}; a write token reads as well. None: open to all
Rules = Mapping[str, Collection[str]] | None
# by bucket; one that is not named is open, too, unless the server closes those
Tokens = Mapping[str, Rules]
# no token at all: the bucket exists in-process only
CLOSED: Rules = {"write": (), "read": ()}

WRITES = {"storage.objects.create", "storage.objects.delete", "storage.objects.update", "storage.buckets.create"}


class Access:
    """The rules of one server. With `closed_by_default`, buckets that `tokens` does not name are closed, not open."""

    def __init__(self, tokens: Tokens, *, closed_by_default: bool) -> None:
        self._tokens, self._default = tokens, CLOSED if closed_by_default else None

    def allows(self, header: str, bucket: str, permission: str) -> bool:
        try:
            self.check(header, bucket, permission)
        except StorageError:
            return False
        return True

    def check(self, header: str, bucket: str, permission: str) -> None:
        """`header` is the value of Authorization, "" if there is none. Raises StorageError(401 or 403)."""
        rules = self._tokens.get(bucket, self._default)
        if rules is None:
            return
        if not any(rules.values()):
            raise StorageError(403, "forbidden", f"Bucket {bucket} is closed over HTTP.")
        denied = f"Permission '{permission}' denied on resource (or it may not exist)."
        if not header:
            raise StorageError(401, "required", f"Anonymous caller does not have {permission} access. {denied}")
        if _among(header, rules["write"]) or (permission not in WRITES and _among(header, rules["read"])):
            return
        if any(_among(header, tokens) for known in self._tokens.values() if known for tokens in known.values()):
            raise StorageError(
                403, "forbidden", f"The bearer of this token does not have {permission} access. {denied}"
            )
        raise StorageError(401, "authError", "Invalid Credentials")


def _among(header: str, tokens: Collection[str]) -> bool:
    scheme, _, token = header.partition(" ")
    # every token is compared, each in constant time
    found = [hmac.compare_digest(token.strip().encode(), known.encode()) for known in tokens]
    return scheme.lower() == "bearer" and any(found)
