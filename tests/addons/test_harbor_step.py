"""The step `harbor` makes what is wanted, once, and mends what somebody changed."""

from __future__ import annotations

import copy

import pytest
from harbor_server import Harbor
from starlette.responses import Response
from storage_server import serve

from pipelines.errors import Exit, YardError
from pipelines.steps.harbor import HUB, harbor

PUSH, PULL = "Push-secret-1", "Pull-secret-1"


@pytest.fixture
def server(monkeypatch):
    found = Harbor("admin-password")
    monkeypatch.setenv("HARBOR_ADMIN_PASSWORD", "admin-password")
    monkeypatch.setenv("HARBOR_PUSH_SECRET", PUSH)
    monkeypatch.setenv("HARBOR_PULL_SECRET", PULL)
    monkeypatch.setattr("pipelines.steps._http.PAUSE", 0.01)
    with serve(found.app) as url:
        found.url = url
        yield found


def state(server):
    kept = ("projects", "registries", "retentions", "robots", "passwords", "cleanup")
    return copy.deepcopy({name: getattr(server, name) for name in kept})


def test_an_empty_harbor_becomes_what_is_wanted(server):
    harbor(url=server.url, project="trainyard")
    ours, hub = server.projects["trainyard"], server.projects[HUB]
    assert ours["metadata"] == {"public": "false", "auto_scan": "true", "retention_id": "1"}
    assert hub["registry_id"] == 1
    assert server.registries[1]["type"] == "docker-hub"
    assert [rule["template"] for rule in server.retentions[1]["rules"]] == ["latestPushedK", "nDaysSinceLastPull"]
    assert server.retentions[1]["algorithm"] == "or"
    assert server.passwords == {"robot$push": PUSH, "robot$pull": PULL}
    assert server.cleanup["schedule"]["cron"]


def test_the_accounts_may_no_more_than_their_names_say(server):
    harbor(url=server.url, project="trainyard")
    rights = {
        robot["name"]: {(p["namespace"], a["resource"], a["action"]) for p in robot["permissions"] for a in p["access"]}
        for robot in server.robots.values()
    }
    pull = {("trainyard", "repository", "pull"), (HUB, "repository", "pull")}
    assert rights == {"robot$pull": pull, "robot$push": pull | {("trainyard", "repository", "push")}}


def test_the_second_run_changes_nothing(server, capsys):
    harbor(url=server.url, project="trainyard")
    before, server.log = state(server), []
    harbor(url=server.url, project="trainyard")
    assert server.log == []
    assert state(server) == before
    assert "nothing changed" in capsys.readouterr().out


def test_wherever_a_run_breaks_off_the_next_one_ends_the_same(server):
    harbor(url=server.url, project="trainyard")
    wanted, steps = state(server), list(server.log)
    for number in range(len(steps)):
        for name in ("projects", "registries", "retentions", "robots", "passwords"):
            getattr(server, name).clear()
        server.cleanup, server.log = None, []
        left = [number]

        def refuse(method, path, left=left):
            if method == "GET":
                return None
            left[0] -= 1
            return Response(status_code=503) if left[0] < 0 else None

        server.refuse = refuse
        with pytest.raises(YardError) as broken:
            harbor(url=server.url, project="trainyard")
        assert broken.value.code == Exit.UNAVAILABLE
        assert server.log == steps[:number]
        server.refuse = lambda method, path: None
        harbor(url=server.url, project="trainyard")
        assert state(server) == wanted
        assert server.log == steps


def test_what_somebody_clicked_away_comes_back(server):
    harbor(url=server.url, project="trainyard")
    wanted, server.log = state(server), []
    server.projects["trainyard"]["metadata"]["auto_scan"] = "false"
    server.projects[HUB]["metadata"]["public"] = "true"
    server.retentions[1]["rules"] = server.retentions[1]["rules"][:1]
    server.robots[2]["permissions"][0]["access"].append({"resource": "repository", "action": "push"})
    server.robots[1]["disable"] = True
    server.passwords["robot$push"] = "Another-one-2"
    server.registries[1]["url"] = "https://elsewhere.example.com"
    server.cleanup["schedule"]["cron"] = "0 0 0 1 1 *"
    harbor(url=server.url, project="trainyard")
    assert state(server) == wanted
    assert len(server.log) == 8


def test_a_project_of_that_name_that_is_no_cache_is_not_touched(server):
    server.projects[HUB] = {"project_id": 1, "name": HUB, "registry_id": 0, "metadata": {}}
    with pytest.raises(YardError, match="is no cache") as refused:
        harbor(url=server.url, project="trainyard")
    assert refused.value.code == Exit.CONFLICT
    assert server.projects[HUB]["metadata"] == {}


def test_a_password_that_harbor_refuses_is_told_with_what_to_do(server, monkeypatch):
    monkeypatch.setenv("HARBOR_ADMIN_PASSWORD", "another")
    with pytest.raises(YardError, match="refuses the password") as refused:
        harbor(url=server.url, project="trainyard")
    assert "the Secret" in refused.value.todo


def test_a_weak_secret_is_told_in_harbors_words(server, monkeypatch):
    monkeypatch.setenv("HARBOR_PUSH_SECRET", "weak")
    with pytest.raises(YardError, match="8-128"):
        harbor(url=server.url, project="trainyard")


def test_nothing_is_asked_without_a_password(monkeypatch):
    monkeypatch.delenv("HARBOR_ADMIN_PASSWORD", raising=False)
    with pytest.raises(YardError, match="HARBOR_ADMIN_PASSWORD is not set"):
        harbor(url="http://harbor.invalid", project="trainyard")
