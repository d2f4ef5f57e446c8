"""sbom: what software an image holds, attached to it in its registry."""

from __future__ import annotations

from typing import TypedDict

from pipelines import oci
from pipelines.errors import YardError
from pipelines.sbom import MEDIA_TYPE, Contents, document
from pipelines.steps._step import step


class Sbom(TypedDict):
    sbom: str
    components: str


@step
def sbom(*, image: str) -> Sbom:
    """`sbom` is the digest of the attached manifest. A second run of it leaves one.

    Raises YardError: UNAVAILABLE if the registry does not answer, NOT_FOUND if it has no such image, INVALID for an
    image that is not named by digest, a login that it refuses, or layers that cannot be read.
    """
    named = oci.parse(image)
    if not named.pinned:
        raise YardError(f"{image} is not named by digest", where="parameter image")
    repository = oci.open_repository(named)
    subject = repository.manifest(named.reference)
    contents = Contents()
    for layer in repository.platform(subject).document["layers"]:
        with repository.blob(layer) as stream:
            contents.add(stream, layer["mediaType"])
    found = document(named.name, named.reference, contents, lambda line: print(f"NOTE: {line}"))
    attached = repository.attach(subject, MEDIA_TYPE, oci.canonical(found))
    count = len(found["components"])
    print(f"{count} components: {named.name}@{attached.digest}")
    return {"sbom": attached.digest, "components": str(count)}
