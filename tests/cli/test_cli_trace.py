"""`yard trace`: the links of a commit's way, and the first one that stopped."""

from __future__ import annotations

import json
import subprocess

import pytest
from fake_argo import COMMIT, IMAGE, LOCK, NAMES, SHA, ci, ct, decision, pod, release, step, verify, workflow


def event(**more):
    return {
        "sha": SHA,
        "state": "done",
        "source": "github",
        "event": "push",
        "delivery": "6f1c1f0e",
        "repository": "acme/digits",
        "ref": "refs/heads/main",
        "time": "2026-11-24T02:00:00Z",
        "sensors": [{"trigger": "ci-digits", "created": f"mlops-build/{NAMES['ci']}"}],
        **more,
    }


def test_a_deployed_commit_is_traced_from_its_delivery_to_what_serves(yard, argo):
    argo.put(ci(), ct(), release(), verify())
    argo.events = [event(source="stages", event="built", ref="main"), event()]  # the newest first
    argo.applications["digits-dev"] = {
        "sync": {"status": "Synced", "revision": COMMIT},
        "health": {"status": "Healthy"},
    }
    said = yard("trace", SHA[:10])
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "✓ delivery  6f1c1f0e 2026-11-24T02:00:00Z",
        "✓ event     github/push acme/digits refs/heads/main",
        "✓ sensor    ci, trigger ci-digits",
        f"✓ ci        {NAMES['ci']} 40 s",
        f"✓ image     {IMAGE}",
        f"✓ training  {NAMES['ct']}, train took 1.5 s",
        "✓ metrics   accepted",
        "            samples 450 ≥ 300",
        "            accuracy 0.9722 ≥ 0.95",
        "            accuracy[label=0] 0.9 ≥ 0.8 (the closest of 3)",
        "✓ version   data: digits/v1, model: digits/v3",
        f"✓ release   released by commit {COMMIT}",
        "✓ serving   http://127.0.0.1:41233",
        "            now: digits-dev is Synced and Healthy, this release",
    ]


def test_a_rerun_has_no_event_of_its_own_whatever_its_stages_post_later(yard, argo):
    delivery = "rerun-20261124T035238Z"
    again = ci(attempt="2", name=f"{NAMES['ci']}-2")
    again["metadata"]["annotations"] = {"trainyard/delivery": delivery}
    again["metadata"]["labels"].pop("events.argoproj.io/sensor", None)
    argo.put(again)
    argo.events = [event(source="stages", event="built", ref="main", delivery=delivery), event()]
    lines = yard("trace", SHA).out.splitlines()
    assert lines[:2] == [f"✓ delivery  {delivery}", "✓ event     none: `yard rerun` started it"]
    assert lines[2].startswith(f"✓ ci        {NAMES['ci']}-2")


def test_on_a_cluster_the_links_before_the_run_are_read_from_the_run(yard, argo):
    argo.put(ci("Running"))
    lines = yard("trace", SHA).out.splitlines()
    assert lines[:2] == ["✓ delivery  6f1c1f0e", "✓ sensor    ci, trigger ci-digits"]
    assert lines[2].startswith(f"… ci        {NAMES['ci']}: Running")


def test_the_first_link_that_stopped_is_named_and_nothing_after_it(yard, argo):
    argo.put(ci(), workflow("ct", [step("train-cpu", "Failed", at=13, message="Error (exit code 1)")], "Failed"))
    argo.logs[pod(NAMES["ct"], "train-cpu")] = ["ValueError: no data"]
    lines = yard("trace", SHA).out.splitlines()
    assert lines[-4:] == [
        f"✗ training  {NAMES['ct']}: step train-cpu failed: Error (exit code 1)",
        "            ValueError: no data",
        f"            yard logs {NAMES['ct']} --step train-cpu",
        "stopped at: training",
    ]


def test_a_step_that_was_tried_again_tells_why_its_last_try_failed(yard, argo):
    failed = step("checkout", "Failed", message="Error (exit code 4)", retried=True)
    argo.put(workflow("ci", [failed], "Failed"))
    assert "step checkout failed: Error (exit code 4)" in yard("trace", SHA).out


