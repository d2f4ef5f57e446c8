"""What the environment says, and what is told when it says something wrong."""

from __future__ import annotations

import json
import socket

import pytest

from pipelines.errors import Exit, YardError
from pipelines.registry import open_registry


@pytest.fixture
def guarded(storage_server, bucket, tmp_path):
    """Opens a registry on a bucket that asks for tokens, with these credentials."""
    storage_server.tokens[bucket] = {"write": {"writer"}, "read": {"reader"}}

    def open_with(credentials=None):
        file = tmp_path / "credentials"
        if credentials is not None:
            file.write_text(credentials)
        env = {"STORAGE_URL": storage_server.url, "REGISTRY_BUCKET": bucket, "REGISTRY_CREDENTIALS": str(file)}
        return open_registry(env, deadline=1)

    return open_with


def test_a_writer_writes_and_a_reader_reads(guarded):
    digest = guarded("writer\n").put_blob(b"x")
    assert guarded("reader\n").get_blob(digest) == b"x"
    with pytest.raises(YardError, match="HTTP 403"):
        guarded("reader").put_blob(b"y")


@pytest.mark.parametrize("credentials", [None, "", "wrong"])
def test_without_a_good_token_nothing_is_told(guarded, credentials):
    registry = guarded(credentials)
    for ask in (lambda: registry.put_blob(b"x"), lambda: registry.claimed("k"), lambda: registry.versions("data", "d")):
        with pytest.raises(YardError, match="not allowed") as caught:
            ask()
        assert caught.value.code == Exit.INVALID
        assert "REGISTRY_CREDENTIALS" in caught.value.todo


@pytest.mark.parametrize("credentials", ["two words", "line\nbreak", "{not json", "{}", '{"type": "service_account"}'])
def test_credentials_that_are_none_are_refused_by_file(guarded, tmp_path, credentials):
    with pytest.raises(YardError) as caught:
        guarded(credentials)
    assert caught.value.where == str(tmp_path / "credentials")
    assert "{not" not in str(caught.value)


def test_a_service_account_key_is_taken(guarded, tmp_path):
    key = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa").generate_private_key(65537, 2048)
    from cryptography.hazmat.primitives import serialization as s

    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()
    info = {
        "type": "service_account",
        "client_email": "a@b",
        "token_uri": "http://127.0.0.1:1/token",
        "private_key": pem,
    }
    registry = guarded(json.dumps(info))
    with pytest.raises(YardError) as caught:  # its token endpoint is not there: an outage, not a wrong key
        registry.put_blob(b"x")
    assert caught.value.code == Exit.UNAVAILABLE


def test_the_bucket_has_to_be_named():
    with pytest.raises(YardError, match="REGISTRY_BUCKET is not set"):
        open_registry({})


def test_an_address_that_is_none():
    with pytest.raises(YardError, match="STORAGE_URL: not a URL"):
        open_registry({"REGISTRY_BUCKET": "b", "STORAGE_URL": "localhost:4443"})


def test_google_itself_needs_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(YardError, match="no credentials for Google Cloud Storage"):
        open_registry({"REGISTRY_BUCKET": "b"})


def test_nobody_answers(bucket):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    registry = open_registry({"STORAGE_URL": url, "REGISTRY_BUCKET": bucket}, deadline=0.3)
    with pytest.raises(YardError, match="Connection refused") as caught:
        registry.claim("k", "me")
    assert caught.value.code == Exit.UNAVAILABLE
    assert url in caught.value.todo
