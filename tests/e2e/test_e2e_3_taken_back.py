"""A release that does not prove itself is taken back once, and the old model serves all the time."""

from __future__ import annotations

import json
from typing import Any

import e2e_install
import pytest
import yaml
from e2e_cluster import Cluster, output, phase, until
from e2e_repo import Repo


@pytest.fixture(scope="module")
def prober(cluster: Cluster):
    """A client that asks all the time; yields what it has seen so far."""
    cluster.kubectl("-n", "e2e", "delete", "pod", "prober", "--ignore-not-found")
    e2e_install.fixture(cluster, "prober", PIPELINES_IMAGE=e2e_install.pipelines_image(cluster))

    def seen() -> dict[str, Any]:
        return json.loads(cluster.call(cluster.service("e2e", "prober", 8080, pod=True)))

    cluster.kubectl("-n", "e2e", "wait", "--for=condition=Ready", "pod/prober", "--timeout=120s")
    until(lambda: sum(seen()["locks"].values()) > 5, "the first answers")
    yield seen
    cluster.kubectl("-n", "e2e", "delete", "pod", "prober")


def change_release(releases: Repo, field: str, value: str) -> str:
    """A hand-made release of digits whose serving container has another value of an environment variable."""
    releases.pull()
    path = releases.folder / "services/digits/dev/deployment.yaml"
    body = yaml.safe_load(path.read_text())
    container = body["spec"]["template"]["spec"]["containers"][0]
    entry = next(e for e in container["env"] if e["name"] == field)
    entry["value"] = value
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return releases.commit(message=f"digits dev: another {field}")


@pytest.mark.parametrize(
    ("field", "value", "step", "why"),
    [
        pytest.param("BUNDLE_DIGEST", "sha256:" + "0" * 64, "wait", "Degraded", id="its pod is never ready"),
        pytest.param("LOCK", "sha256:" + "1" * 64, "smoke", "answers", id="its smoke test disagrees"),
    ],
)
def test_a_bad_release_is_taken_back_while_the_old_one_serves(
    cluster: Cluster, repos: Any, prober: Any, facts, field, value, step, why
):
    releases = repos("releases")
    good = releases.pull()
    before = prober()
    sha = change_release(releases, field, value)
    at = releases.push()
    verify = cluster.ended(pipeline="verify", sha=sha)
    assert phase(verify) == "Failed"
    said = cluster.yard("logs", verify["metadata"]["name"], "--step", step).stdout
    assert why in said, said
    reverted = output(verify, "revert", "commit")
    assert releases.pull() == reverted
    assert releases.git("diff", "--stat", good, reverted) == ""
    assert releases.status(sha, "trainyard/verify") == "failure"

    # the revert is verified as well, and never taken back itself
    again = cluster.ended(pipeline="verify", sha=reverted)
    assert phase(again) == "Succeeded", again["status"].get("message")
    assert releases.pull() == reverted
    healthy(cluster, reverted)
    after = prober()
    new = after["failures"][len(before["failures"]) :]
    assert not new, f"{len(new)} of {after['asked'] - before['asked']} requests failed, first {new[0]}"
    name = "never ready" if step == "wait" else "smoke test"
    facts.setdefault("taken back", {})[name] = {
        "seconds": round(until(lambda: ended_at(cluster, reverted), "its end") - at, 1),
        "requests": after["asked"] - before["asked"],
        "failed": len(new),
        "slowest ms": after["slowest_ms"],
    }


def healthy(cluster: Cluster, commit: str) -> None:
    def look() -> bool:
        status = (cluster.get("applications", "argocd", "digits-dev") or {}).get("status", {})
        return status["sync"]["revision"] == commit and status["health"]["status"] == "Healthy"

    until(look, "digits-dev to be healthy again")


def ended_at(cluster: Cluster, commit: str) -> float:
    from datetime import datetime

    run = cluster.runs(pipeline="verify", sha=commit)[0]
    return datetime.fromisoformat(run["status"]["finishedAt"]).timestamp()
