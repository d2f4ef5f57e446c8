"""Fixtures that several areas share."""

from __future__ import annotations

import ipaddress
import signal
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings

settings.register_profile("trainyard", deadline=None)  # how fast an example is depends on what else the machine does
settings.load_profile("trainyard")

# a shell without job control starts `make test &` deaf to Ctrl-C, and every process that a test starts and stops so
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _storage_server(tmp_path_factory):
    from storage_server import storage_server

    with storage_server(tmp_path_factory.mktemp("storage")) as server:
        yield server


@pytest.fixture
def storage_server(_storage_server):
    """The object store (tests/storage_server.py), one for a worker's tests; faults and tokens end with the test."""
    yield _storage_server
    _storage_server.faults.clear()
    _storage_server.tokens.clear()


@pytest.fixture
def bucket(storage_server):
    """The name of a new, empty bucket, open to everyone."""
    name = f"test-{uuid.uuid4().hex}"
    storage_server.storage.create_bucket(name)
    return name


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path
