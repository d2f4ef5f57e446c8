"""sign: the image of a lock, and only that."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette
from storage_server import serve

from pipelines import oci, sbom, signing
from pipelines.errors import Exit, YardError
from pipelines.steps.sign import sign
from solo.builder.registry import Registry
from solo.builder.store import ImageStore


@pytest.fixture
def key(tmp_path, monkeypatch):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    monkeypatch.setenv("SIGNING_KEY", str(tmp_path / "key.pem"))
    return key


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A registry that the steps' environment names, and in it the repository of `digits`."""
    login = {"auths": {"hub.invalid": {"auth": base64.b64encode(b"ann:pw").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(login))
    app = Starlette(routes=Registry(ImageStore(tmp_path / "images"), "hub.invalid", "ann:pw").routes())
    with serve(app) as url:
        monkeypatch.setenv("REGISTRY", "hub.invalid/acme")
        monkeypatch.setenv("REGISTRY_URL", url)
        monkeypatch.setenv("REGISTRY_AUTH", str(tmp_path / "config.json"))
        yield oci.Repository(url, "acme/digits", "ann:pw")


def released(world, repository):
    """A lock whose image is in the registry, and the image."""
    index = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": repository.put_blob(b"{}", oci.CONFIG),
        "layers": [],
    }
    image = f"hub.invalid/acme/digits@{repository.put_manifest(index, '1').digest}"
    return world.lock("1" * 40, image=image), oci.parse(image)


def words(lock, **changes):
    return {"service": "digits", "repo": "acme/digits", "sha": "1" * 40, "lock": lock, **changes}


def test_the_image_of_a_lock_is_signed_with_its_bill_of_materials(world, repository, key):
    lock, image = released(world, repository)
    attached = repository.attach(repository.manifest(image.reference), sbom.MEDIA_TYPE, b'{"components": [{}]}')
    out = sign(**words(lock))
    assert out["image"] == f"{image.name}@{image.reference}"
    assert sign(**words(lock)) == out
    found = signing.verify_image(repository, image, key.public_key())
    assert found == (image.reference, {"lock": lock, "sbom": attached.digest, "sha": "1" * 40}, 1)


def test_an_image_without_a_bill_of_materials_is_not_signed(world, repository, key):
    lock, image = released(world, repository)
    with pytest.raises(YardError, match="no bill of materials") as error:
        sign(**words(lock))
    assert error.value.code == Exit.NOT_FOUND
    assert repository.find(image.reference.replace(":", "-") + ".sig") is None


def test_the_lock_of_another_commit_is_not_signed(world, repository, key):
    lock, _ = released(world, repository)
    for changes in ({"sha": "2" * 40}, {"service": "iris"}, {"repo": "eve/digits"}):
        with pytest.raises(YardError, match="not of"):
            sign(**words(lock, **changes))
