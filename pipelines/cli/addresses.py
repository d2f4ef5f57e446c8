"""Where the platform answers: `--server` or ARGO_SERVER, else the solo of this checkout."""

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
    """The Argo Server; what pods get as environment from ConfigMap `endpoints`, and the paths of credentials."""

    argo: str
    environment: dict[str, str]


def find(server: str) -> Addresses:
    """The platform to talk to. Raises YardError(UNAVAILABLE) if there is none.

    On a cluster the addresses are those of `platform.yaml`; a variable of the same name in the environment comes first.
    """
    if server:
        argo = server.rstrip("/") if "://" in server else f"https://{server.rstrip('/')}"
        return Addresses(argo, {**_committed(), **_environment(), "ARGO_URL": argo})
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


def _committed() -> dict[str, str]:
    path = checkout() / platform.FILE
    return platform.load(path).endpoints.as_dict() if path.is_file() else platform.Endpoints().as_dict()


def _environment() -> dict[str, str]:
    names = (*platform.Endpoints.model_fields, *FILES)
    return {name: os.environ[name] for name in names if name in os.environ}
