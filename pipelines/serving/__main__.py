"""`python -m pipelines.serving --bundle DIR`: serve one model bundle. Everything else comes from the environment.

PORT (8080), HOST (127.0.0.1), MODEL_NAME (the bundle's), MODEL_VERSION (1), LOCK, BUNDLE_DIGEST (checked if given),
THREADS (1), LIMIT_BODY (bytes, 1 MiB), LIMIT_ROWS (1024), DRAIN (seconds, 2).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import Exit, YardError
from pipelines.serving.app import Service, Settings
from pipelines.serving.bundle import load_bundle
from pipelines.serving.server import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code (see `pipelines.errors.Exit`)."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.serving", description="Serve one model bundle.", epilog=__doc__
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="the directory of a model bundle")
    directory = parser.parse_args(argv).bundle
    # until the server has its own: process 1 of a container does not hear a signal that it has no handler for
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.OK))
    try:
        expected = os.environ.get("BUNDLE_DIGEST", "")
        model = load_bundle(directory, expected, threads=_number("THREADS", 1, least=1))
        settings = Settings(
            name=os.environ.get("MODEL_NAME") or model.name,
            version=os.environ.get("MODEL_VERSION") or "1",
            lock=os.environ.get("LOCK", ""),
            bundle=expected,
            limit_body=_number("LIMIT_BODY", 1 << 20, least=1),
            limit_rows=_number("LIMIT_ROWS", 1024, least=1),
        )
        host = os.environ.get("HOST") or "127.0.0.1"
        serve(Service(model, settings), host, _number("PORT", 8080, least=0), _number("DRAIN", 2, least=0))
    except YardError as error:
        print(error, file=sys.stderr)
        return error.code
    return Exit.OK


def _number(name: str, default: int, *, least: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise YardError(f"{text!r} is not a whole number of at least {least}", where=name, code=Exit.USAGE)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
