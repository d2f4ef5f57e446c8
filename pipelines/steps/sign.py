"""sign: the platform's word that ci tested this image and the gate accepted what was made with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from pipelines import oci, signing
from pipelines.errors import Exit, YardError
from pipelines.registry import open_registry
from pipelines.steps._step import step
from pipelines.steps.release import locked_for


class Signed(TypedDict):
    image: str
    signature: str


@step
def sign(*, service: str, repo: str, sha: str, lock: str) -> Signed:
    """Sign the image of a lock; `signature` is the digest of the manifest that holds it. A second run changes nothing.

    Raises YardError: UNAVAILABLE if a registry does not answer, NOT_FOUND if the image or its bill of materials is not
    there, INVALID for another service's lock or a key that is none.
    """
    image = oci.parse(locked_for(open_registry(), lock, service, repo, sha).image)
    path = Path(os.environ["SIGNING_KEY"])
    key = signing.private_key(path.read_bytes(), str(path))
    repository = oci.open_repository(image)
    listed = signing.sboms(repository, image.reference)
    if not listed:
        what = f"{image.name}@{image.reference} has no bill of materials"
        raise YardError(what, todo=f"ci attaches it: yard rerun {sha[:12]}", code=Exit.NOT_FOUND)
    # whoever trusts the signature can tell the bill of materials of this day from one that was put there later
    signed = signing.sign(repository, image, key, {"sha": sha, "lock": lock, "sbom": listed[0]})
    print(f"signed: {image.name}@{image.reference} for {lock}")
    return {"image": f"{image.name}@{image.reference}", "signature": signed.digest}
