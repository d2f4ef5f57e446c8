"""backup: one file into the backup bucket, under the time of its making. Never over another: who may only create
objects there cannot spoil an older copy.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import Bucket, ExistsError
from pipelines.steps._step import InputPath, step

DEADLINE = 600.0  # seconds for the whole upload, with its tries


@step
def backup(*, file: InputPath, into: str) -> None:
    """The store itself compares the checksum. Raises YardError: INVALID for an empty file, and as Bucket does."""
    if not file.is_file() or not file.stat().st_size:
        raise YardError(
            "there is nothing to copy", where=str(file), todo="look at the log of the container before this"
        )
    with file.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").digest()
    # the bucket's own names, whatever those of the registry are: one must not be the other's copy
    places = {"BACKUP_BUCKET": "REGISTRY_BUCKET", "BACKUP_CREDENTIALS": "REGISTRY_CREDENTIALS"}
    env = {ours: os.environ.get(name, "") for name, ours in places.items()}
    if not env["REGISTRY_BUCKET"]:
        raise YardError("BACKUP_BUCKET is not set", todo="addons.backup.bucket in platform.yaml names it")
    bucket = Bucket.open({**env, "STORAGE_URL": os.environ.get("STORAGE_URL", "")}, DEADLINE)
    name = f"{into}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    try:
        bucket.create_from(name, file, md5)
    except ExistsError:
        todo = "another copy was made in the same second: nothing is lost"
        raise YardError("this name is taken", where=f"{bucket}/{name}", todo=todo, code=Exit.CONFLICT) from None
    print(f"{bucket}/{name}: {file.stat().st_size} bytes")
