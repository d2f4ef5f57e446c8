"""Pushes whose event never came are found; what is known is left alone."""

from __future__ import annotations

import json

import pytest

from pipelines.errors import Exit
from pipelines.steps._step import StepFailedError
from pipelines.steps.reconcile import reconcile


@pytest.fixture(autouse=True)
def _services(monkeypatch):
    services = [{"name": name, "repo": f"acme/{name}", "branch": "main"} for name in ("digits", "iris")]
    monkeypatch.setenv("SERVICES", json.dumps(services))


def missed():
    return json.loads(reconcile()["missed"])


def test_a_head_that_nobody_claimed_is_sent_as_a_push(world, web):
    sha = world.digits.commit()
    assert world.repository("iris")
    assert world.releases
    assert missed() == [f"acme/digits@{sha}"]
    path, event = web.events[0]
    assert path == "/push"
    assert event.pop("delivery").startswith("reconcile-")
    assert event == {
        "ref": "refs/heads/main",
        "before": "",
        "after": sha,
        "deleted": False,
        "repository": {"full_name": "acme/digits"},
    }


def test_a_head_with_a_run_is_known(world, web, capsys):
    assert world.releases
    for name in ("digits", "iris"):
        world.registry.claim(f"ci/{name}/{world.repository(name).commit()}-1", "uid")
    assert missed() == []
    assert web.events == []
    assert "acme/releases main: no such branch yet" in capsys.readouterr().out


def test_a_known_older_commit_does_not_hide_the_head(world, web):
    assert world.releases
    for name in ("digits", "iris"):
        world.registry.claim(f"ci/{name}/{world.repository(name).commit()}-1", "uid")
    sha = world.digits.commit("newer")
    assert missed() == [f"acme/digits@{sha}"]


def test_the_head_of_releases_is_looked_at_too(world, web):
    _, head = world.released()
    world.registry.claim(f"ci/digits/{world.digits.head()}-1", "uid")
    assert world.repository("iris")
    assert missed() == [f"acme/releases@{head}"]
    world.inspect(head)
    assert missed() == []


def test_a_repository_that_does_not_answer_hides_no_other(world, web):
    sha = world.repository("iris").commit()
    assert world.releases
    with pytest.raises(StepFailedError) as raised:
        reconcile()
    assert raised.value.code == Exit.UNAVAILABLE
    assert "acme/digits" in str(raised.value)
    assert json.loads(raised.value.results["missed"]) == [f"acme/iris@{sha}"]
    assert len(web.events) == 1


def test_a_bus_that_is_down_is_asked_again_by_the_workflow(world, web):
    for name in ("digits", "iris", "releases"):
        assert world.repository(name)
    world.digits.commit()
    web.down.append("/push")
    with pytest.raises(StepFailedError) as raised:
        reconcile()
    assert raised.value.code == Exit.UNAVAILABLE
    web.down.clear()
    assert len(missed()) == 1
