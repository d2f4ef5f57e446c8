"""The command `yard`. `main` is its entry point: a user's mistake is a message and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback

from pipelines.errors import Exit, YardError


def main() -> None:
    """Run `yard` and exit with a code of `pipelines.errors.Exit`, 130 after Ctrl-C, 141 when the reader went away."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show "✓" shows "?", which is better than a UnicodeEncodeError
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    _no_proxy_for_loopback()
    code: int = Exit.BUG
    try:
        from pipelines.cli.app import run

        code = run(sys.argv[1:])
        sys.stdout.flush()
    except YardError as error:
        print(error, file=sys.stderr)
        code = error.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception:
        traceback.print_exc()
        print("yard: this is a bug, please report it with the lines above", file=sys.stderr)
    sys.exit(code)


def _no_proxy_for_loopback() -> None:
    """Many set a proxy for everything, and none reaches this machine's own loopback, where solo answers."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if "127.0.0.1" not in known.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (known, "127.0.0.1,localhost")))
