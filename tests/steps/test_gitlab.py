"""GitLab in GitHub's place: its webhook, its pushes, its commit statuses.

The push is GitLab's own example (docs.gitlab.com, webhook events), with names of ours.
"""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import pytest
import yaml

from pipelines import platform
from pipelines.steps.emit import status
from pipelines.templates import events, installs, lint, render
from solo.events.check import check
from solo.events.event import Event
from solo.events.sensors import verdicts

ROOT = Path(__file__).parents[2]
SHA, BEFORE = "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", "95790bf891e76fee5e1747ab589903a6a1f80f22"
HEADERS = {
    "Content-Type": ["application/json"],
    "User-Agent": ["GitLab/18.5.1"],
    "X-Gitlab-Event": ["Push Hook"],
    "X-Gitlab-Event-Uuid": ["13792a34-cac6-4fda-95a8-c58e00a3954e"],
    "X-Gitlab-Instance": ["https://gitlab.com"],
    "X-Gitlab-Token": ["a secret"],
}
PUSH = {
    "object_kind": "push",
    "event_name": "push",
    "before": BEFORE,
    "after": SHA,
    "ref": "refs/heads/main",
    "ref_protected": True,
    "checkout_sha": SHA,
    "message": None,
    "user_id": 4,
    "user_name": "Ann",
    "user_username": "ann",
    "user_email": "",
    "user_avatar": None,
    "project_id": 15,
    "project": {
        "id": 15,
        "name": "digits",
        "description": "",
        "web_url": "https://gitlab.com/acme/digits",
        "avatar_url": None,
        "git_ssh_url": "git@gitlab.com:acme/digits.git",
        "git_http_url": "https://gitlab.com/acme/digits.git",
        "namespace": "Acme",
        "visibility_level": 0,
        "path_with_namespace": "acme/digits",
        "default_branch": "main",
        "homepage": "https://gitlab.com/acme/digits",
        "url": "git@gitlab.com:acme/digits.git",
        "ssh_url": "git@gitlab.com:acme/digits.git",
        "http_url": "https://gitlab.com/acme/digits.git",
    },
    "repository": {
        "name": "digits",
        "url": "git@gitlab.com:acme/digits.git",
        "description": "",
        "homepage": "https://gitlab.com/acme/digits",
        "git_http_url": "https://gitlab.com/acme/digits.git",
        "git_ssh_url": "git@gitlab.com:acme/digits.git",
        "visibility_level": 0,
    },
    "commits": [
        {
            "id": SHA,
            "message": "fixed readme",
            "title": "fixed readme",
            "timestamp": "2012-01-03T23:36:29+02:00",
            "url": f"https://gitlab.com/acme/digits/-/commit/{SHA}",
            "author": {"name": "Ann", "email": "ann@example.com"},
            "added": ["CHANGELOG"],
            "modified": ["mlops.yaml"],
            "removed": [],
        }
    ],
    "total_commits_count": 1,
}


@pytest.fixture(scope="module")
def gitlab(tmp_path_factory):
    """What is rendered with `git: {provider: gitlab}`, a login and a database, in a folder."""
    into = tmp_path_factory.mktemp("gitlab")
    text = (ROOT / "platform.yaml").read_text().replace("{provider: github}", "{provider: gitlab}")
    text += "\naddons: {postgresql: true}\nlogin: {issuer: https://id.example.com, trainer: [ml]}\n"
    (into / "platform.yaml").write_text(text)
    assert render.main(["--platform", str(into / "platform.yaml"), "--into", str(into)]) == 0
    return into


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def project(name):
    return {"project": {**PUSH["project"], "path_with_namespace": name}}


def started(folder, sensor, **changed):
    """The Workflow that a push starts, as Argo Events' rules have it."""
    (manifest,) = documents(folder / f"mlops/sensors/{sensor}.yaml")
    event = Event("argo-events", "gitlab", "push", "gitlab", {"headers": HEADERS, "body": {**PUSH, **changed}})
    made = [verdict.workflow for verdict in verdicts(manifest, event) if verdict.passed]
    assert len(made) < 2
    return made[0] if made else None


def test_a_push_starts_ci_with_all_that_it_needs(gitlab):
    made = started(gitlab, "ci")
    assert made["metadata"]["name"] == f"ci-acme-digits-{SHA[:12]}"
    assert made["metadata"]["labels"]["trainyard/sha"] == SHA
    delivery = "13792a34-cac6-4fda-95a8-c58e00a3954e"
    assert made["metadata"]["annotations"] == {"trainyard/repo": "acme/digits", "trainyard/delivery": delivery}
    given = {entry["name"]: entry["value"] for entry in made["spec"]["arguments"]["parameters"]}
    assert given["sha"] == SHA
    assert given["delivery"] == delivery


