"""Where the platform answers: `--server` or ARGO_SERVER, else the solo of this checkout; and its `platform.yaml`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import platform
from pipelines.errors import Exit, YardError

STATE = "solo.json"
FILES = {  # variable → solo.json's name for the file
    "REGISTRY_CREDENTIALS": "registry_credentials",
    "REGISTRY_AUTH": "registry_auth",
    "SIGNING_PUBLIC_KEY": "signing_key",
}


class Addresses(NamedTuple):
    """The Argo Server; what pods get as environment from ConfigMap `endpoints`, and the paths of credentials.

    `token` is for the Argo Server alone; `verify` says whether its certificate counts.
    """

    argo: str
    environment: dict[str, str]
    token: str = ""
    verify: bool = True


def find(server: str) -> Addresses:
    """The platform to talk to. Raises YardError(UNAVAILABLE) if there is none.

    On a cluster the addresses are those of `platform.yaml`; a variable of the same name in the environment comes first.
    """
    if server:
        argo = server.rstrip("/") if "://" in server else f"https://{server.rstrip('/')}"
        verify = os.environ.get("ARGO_INSECURE_SKIP_VERIFY", "") != "true"  # as Argo's own command reads it
        environment = {**_committed(), **_environment(), "ARGO_URL": argo}
        return Addresses(argo, environment, os.environ.get("ARGO_TOKEN", ""), verify)
    path = home() / STATE
    try:
        state: Any = json.loads(path.read_text())
        argo, endpoints = state["endpoints"]["ARGO_URL"], state["endpoints"]
        return Addresses(argo, {**endpoints, **{name: state[key] for name, key in FILES.items() if key in state}})
    except FileNotFoundError:
        todo = "yard solo up (or name a cluster's Argo Server with --server or ARGO_SERVER)"
        raise YardError(
            "no platform is running here", where=str(path.parent), todo=todo, code=Exit.UNAVAILABLE
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise YardError(
            "not readable", where=str(path), todo="yard solo down, yard solo up", code=Exit.UNAVAILABLE
        ) from None


def endpoints(server: str) -> dict[str, str]:
    """What ConfigMap `endpoints` holds, for commands that only read Git: from `platform.yaml` if nothing runs here."""
    if server or (home() / STATE).exists():
        return find(server).environment
    return {**_committed(), **_environment()}


def home() -> Path:
    """solo's state: TRAINYARD_HOME, else `.solo` of the checkout, looked for from here upward."""
    if os.environ.get("TRAINYARD_HOME"):
        return Path(os.environ["TRAINYARD_HOME"])
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / STATE).is_file():  # inside it, as Git's hooks are
            return folder
        if (folder / ".solo").is_dir():
            return folder / ".solo"
    return checkout() / ".solo"


def checkout() -> Path:
    """The checkout of the platform around the working directory, else the one that this program runs from."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / platform.FILE).is_file():
            return folder
    return Path(__file__).parents[2]


def settings() -> platform.Platform | None:
    """What TRAINYARD_PLATFORM names, else the checkout's `platform.yaml`; None if there is none.

    Raises YardError: INVALID for a mistake in it; NOT_FOUND for a TRAINYARD_PLATFORM that is not there.
    """
    given = os.environ.get("TRAINYARD_PLATFORM")
    path = Path(given) if given else checkout() / platform.FILE
    return platform.load(path) if given or path.is_file() else None


def _committed() -> dict[str, str]:
    found = settings()
    return (found.endpoints if found else platform.Endpoints()).as_dict()


def _environment() -> dict[str, str]:
    names = (*platform.Endpoints.model_fields, *FILES)
    return {name: os.environ[name] for name in names if name in os.environ}
