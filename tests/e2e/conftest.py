"""The end-to-end test: one cluster, one story told in the order of the files. `make e2e` runs it.

E2E_KEEP=1 takes the platform that an earlier run installed, to work on one chapter (`make e2e E2E="-k chapter"`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "push"))  # the service whose steps take no time

import e2e_install
from e2e_cluster import ROOT, Cluster, require
from e2e_repo import Repo

from pipelines.registry import Registry, open_registry

ENDED = pytest.StashKey[Counter[str]]()  # outcome → how many tests


@pytest.fixture(scope="session")
def facts(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What the report says of this run; of a whole one kept in .e2e/<start>.json."""
    found: dict[str, Any] = {"started": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")}
    begun = time.monotonic()
    yield found
    ended = request.config.stash.get(ENDED, Counter[str]())
    found |= {"seconds": round(time.monotonic() - begun), "passed": ended["passed"], "failed": ended["failed"]}
    chosen = os.environ.get("E2E_KEEP") or request.config.option.keyword
    if chosen or ended.total() < request.session.testscollected:
        return  # not a whole run
    folder = ROOT / ".e2e"
    folder.mkdir(exist_ok=True)
    (folder / f"{found['started']}.json").write_text(json.dumps(found, indent=1))


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    require()
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def cluster(_cluster: Cluster, facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster with the platform on it, installed from nothing."""
    if os.environ.get("E2E_KEEP"):
        return _cluster
    facts["nodes"] = [
        {key: node["status"]["capacity"][key] for key in ("cpu", "memory")} for node in _cluster.list("nodes")
    ]
    times = facts.setdefault("install", {})
    folder = tmp_path_factory.mktemp("platform") / "checkout"
    folder.mkdir()
    e2e_install.settings(_cluster, folder, facts["started"])
    e2e_install.render(folder)
    for name, step in (
        ("clean", lambda: e2e_install.clean(_cluster)),
        ("images", lambda: e2e_install.build_images(folder / "versions.yaml")),
        ("install", lambda: e2e_install.install(_cluster, folder, facts)),
    ):
        begun = time.monotonic()
        step()
        times[name] = round(time.monotonic() - begun, 1)
    facts["versions"] = e2e_install.versions(_cluster)
    return _cluster


@pytest.fixture(scope="session")
def repos(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Clones of the Git host's repositories, by name."""
    kept: dict[str, Repo] = {}

    def clone(name: str) -> Repo:
        if name not in kept:
            kept[name] = Repo(cluster, f"acme/{name}", tmp_path_factory.mktemp("repos") / name)
        return kept[name]

    return clone


@pytest.fixture(scope="session")
def digits(repos: Any) -> Repo:
    return repos("digits")


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    """The registry as its readers see it."""
    secret: Any = cluster.get("secrets", "digits-dev", "registry-read")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_bytes(base64.b64decode(secret["data"]["credentials"]))
    with cluster.forward("storage", "service/storage", 4443) as url:
        yield open_registry({**e2e_install.endpoints(cluster), "STORAGE_URL": url, "REGISTRY_CREDENTIALS": str(token)})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call" or not report.passed:
        item.config.stash.setdefault(ENDED, Counter())[report.outcome] += 1
    if report.failed and "_cluster" in getattr(item, "funcargs", {}):
        with contextlib.suppress(AssertionError, OSError, subprocess.SubprocessError):
            report.sections.append(("the cluster", item.funcargs["_cluster"].explain()))
    return report