def test_a_push_to_releases_starts_verify_with_what_was_there_before(gitlab):
    made = started(gitlab, "verify", **project("acme/releases"))
    given = {entry["name"]: entry["value"] for entry in made["spec"]["arguments"]["parameters"]}
    assert given == {
        "repo": "acme/releases",
        "before": BEFORE,
        "commit": SHA,
        "delivery": "13792a34-cac6-4fda-95a8-c58e00a3954e",
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"after": "0" * 40, "checkout_sha": None, "commits": []},  # the branch was deleted
        {"object_kind": "tag_push", "event_name": "tag_push", "ref": "refs/tags/v1"},
        {"object_kind": "tag_push"},
        {"ref": "refs/heads/main2"},
        {"ref": "refs/heads/feature/main"},
        project("acme/digits2"),
        project("xacme/digits"),
        project("acme/releases"),
        {"after": ""},
        {"project": {}},
    ],
    ids=str,
)
def test_nothing_else_starts_ci(gitlab, changed):
    assert started(gitlab, "ci", **changed) is None


def test_a_branch_that_is_new_is_pushed_like_any_other(gitlab):
    assert started(gitlab, "ci", before="0" * 40)


def test_pushes_that_were_missed_are_found_in_the_same_way(gitlab):
    (manifest,) = documents(gitlab / "mlops/sensors/ci.yaml")
    body = {"ref": "refs/heads/main", "after": SHA, "deleted": False, "delivery": "reconcile-1"}
    body["repository"] = {"full_name": "acme/digits"}
    event = Event("argo-events", "stages", "push", "webhook", {"header": {}, "body": body})
    assert [verdict.dependency for verdict in verdicts(manifest, event) if verdict.passed] == ["missed-digits"]


def test_the_manifests_break_no_rule(gitlab, monkeypatch):
    committed = lint.load(ROOT)
    mine = []
    for owned in render.OWNED:
        for path in sorted((gitlab / owned).rglob("*.yaml")):
            if path.name == lint.VALUES:  # a chart's, no manifest
                continue
            mine += [lint.Manifest(path.relative_to(gitlab).as_posix(), body) for body in documents(path)]
    mine += [manifest for manifest in committed.manifests if lint.RELEASES in manifest.file]
    assert list(lint.problems(lint.Tree(mine, committed.images, {}, committed.secrets))) == []


def test_argo_events_compares_the_token_and_asks_nothing_of_gitlab(gitlab):
    """As its source has it (1.9.11, eventsources/sources/gitlab): the token is read only beside an access token and an
    address, and hooks are made only for projects and groups.
    """
    (source,) = documents(gitlab / "argo-events/sources/gitlab.yaml")
    event = source["spec"]["gitlab"]["push"]
    assert event["secretToken"] == {"name": "gitlab-webhook", "key": "secret"}
    assert event["accessToken"]
    assert event["webhook"]["url"] == "https://hooks.example.com"
    assert not event.keys() & {"projects", "groups", "projectID"}
    assert not (gitlab / "argo-events/sources/github.yaml").exists()


def test_the_webhook_comes_in_at_one_path_and_nothing_else_does(gitlab):
    (hooks,) = documents(gitlab / "argo-events/install/hooks.yaml")
    (rule,) = hooks["spec"]["rules"]
    assert rule == {
        "host": "hooks.example.com",
        "http": {
            "paths": [
                {
                    "path": "/push",
                    "pathType": "Exact",
                    "backend": {"service": {"name": "gitlab-eventsource-svc", "port": {"name": "http"}}},
                }
            ]
        },
    }


def test_solo_says_that_it_does_not_play_gitlab(gitlab):
    (source,) = documents(gitlab / "argo-events/sources/gitlab.yaml")
    assert any(problem.field.startswith("spec.gitlab") for problem in check(source))


@pytest.fixture
def host(monkeypatch):
    """A Git host that keeps what is said to it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            Handler.got.append((self.path, self.headers["Authorization"], body))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    Handler.got = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setenv("GIT_API_URL", f"http://127.0.0.1:{httpd.server_port}/api/v4")
        monkeypatch.setenv("ARGO_URL", "https://argo.example.com")
        yield Handler.got
        httpd.shutdown()


@pytest.mark.parametrize(("ended", "state"), [("Succeeded", "success"), ("Failed", "failed"), ("Error", "failed")])
def test_a_run_that_ends_is_a_commit_status(host, monkeypatch, tmp_path, ended, state):
    (tmp_path / "token").write_text("glpat-1\n")
    monkeypatch.setenv("GIT_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("GIT_PROVIDER", "gitlab")
    run = {"namespace": "mlops", "workflow": "ci-1", "claim": "", "owner": "uid"}
    status(pipeline="ci", repo="acme/digits", sha=SHA, state=ended, **run)
    ((path, token, body),) = host
    assert path == f"/api/v4/projects/acme%2Fdigits/statuses/{SHA}"
    assert token == "Bearer glpat-1"
    assert body == {
        "state": state,
        "name": "trainyard/ci",
        "description": f"ci-1 {ended}",
        "target_url": "https://argo.example.com/workflows/mlops/ci-1",
    }


def test_the_steps_are_told_which_host_it_is(gitlab):
    bodies = documents(gitlab / "mlops/config/mlops.yaml")
    (config,) = [body for body in bodies if body["metadata"]["name"] == "platform"]
    assert config["data"]["GIT_PROVIDER"] == "gitlab"
    assert events.ports(platform.load(gitlab / "platform.yaml")) == {"gitlab": 12000, "stages": 12001}
    links = str(installs.controller.config_map(platform.load(gitlab / "platform.yaml")))
    assert "https://gitlab.com/${workflow.metadata.annotations.trainyard/repo}/-/commit/" in links
