"""`python -m solo.storage`: the emulator alone, as the dev-only store of a cluster runs it."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import sys
from pathlib import Path

import uvicorn

from solo.storage.access import Tokens
from solo.storage.core import Storage
from solo.storage.errors import StorageError
from solo.storage.http import app

TOKENS = '{"<bucket>": {"write": ["…"], "read": ["…"]}, "<bucket>": "open"}'
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m solo.storage", description="A Google Cloud Storage emulator on disk."
    )
    parser.add_argument("--home", type=Path, required=True, help="directory for buckets and index")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="any other than loopback needs --tokens")
    parser.add_argument(
        "--bucket", action="append", default=[], help="make sure that this bucket exists (may be repeated)"
    )
    parser.add_argument("--tokens", type=Path, help=f"JSON: {TOKENS}; open needs no token, not named is closed")
    given = parser.parse_args(argv)
    if given.host not in LOOPBACK and given.tokens is None:
        print(f"--host {given.host} would open every bucket to the network\n  → give --tokens FILE", file=sys.stderr)
        return 2
    try:
        tokens = _tokens(given.tokens) if given.tokens else {}
        storage = Storage(given.home)
        for bucket in given.bucket:
            storage.ensure_bucket(bucket)
        listener = socket.create_server(
            (given.host, given.port), family=socket.AF_INET6 if ":" in given.host else socket.AF_INET
        )
        # headers and body leave in two writes; without this the body waits 40 ms for a delayed acknowledgement.
        # asyncio would set it, but overlooks sockets that were not made with an explicit protocol
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (StorageError, OSError, ValueError, sqlite3.Error) as error:
        print(f"cannot start the store: {error}", file=sys.stderr)
        if isinstance(error, PermissionError):  # a volume whose kind knows no fsGroup
            print(f"  → user {os.getuid()} must be able to write below {given.home}", file=sys.stderr)
        return 1
    serve = app(storage, tokens, closed_by_default=given.host not in LOOPBACK)
    print(f"storage at http://{given.host}:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(serve, log_level="warning", lifespan="off", timeout_graceful_shutdown=10)
    uvicorn.Server(config).run(sockets=[listener])
    storage.close()
    return 0


def _tokens(file: Path) -> Tokens:
    """Raises ValueError, OSError."""
    try:
        document = json.loads(file.read_text())
    except ValueError:
        document = None
    good = isinstance(document, dict) and all(
        rules == "open"
        or (
            isinstance(rules, dict)
            and set(rules) == {"write", "read"}
            and all(
                isinstance(known, list) and all(isinstance(token, str) and token for token in known)
                for known in rules.values()
            )
        )
        for rules in document.values()
    )
    if not good:
        raise ValueError(f"{file}: expected {TOKENS}")
    return {bucket: None if rules == "open" else rules for bucket, rules in document.items()}


if __name__ == "__main__":
    sys.exit(main())
