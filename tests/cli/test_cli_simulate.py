"""`yard event simulate`: a webhook as GitHub shows it under Recent Deliveries, and files that are none."""

from __future__ import annotations

import json

import pytest
from fake_argo import SHA

PUSH = {
    "ref": "refs/heads/main",
    "before": "0" * 40,
    "after": SHA,
    "repository": {
        "id": 1296269,
        "name": "digits",
        "full_name": "acme/digits",
        "private": False,
        "owner": {"name": "acme", "login": "acme"},
        "html_url": "https://github.com/acme/digits",
        "default_branch": "main",
    },
    "pusher": {"name": "ann", "email": "ann@example.com"},
    "sender": {"login": "ann", "id": 1, "type": "User"},
    "created": False,
    "deleted": False,
    "forced": False,
    "base_ref": None,
    "compare": "https://github.com/acme/digits/compare/a...b",
    "commits": [{"id": SHA, "message": "Change", "added": [], "removed": [], "modified": ["mlops.yaml"]}],
    "head_commit": None,
}


@pytest.fixture
def simulate(yard, tmp_path):
    def run(content):
        file = tmp_path / "event.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return yard("event", "simulate", str(file))

    return run


def test_a_bare_push_payload_shows_the_workflow_it_would_start(simulate):
    said = simulate(PUSH)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "Sensor argo-events/ci, trigger ci-digits (on push-digits): would start a Workflow"
    assert f"  |   name: ci-acme-digits-{SHA[:12]}" in lines
    assert "Sensor argo-events/verify, trigger verify (on push): does not fire" in lines


def test_a_saved_event_names_its_source_and_headers(simulate):
    ping = {"source": "github", "event": "push", "headers": {"X-GitHub-Event": "ping"}, "body": PUSH}
    said = simulate(ping)
    assert said.code == 0
    assert "would start" not in said.out
    assert """  NO  body.X-GitHub-Event (string) = '^push$': "ping" matches no pattern""" in said.out.splitlines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON: "),
        ("{", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ("[]", "not a JSON object"),
        ({"body": {}, "headers": []}, "headers: not a JSON object"),
        ({"body": 1}, "the body is no JSON object"),
        ({"body": {}, "source": "gitlab"}, "no EventSource has an event 'gitlab/push' (there are: github/push, "),
    ],
)
def test_what_is_no_event_is_said_with_the_file(simulate, tmp_path, content, message):
    said = simulate(content)
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith(f"{tmp_path}/event.json: {message}")


def test_a_file_that_is_not_there_is_said_so(yard, tmp_path):
    said = yard("event", "simulate", str(tmp_path / "none.json"))
    assert (said.code, said.err) == (4, f"{tmp_path}/none.json: No such file or directory\n")
