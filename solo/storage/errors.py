"""Failures as Google Cloud Storage words them: a status, a reason for programs, a message for people."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

# https://docs.cloud.google.com/storage/docs/xml-api/reference-status
XML_CODES = {
    401: "AuthenticationRequired",
    403: "AccessDenied",
    404: "NoSuchBucket",
    412: "PreconditionFailed",
    416: "InvalidRange",
    501: "NotImplemented",
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(OSError):
    """An answer other than success. `status` is HTTP's; `reason` is the word that GCS has for it.

    An OSError, because in-process the store is used as one uses files.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def document(self) -> dict[str, Any]:
        """The body of the answer in the shape of GCS's JSON API."""
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": self.message, "errors": [detail]}}

    def xml(self) -> str:
        """The body of the answer in the shape of GCS's XML API, which has words of its own."""
        code = XML_CODES.get(self.status, "InternalError" if self.status >= 500 else "InvalidArgument")
        if isinstance(self, NoObjectError):
            code = "NoSuchKey"
        error = f"<Error><Code>{code}</Code><Message>{escape(self.message)}</Message></Error>"
        return f"<?xml version='1.0' encoding='UTF-8'?>{error}"


class NoObjectError(StorageError, FileNotFoundError):
    """The bucket is there, the object is not."""


def no_bucket() -> StorageError:
    return StorageError(404, "notFound", "The specified bucket does not exist.")


def no_object(bucket: str, name: str) -> StorageError:
    return NoObjectError(404, "notFound", f"No such object: {bucket}/{name}")


def precondition() -> StorageError:
    return StorageError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def invalid(message: str) -> StorageError:
    return StorageError(400, "invalid", message)


def unsupported(what: str) -> StorageError:
    return StorageError(501, "notImplemented", f"{what} is not supported by this emulator")


def full(detail: str) -> StorageError:
    # 507, not 503: the client retries a 503 until its deadline, and a full disk does not empty itself
    return StorageError(507, "insufficientStorage", f"The store is full, nothing was written: {detail}")


@contextmanager
def full_disk() -> Iterator[None]:
    """Turn an OSError that means "no space" into `full`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise full(str(error.strerror)) from None
        raise
