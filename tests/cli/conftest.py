"""`yard` as a user runs it, against a server of the test."""

from __future__ import annotations

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_argo import Fake, serve

from pipelines.cli import main

ROOT = Path(__file__).parents[2]


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def yard(capsys, monkeypatch):
    """Runs one command line in this process; how the developer reaches a cluster of theirs does not matter."""
    for name in ("ARGO_TOKEN", "ARGO_INSECURE_SKIP_VERIFY", "KUBERNETES_TOKEN", "TRAINYARD_PLATFORM"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["yard", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(int(ended.value.code), captured.out, captured.err)

    return run


@pytest.fixture
def argo(monkeypatch):
    """A server that ARGO_SERVER names."""
    fake = Fake()
    with serve(fake) as url:
        monkeypatch.setenv("ARGO_SERVER", url)
        monkeypatch.setenv("KUBERNETES_URL", url)
        fake.url = url
        yield fake


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A directory outside any checkout, with no platform running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARGO_SERVER", raising=False)
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    return tmp_path


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
