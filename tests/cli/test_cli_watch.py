"""`yard watch`: what a push shows while it happens, and the exit code that its end stands for."""

from __future__ import annotations

import threading

import pytest
from fake_argo import COMMIT, NAMES, SHA, ci, ct, decision, pod, release, step, verify, workflow

from pipelines.cli import watch as module

SUCCESS = f"""\
ci       claim         1.5 s
ci       checkout      1.5 s
ci       validate      1.5 s
ci       build         1.5 s  digits@1f1f1f1f1f1f
ci       test          1.5 s
ci       built         1.5 s
ct       plan          1.5 s
ct       ingest        1.5 s
ct       train-cpu     1.5 s
ct       gate          1.5 s
                    samples 450 ≥ 300
                    accuracy 0.9722 ≥ 0.95
                    accuracy[label=0] 0.9 ≥ 0.8 (the closest of 3)
ct       register      1.5 s  data v1 model v3
ct       accepted      1.5 s
release  release       1.5 s  released {COMMIT[:12]}
verify   inspect       1.5 s
verify   wait          1.5 s  http://127.0.0.1:41233
verify   smoke         1.5 s
verify   keep          1.5 s
model digits/v3 serves at http://127.0.0.1:41233, 3 min 40 s after the push
"""


def test_a_commit_that_is_deployed_already_is_told_from_the_first_step_to_the_address(yard, argo):
    argo.put(ci(), ct(), release(), verify())
    said = yard("watch", "acme/digits", SHA, "--ref", "refs/heads/main")
    assert (said.code, said.err) == (0, "")
    assert said.out == SUCCESS
    assert max(map(len, said.out.splitlines())) <= 80


def test_each_step_is_told_once_when_it_ends_and_the_runs_may_come_one_after_another(yard, argo):
    def happen():
        partial = [step("claim", at=1, claimed="true"), step("checkout", "Running", at=2)]
        argo.put(workflow("ci", partial))
        argo.put(ci("Running"))
        argo.put(ct("Running"))  # ct begins before ci's exit handler has ended
        argo.put(ci(), ct(), release("Running"))
        argo.put(release())
        argo.put(verify("Running"))
        argo.put(verify())

    thread = threading.Timer(0.2, happen)
    thread.start()
    said = yard("watch", SHA)
    thread.join()
    assert said.code == 0
    assert said.out == SUCCESS


def test_a_lost_connection_loses_no_line(yard, argo, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.05)
    argo.lost = 3
    argo.put(ci("Running"))
    thread = threading.Timer(0.2, lambda: argo.put(ci(), ct(), release(), verify()))
    thread.start()
    said = yard("watch", SHA)
    thread.join()
    assert said.code == 0
    assert said.out == SUCCESS


def test_a_refused_model_shows_the_numbers_and_two_lines_why(yard, argo):
    gate = step("gate", "Failed", at=15, code=7, message="Error (exit code 7)", decision=decision(0.31, False))
    argo.put(ci(), workflow("ct", [step("plan", at=10, claimed="true"), gate], minute=1))
    said = yard("watch", SHA)
    assert said.code == 7
    assert said.out.splitlines()[-6:] == [
        "ct       gate          1.5 s  refused",
        "                    samples 450 ≥ 300",
        "                    accuracy 0.31 < 0.95",
        "                    accuracy[label=0] 0.9 ≥ 0.8 (the closest of 3)",
        "refused: accuracy 0.31 < 0.95, by 0.64",
        "the model that serves now (lock abababababab) goes on serving",
    ]


def test_code_of_the_users_that_fails_is_told_by_its_last_line(yard, argo):
    argo.put(ci(), workflow("ct", [step("train-cpu", "Failed", at=13, code=7, retried=True)], minute=1))
    argo.logs[pod(NAMES["ct"], "train-cpu", 0)] = ["the first try"]
    argo.logs[pod(NAMES["ct"], "train-cpu", 1)] = ["Traceback …", "ValueError: no data", "", "  "]
    said = yard("watch", SHA)
    assert said.code == 9, "the user's exit code 7 does not mean the gate"
    assert said.out.splitlines()[-2:] == [
        "train-cpu: ValueError: no data",
        f"  → yard logs {NAMES['ct']} --step train-cpu",
    ]


def test_a_mistake_in_mlops_yaml_is_told_with_its_place_and_the_next_step(yard, argo):
    argo.put(workflow("ci", [step("validate", "Failed", at=3, code=3)]))
    argo.logs[pod(NAMES["ci"], "validate")] = [
        "mlops.yaml:9: train.comand: unknown key",
        "  → did you mean 'command'?",
    ]
    said = yard("watch", SHA)
    assert said.code == 3
    assert said.out.splitlines()[-2:] == [
        "validate: mlops.yaml:9: train.comand: unknown key",
        "  → did you mean 'command'?",
    ]


def test_where_the_pod_is_gone_its_archived_log_tells(yard, argo):
    argo.put(workflow("ci", [step("test", "Failed", at=3, code=1)]))
    argo.keep(NAMES["ci"], "test", ["1 failed, 3 passed"])
    said = yard("watch", SHA)
    assert said.code == 9
    assert "test: 1 failed, 3 passed" in said.out


def test_a_run_that_fails_without_a_failed_step_says_what_argo_says(yard, argo):
    argo.put(workflow("ci", phase="Error", message='workflowtemplates "ci" not found'))
    said = yard("watch", SHA)
    assert said.code == 9
    assert said.out.splitlines()[0] == f'{NAMES["ci"]}: workflowtemplates "ci" not found'
    assert said.out.splitlines()[1] == f"  → {argo.url}/workflows/mlops-build/{NAMES['ci']}"