def test_a_refused_model_stops_at_its_metrics_with_the_numbers(yard, argo):
    gate = step("gate", "Failed", at=15, code=7, decision=decision(0.31, False))
    argo.put(ci(), workflow("ct", [step("train-cpu", at=13), gate], "Failed"))
    lines = yard("trace", SHA).out.splitlines()
    assert "            accuracy 0.31 < 0.95" in lines
    assert lines[-2:] == [
        "            the model that serves now (lock abababababab) goes on serving",
        "stopped at: metrics",
    ]


def test_an_accepted_model_that_could_not_be_registered_stops_there(yard, argo):
    steps = [
        step("train-cpu", at=13),
        step("gate", at=15, decision=decision()),
        step("register", "Failed", at=17, message="Error (exit code 6)"),
    ]
    argo.put(ci(), workflow("ct", steps, "Failed"))
    lines = yard("trace", SHA).out.splitlines()
    assert lines[-1] == "stopped at: version"
    assert any("step register failed" in line for line in lines)


def test_a_push_that_no_sensor_took_stops_there_with_the_filter(yard, argo):
    no = {"trigger": "ci-digits", "filters": [{"asked": "body.ref = main", "passed": False, "why": "it is x"}]}
    argo.events = [event(sensors=[no])]
    assert yard("trace", SHA).out.splitlines()[-3:] == [
        "✗ sensor    no Sensor took it",
        "            ci-digits: body.ref = main: it is x",
        "stopped at: sensor",
    ]


def test_a_delivery_that_was_refused_stops_there(yard, argo):
    argo.events = [event(state="refused", refused="the signature is wrong", sensors=[])]
    assert yard("trace", SHA).out.splitlines() == [
        "✗ delivery  6f1c1f0e 2026-11-24T02:00:00Z",
        "            github: the signature is wrong",
        "stopped at: delivery",
    ]


def test_a_release_that_was_taken_back_says_by_which_commit(yard, argo):
    steps = [
        step("wait", "Failed", at=24, message="Error (exit code 9)"),
        step("revert", "Failed", 26, commit="77" * 20),
    ]
    argo.put(ci(), ct(), release(), workflow("verify", steps, "Failed"))
    lines = yard("trace", SHA).out.splitlines()
    assert lines[-2:] == [f"            taken back by {'77' * 20}", "stopped at: serving"]


def test_a_commit_that_nobody_knows_is_said_so(yard, argo, nowhere, monkeypatch):
    other = ci()
    other["metadata"]["labels"]["trainyard/sha"] = COMMIT
    argo.put(other)
    said = yard("trace", SHA, "--server", argo.url)
    assert said.code == 4
    assert said.err.startswith(f"nothing is known of {SHA[:12]}\n  → was it pushed?")
    said = yard("trace", "HEAD", "--server", argo.url)
    assert said.code == 4
    assert said.err.startswith("no commit 'HEAD' here")


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """A checkout whose releases repository holds the release of SHA."""

    def git(*args):
        command = ["git", "-c", "user.name=bot", "-c", "user.email=bot@localhost", *args]
        subprocess.run(command, check=True, capture_output=True)

    bare, clone = tmp_path / "git/acme/releases.git", tmp_path / "clone"
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git("init", "--quiet", "--initial-branch=main", str(clone))
    folder = clone / "services/digits/dev"
    folder.mkdir(parents=True)
    record = {
        "image": IMAGE,
        "lock": LOCK,
        "decision": decision(),
        "versions": '{"model": "digits/v3"}',
        "released-at": "2026-11-24T02:05:00Z",
        "workflow": NAMES["release"],
    }
    (folder / "release.yaml").write_text(json.dumps({"kind": "ConfigMap", "data": record}))
    git("-C", str(clone), "add", "--all")
    git("-C", str(clone), "commit", "--quiet", "-m", f"digits dev\n\nTrainyard-Sha: {SHA}\n")
    git("-C", str(clone), "push", "--quiet", str(bare), "main")
    (tmp_path / "platform.yaml").write_text(
        "apiVersion: trainyard/v1\ndomain: a.example\nrepository: me/platform\n"
        "services: [{repo: acme/digits, name: digits}]\nreleases: acme/releases\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/git")


def test_a_release_whose_runs_are_gone_is_traced_from_git(yard, argo, releases):
    lines = yard("trace", SHA).out.splitlines()
    assert [line.split()[1] for line in lines if line[0] == "✓"] == ["image", "metrics", "version", "release"]
    assert lines[-1].endswith(f"2026-11-24T02:05:00Z, by {NAMES['release']} (no longer kept)")
