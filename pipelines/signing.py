"""Signatures of images, as cosign makes and checks them with a key pair.

Source: sigstore/cosign specs/SIGNATURE_SPEC.md (simple signing payload, tag `sha256-<hex>.sig`, ECDSA P-256 over
SHA-256). `cosign verify --key cosign.pub --insecure-ignore-tlog IMAGE` accepts what `sign` writes (tried with 2.6.1).
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pipelines import oci, sbom
from pipelines.errors import Exit, YardError

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
P256 = ec.ECDSA(SHA256())


class Verification(NamedTuple):
    """What holds for an image: its digest, what the newest good signature claims (`sha`, `lock`, `sbom`), and how
    many components the bill of materials lists whose digest was signed with it.
    """

    digest: str
    claims: dict[str, str]
    components: int | None


def private_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """Raises YardError(INVALID) for anything but an EC P-256 key without a passphrase."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # the last one for an SM2 key, say
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        todo = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        raise YardError("not an EC P-256 private key in PEM", where=where, todo=todo)
    return key


def public_key(pem: bytes, where: str) -> ec.EllipticCurvePublicKey:
    """Raises YardError(INVALID) for anything but an EC P-256 public key."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        todo = "openssl ec -in key.pem -pubout -out cosign.pub"
        raise YardError("not an EC P-256 public key in PEM", where=where, todo=todo)
    return key


def sign(
    repository: oci.Repository, image: oci.Image, key: ec.EllipticCurvePrivateKey, claims: dict[str, str]
) -> oci.Manifest:
    """Sign an image, unless this key has signed the same claims about it already. Others' signatures stay."""
    payload = oci.canonical(
        {
            "critical": {
                "identity": {"docker-reference": image.name},
                "image": {"docker-manifest-digest": image.reference},
                "type": TYPE,
            },
            "optional": claims,
        }
    )
    before = repository.find(_tag(image.reference))
    layers = _layers(before)
    if before and any(
        layer["digest"] == oci.digest_of(payload) and _good(layer, payload, key.public_key()) for layer in layers
    ):
        return before
    signature = base64.b64encode(key.sign(payload, P256)).decode()
    layers.append({**repository.put_blob(payload, PAYLOAD), "annotations": {ANNOTATION: signature}})
    config = {
        "architecture": "",
        "os": "",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }
    return repository.put_manifest(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": repository.put_blob(oci.canonical(config), oci.CONFIG),
            "layers": layers,
        },
        _tag(image.reference),
    )


def verify_image(repository: oci.Repository, image: oci.Image, key: ec.EllipticCurvePublicKey) -> Verification:
    """Raises YardError: NOT_FOUND without an image, a signature or the bill of materials that was signed with it,
    INVALID if no signature is by this key and about this image.
    """
    digest = repository.manifest(image.reference).digest
    where = f"{image.name}@{digest}"
    signatures = repository.find(_tag(digest))
    if signatures is None:
        todo = "an image is signed when the model that was made with it is released"
        raise YardError("no signature", where=where, todo=todo, code=Exit.NOT_FOUND)
    for layer in reversed(_layers(signatures)):
        payload = repository.small_blob(layer)
        if _good(layer, payload, key) and (claims := _claims(payload, digest)) is not None:
            return Verification(digest, claims, _components(repository, claims))
    raise YardError("no signature by this key is about this image", where=where, todo="is --key the right one?")


def sboms(repository: oci.Repository, digest: str) -> list[str]:
    """The digests of the bills of materials that are attached to an image, sorted."""
    return [entry["digest"] for entry in repository.referrers(digest, sbom.MEDIA_TYPE)]


def _components(repository: oci.Repository, claims: dict[str, str]) -> int | None:
    if "sbom" not in claims:
        return None  # signed by hand with the same key
    (file,) = repository.manifest(claims["sbom"]).document["layers"]
    return len(json.loads(repository.small_blob(file))["components"])


def _layers(signatures: oci.Manifest | None) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = signatures.document.get("layers", []) if signatures else []
    return [layer for layer in layers if layer.get("mediaType") == PAYLOAD]


def _good(layer: dict[str, Any], payload: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(base64.b64decode(layer["annotations"][ANNOTATION], validate=True), payload, P256)
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return True


def _claims(payload: bytes, digest: str) -> dict[str, str] | None:
    """What a payload with a good signature says, if it is about this image."""
    try:
        found = json.loads(payload)
        critical = found["critical"]
        if critical["type"] != TYPE or critical["image"]["docker-manifest-digest"] != digest:
            return None
        return {str(name): str(value) for name, value in (found.get("optional") or {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _tag(digest: str) -> str:
    return f"{digest.replace(':', '-')}.sig"
