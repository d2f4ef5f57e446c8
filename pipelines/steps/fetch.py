"""fetch: the init container of a deployed model: the accepted bundle, read-only credentials, every digest checked."""

from __future__ import annotations

from pathlib import Path

from pipelines.registry import open_registry
from pipelines.steps._step import step


@step
def fetch(*, bundle: str, into: str) -> None:
    """Download the bundle with this digest into the directory `into`.

    Raises YardError(NOT_FOUND) if there is none, CONFLICT if what came back is not what was asked for.
    """
    open_registry().fetch_tree(bundle, Path(into))
    print(f"{bundle} → {into}")
