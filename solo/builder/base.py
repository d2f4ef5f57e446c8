"""What `FROM python:3.…` stands for: this host's Python, in an environment of its own at `/usr/local`.

It has the shape of a virtual environment, but nothing in it names the place where it lies (`relocatable = true` makes
uv write scripts that find their Python beside themselves), so an image's tree may be linked, copied and moved. `pip`
is a thin front of `uv pip`, which installs from its cache in a tenth of the time.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from pathlib import Path

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE_PACKAGES = f"usr/local/lib/python{MINOR}/site-packages"
IMAGE = re.compile(r"(?:.*/)?python:(3(?:\.\d+)?)[^@/]*(?:@sha256:[0-9a-f]{64})?")
# as the real image has it
ENV = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# what a layer that was built on this base depends on
FINGERPRINT = f"{platform.python_implementation()} {platform.python_version()} {sys.platform} {platform.machine()}"

PIP_SCRIPT = """#!/bin/sh
exec "$(dirname -- "$0")/python" -m pip "$@"
"""


def matches(reference: str) -> str | None:
    """The Python version that a base image asks for (`3.12`), None if it is no Python image."""
    found = IMAGE.fullmatch(reference)
    return found[1] if found else None


def create(root: Path) -> None:
    """Lay the base out below `root`: a dozen names, a few milliseconds."""
    local = root / "usr/local"
    binaries, packages = local / "bin", root / SITE_PACKAGES
    for directory in (binaries, packages / "pip", root / "tmp", root / "root"):
        directory.mkdir(parents=True)
    python = Path(sys.base_prefix) / "bin" / f"python{MINOR}"
    if not python.exists():  # a framework build, or one that was installed under another name
        python = Path(sys.executable).resolve()
    for name in ("python", "python3", f"python{MINOR}"):
        (binaries / name).symlink_to(python)
    (local / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\nversion_info = {platform.python_version()}\n"
        "relocatable = true\n"
    )
    (packages / "pip/__init__.py").write_text('"""Solo\'s stand-in for pip: `uv pip` with pip\'s arguments."""\n')
    shutil.copyfile(Path(__file__).with_name("pip_front.py"), packages / "pip/__main__.py")
    for name in ("pip", "pip3", f"pip{MINOR}"):
        (binaries / name).write_text(PIP_SCRIPT)
        (binaries / name).chmod(0o755)
