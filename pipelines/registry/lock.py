"""The lock: one version of each axis by digest, and everything that explains how it came to be. Stored as a blob."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from pipelines.errors import Exit, YardError
from pipelines.registry.versions import AXES

DIGEST = r"^sha256:[0-9a-f]{64}$"


class LockedVersion(BaseModel):
    """A version as a lock names it; `digest` is that of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    number: int = Field(ge=1)
    digest: str = Field(pattern=DIGEST)


class Platform(TypedDict):
    """What ran it. The same digests come out again only where all of this is the same."""

    version: str  # of the platform, its commit included
    templates: str  # digest of the committed templates
    image: str  # of the steps
    architecture: str


class WorkflowRef(TypedDict):
    name: str
    uid: str


class Lock(BaseModel):
    """What is released. It has no time of its own: the same run makes the same lock again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str
    repo: str
    branch: str
    sha: str = Field(pattern=r"^[0-9a-f]{40}$")
    attempt: int = Field(ge=1)
    image: str
    versions: dict[str, LockedVersion]
    platform: Platform
    seed: int
    params: dict[str, Any]
    params_digest: str = Field(pattern=DIGEST)
    metrics: dict[str, Any]
    thresholds: dict[str, Any]
    decision: dict[str, Any]
    workflows: dict[str, WorkflowRef]  # by pipeline: ct, ci

    @field_validator("versions")
    @classmethod
    def _one_of_each(cls, value: dict[str, LockedVersion]) -> dict[str, LockedVersion]:
        if set(value) != set(AXES):
            raise ValueError(f"a lock names one version of each axis: {', '.join(AXES)}")
        return value

    def canonical(self) -> bytes:
        """The bytes that the digest is taken of: keys sorted, no space, numbers as Python writes them shortest.

        Raises YardError(INVALID) for NaN and infinities, which JSON does not have.
        """
        try:
            # not model_dump(mode="json"), which writes NaN as null
            return json.dumps(
                self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
            ).encode()
        except (ValueError, TypeError) as error:
            raise YardError(f"cannot be written as JSON: {error}", where=f"lock of {self.service}") from None


def parse_lock(data: bytes, digest: str) -> Lock:
    """Raises YardError(CONFLICT) if the blob is not a lock."""
    try:
        return Lock.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "lock"
        raise YardError(
            f"{digest} is not a lock: {field}: {first['msg']}",
            todo="was it written by another version of the platform?",
            code=Exit.CONFLICT,
        ) from None
