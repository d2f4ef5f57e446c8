"""`pip` inside an image that solo builds: passes pip's arguments on to `uv pip` (copied there as `pip/__main__.py`).

Works only while an image is built: the builder names uv and its settings in the file `$SOLO_PIP`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

# pip's flags that mean nothing to uv; no-cache-dir only keeps pip's cache out of the image, where uv's never is
WITHOUT_VALUE = {
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--no-warn-script-location",
    "--prefer-binary",
    "--no-compile",
    "-y",
    "--yes",
}
WITH_VALUE = {"--root-user-action", "--progress-bar", "--cache-dir", "--timeout", "--retries"}
PIP = re.compile(r"(pip|setuptools|wheel)([=<>~!].*)?")
COMMANDS = ("install", "uninstall", "list", "freeze", "show", "check")


def main() -> None:
    settings = os.environ.get("SOLO_PIP")
    if not settings:
        sys.exit("pip: solo installs packages only while an image is built; put them into the Dockerfile")
    arguments = translate(sys.argv[1:])
    if arguments and arguments[0] in ("--version", "-V"):
        print("pip (solo: uv pip)")
        return
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(f"pip: solo cannot run pip {' '.join(arguments)}; it has: {', '.join(COMMANDS)}")
    uv = json.loads(Path(settings).read_text())
    if arguments[0] == "install":
        kept = [argument for argument in arguments if not PIP.fullmatch(argument)]
        if kept != arguments and not any(not argument.startswith("-") for argument in kept[1:]):
            print("pip is solo's front of uv here: nothing to upgrade")
            return
        arguments = kept
    extra = ["--python", sys.executable]
    if arguments[0] == "install":
        extra.append("--link-mode=copy")  # a later command may write to the files, and they would be uv's cache
    # the metadata would have the time and the place of this build in it
    environment = {**os.environ, **uv["env"], "UV_NO_INSTALLER_METADATA": "1"}
    os.execve(uv["uv"], ["uv", "pip", arguments[0], *extra, *arguments[1:]], environment)  # noqa: S606


def translate(arguments: list[str]) -> list[str]:
    """pip's arguments without what uv does not know."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in WITH_VALUE:
            skip = True
        elif argument == "--pre":
            kept.append("--prerelease=allow")
        elif argument not in WITHOUT_VALUE and argument.partition("=")[0] not in WITH_VALUE:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
