"""Who signed what: another key, another image, another payload are no signature."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from image_world import push, tar

from pipelines import sbom, signing
from pipelines.errors import Exit, YardError

CLAIMS = {"sha": "1" * 40, "lock": "sha256:" + "2" * 64}


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fails(code, words=None):
    return pytest.raises(YardError, match=words, check=lambda error: error.code == code)


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def image(hub, repository, name):
    """An image with a bill of materials of no component."""
    pushed = push(repository, tar(("a", name)))
    repository.attach(pushed, sbom.MEDIA_TYPE, b'{"components": []}')
    return hub.image(pushed.digest, name)


def listed(repository, image):
    return {**CLAIMS, "sbom": signing.sboms(repository, image.reference)[0]}


def replace(repository, image, **changes):
    """Put other layers' fields or another payload in place of a signature."""
    tag = image.reference.replace(":", "-") + ".sig"
    document = repository.manifest(tag).document
    (layer,) = document["layers"]
    if "payload" in changes:
        layer = {**repository.put_blob(changes.pop("payload"), signing.PAYLOAD), "annotations": layer["annotations"]}
    document["layers"] = [{**layer, **changes}]
    repository.put_manifest(document, tag)


def test_a_signature_says_what_was_signed(repository, image, key):
    claims = listed(repository, image)
    signing.sign(repository, image, key, claims)
    found = signing.verify_image(repository, image, key.public_key())
    assert found == (image.reference, claims, 0)
    by_tag = image._replace(reference="1")
    assert signing.verify_image(repository, by_tag, key.public_key()) == found


def test_signing_again_changes_nothing_and_another_release_is_signed_beside_it(repository, image, key):
    first = signing.sign(repository, image, key, listed(repository, image))
    assert signing.sign(repository, image, key, listed(repository, image)) == first
    later = {**listed(repository, image), "lock": "sha256:" + "3" * 64}
    assert len(signing.sign(repository, image, key, later).document["layers"]) == 2
    assert signing.verify_image(repository, image, key.public_key()).claims == later


def test_a_stranger_beside_us_neither_counts_nor_harms(repository, image, key):
    stranger = ec.generate_private_key(ec.SECP256R1())
    signing.sign(repository, image, stranger, listed(repository, image))
    with fails(Exit.INVALID, "no signature by this key"):
        signing.verify_image(repository, image, key.public_key())
    signing.sign(repository, image, key, listed(repository, image))
    for public in (stranger.public_key(), key.public_key()):
        assert signing.verify_image(repository, image, public).components == 0


def test_an_image_that_nobody_signed(repository, image, key):
    with fails(Exit.NOT_FOUND, "no signature"):
        signing.verify_image(repository, image, key.public_key())


def test_a_payload_that_was_changed_afterwards(repository, image, key):
    signing.sign(repository, image, key, listed(repository, image))
    tag = image.reference.replace(":", "-") + ".sig"
    payload = repository.small_blob(repository.manifest(tag).document["layers"][0])
    replace(repository, image, payload=payload.replace(b"1" * 40, b"9" * 40))
    with fails(Exit.INVALID):
        signing.verify_image(repository, image, key.public_key())


@pytest.mark.parametrize("annotations", [{}, {signing.ANNOTATION: "not base64!"}, {signing.ANNOTATION: "AAAA"}, None])
def test_a_signature_that_is_none(repository, image, key, annotations):
    signing.sign(repository, image, key, listed(repository, image))
    replace(repository, image, annotations=annotations)
    with fails(Exit.INVALID):
        signing.verify_image(repository, image, key.public_key())


def test_the_signature_of_another_image_moved_to_this_one(repository, image, key):
    signing.sign(repository, image, key, listed(repository, image))
    signed = repository.manifest(image.reference.replace(":", "-") + ".sig").document
    other = push(repository, tar(("b", "other")), tag="2")
    repository.put_manifest(signed, other.digest.replace(":", "-") + ".sig")
    with fails(Exit.INVALID):
        signing.verify_image(repository, image._replace(reference=other.digest), key.public_key())


@pytest.mark.parametrize("payload", [b"[]", b"{}", b"no json", b'{"critical": {"type": "other"}}'])
def test_a_good_signature_of_something_else(repository, image, key, payload):
    signing.sign(repository, image, key, listed(repository, image))
    signature = base64.b64encode(key.sign(payload, signing.P256)).decode()
    replace(repository, image, payload=payload)
    replace(repository, image, annotations={signing.ANNOTATION: signature})
    with fails(Exit.INVALID):
        signing.verify_image(repository, image, key.public_key())


def test_the_bill_of_materials_that_counts_is_the_one_that_was_signed(repository, image, key):
    signing.sign(repository, image, key, listed(repository, image))
    later = json.dumps({"components": [{}, {}]}).encode()
    repository.attach(repository.manifest(image.reference), sbom.MEDIA_TYPE, later)
    assert len(signing.sboms(repository, image.reference)) == 2
    assert signing.verify_image(repository, image, key.public_key()).components == 0


def test_a_signature_without_a_bill_of_materials(repository, image, key):
    signing.sign(repository, image, key, {})
    assert signing.verify_image(repository, image, key.public_key()) == (image.reference, {}, None)


def test_only_a_p256_key_is_a_key(key, tmp_path):
    others = [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())]
    for text in [b"", b"s3cret", public_pem(key), *map(pem, others)]:
        with fails(Exit.INVALID, "key.pem: not an EC P-256 private key") as error:
            signing.private_key(text, "key.pem")
        assert "s3cret" not in str(error.value)
    for text in [b"", pem(key), *map(public_pem, others)]:
        with fails(Exit.INVALID, "not an EC P-256 public key"):
            signing.public_key(text, "cosign.pub")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: install the package openssl")
def test_a_key_on_a_curve_that_is_not_known_is_refused_too(tmp_path):
    pem = subprocess.run(["openssl", "ecparam", "-name", "SM2", "-genkey", "-noout"], capture_output=True, check=True)
    public = subprocess.run(["openssl", "ec", "-pubout"], input=pem.stdout, capture_output=True, check=True)
    with fails(Exit.INVALID, "not an EC P-256 private key"):
        signing.private_key(pem.stdout, "key.pem")
    with fails(Exit.INVALID, "not an EC P-256 public key"):
        signing.public_key(public.stdout, "cosign.pub")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing: install the package openssl")
def test_keys_that_openssl_makes_and_signatures_that_it_accepts(hub, repository, image, tmp_path):
    def openssl(*words):
        return subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    openssl("ec", "-in", "key.pem", "-pubout", "-out", "cosign.pub")
    key = signing.private_key((tmp_path / "key.pem").read_bytes(), "key.pem")
    signed = signing.sign(repository, image, key, CLAIMS)
    public = signing.public_key((tmp_path / "cosign.pub").read_bytes(), "cosign.pub")
    assert signing.verify_image(repository, image, public).claims == CLAIMS
    (layer,) = signed.document["layers"]
    (tmp_path / "payload").write_bytes(repository.small_blob(layer))
    (tmp_path / "signature").write_bytes(base64.b64decode(layer["annotations"][signing.ANNOTATION]))
    said = openssl("dgst", "-sha256", "-verify", "cosign.pub", "-signature", "signature", "payload")
    assert said == "Verified OK\n"