def test_a_release_that_is_taken_back_says_by_which_commit(yard, argo):
    steps = [
        step("inspect", at=23, claimed="true"),
        step("wait", "Failed", at=24, code=9, message="Error (exit code 9)"),
    ]
    argo.put(ci(), ct(), release(), workflow("verify", steps, minute=3))
    argo.logs[pod(NAMES["verify"], "wait")] = ["commit fedcba987654: digits-dev is Degraded: probe failed"]
    taken_back = step("revert", "Failed", at=27, code=8, commit="77" * 20)

    thread = threading.Timer(0.3, lambda: argo.put(workflow("verify", [*steps, taken_back], "Failed", minute=3)))
    thread.start()
    said = yard("watch", SHA)
    thread.join()
    assert said.code == 8
    assert said.out.splitlines()[-2:] == [
        "wait: commit fedcba987654: digits-dev is Degraded: probe failed",
        "  → the release is taken back by 777777777777; what served before serves on",
    ]


def test_a_release_that_could_not_be_taken_back_says_so_loudly(yard, argo):
    steps = [
        step("inspect", at=23, claimed="true"),
        step("smoke", "Failed", at=24, code=9),
        step("revert", "Error", 26),
    ]
    argo.put(ci(), ct(), release(), workflow("verify", steps, "Failed", minute=3))
    said = yard("watch", SHA)
    assert said.code == 9
    assert "the release was NOT taken back" in said.out


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        ("superseded", "superseded: a newer commit of this branch is out already"),
        ("unchanged", "unchanged: this very model is out already"),
    ],
)
def test_a_release_that_was_not_needed_is_no_failure(yard, argo, outcome, line):
    argo.put(ci(), ct(), release(outcome=outcome, commit=""))
    said = yard("watch", SHA)
    assert said.code == 0
    assert said.out.splitlines()[-1] == line


def test_a_commit_that_was_built_before_says_how_to_do_it_again(yard, argo):
    argo.put(workflow("ci", [step("claim", at=1, claimed="false")], "Succeeded"))
    said = yard("watch", SHA)
    assert said.code == 0
    assert f"yard rerun {SHA[:12]}" in said.out


def test_only_the_newest_attempt_is_followed(yard, argo):
    argo.put(ci(), workflow("ct", [step("train-cpu", "Failed", at=13)], "Failed", minute=1))
    again = f"{NAMES['ct'][:-1]}2"
    failed = step("gate", "Failed", at=15, code=7, decision=decision(0.5, False))
    argo.put(ci(attempt="2", name=f"{NAMES['ci']}-2"), workflow("ct", [failed], "Failed", attempt="2", name=again))
    said = yard("watch", SHA)
    assert said.code == 7
    assert "train-cpu" not in said.out


def test_the_end_of_a_rerun_counts_from_the_rerun(yard, argo):
    runs = [ci(), ct(), release(), verify()]
    runs[0]["metadata"]["annotations"] = {"trainyard/delivery": "rerun-20261124T035238Z"}
    argo.put(*runs)
    assert yard("watch", SHA).out == SUCCESS.replace("after the push", "after the rerun")


def test_a_fork_with_the_same_commit_is_not_followed(yard, argo, monkeypatch):
    monkeypatch.setattr(module, "START", 0.1)
    monkeypatch.setattr(module, "AGAIN", 0.05)
    argo.put(workflow("ci", [step("claim", at=1, claimed="true")], repo="fork/digits"))
    said = yard("watch", "acme/digits", SHA)
    assert said.code == 6
    assert "claim" not in said.out


def test_a_push_that_no_sensor_takes_says_which_filter_said_no(yard, argo, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.05)
    verdict = {
        "sensor": "ci",
        "trigger": "ci-digits",
        "passed": False,
        "filters": [
            {"asked": "body.repository.full_name (string) = '^acme/digits$'", "passed": True, "why": "it matches"},
            {
                "asked": "body.ref (string) = '^refs/heads/main$'",
                "passed": False,
                "why": "'refs/heads/x' matches no pattern",
            },
        ],
    }
    argo.events = [{"sha": SHA, "state": "done", "source": "github", "event": "push", "sensors": [verdict]}]
    said = yard("watch", "acme/digits", SHA, "--ref", "refs/heads/x")
    assert said.code == 0
    assert said.out == (
        "nothing runs for this push:\n"
        "  ci-digits: body.ref (string) = '^refs/heads/main$': 'refs/heads/x' matches no pattern\n"
    )


def test_when_nothing_begins_it_ends_and_says_where_to_look(yard, argo, monkeypatch):
    monkeypatch.setattr(module, "START", 0.1)
    monkeypatch.setattr(module, "AGAIN", 0.05)
    said = yard("watch", SHA)
    assert said.code == 6
    assert f"yard trace {SHA[:12]}" in said.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("acme/digits", SHA, "--ref", "refs/tags/v1"), "refs/tags/v1: only branches are built"),
        (("acme/digits", "0" * 40, "--ref", "refs/heads/old"), "old: deleted, nothing to build"),
        (
            ("acme/releases", COMMIT, "--ref", "refs/heads/main"),
            f"verify looks at this release; to follow it: yard watch {COMMIT[:12]}",
        ),
    ],
)
def test_what_starts_nothing_is_said_at_once(yard, argo, words, line):
    said = yard("watch", *words)
    assert (said.code, said.out) == (0, f"{line}\n")


def test_a_server_that_is_gone_for_good_ends_the_watching(yard, monkeypatch):
    monkeypatch.setattr(module, "LOST", 0.1)
    monkeypatch.setattr(module, "AGAIN", 0.05)
    said = yard("watch", SHA, "--server", "http://127.0.0.1:9")
    assert said.code == 6
    assert "does not answer" in said.err
