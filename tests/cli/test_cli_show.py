"""`yard runs`, `logs`, `models`: what ran, what it said, what serves."""

from __future__ import annotations

import subprocess

import pytest
from fake_argo import NAMES, SHA, ci, ct, pod, step, verify, workflow

from pipelines.cli.show import brief, numbers
from pipelines.gate import Check, Decision
from pipelines.registry import Lock, LockedVersion, open_registry


def test_runs_are_listed_newest_first_with_where_they_stand(yard, argo):
    running = workflow("ct", [step("plan"), step("train-cpu", "Running", at=3)], minute=1)
    argo.put(ci("Failed"), running, verify())
    said = yard("runs")
    assert said.code == 0
    head, *lines = said.out.splitlines()
    assert head.split() == ["RUN", "PHASE", "AT", "TOOK", "AGO"]
    assert [line.split()[:2] for line in lines] == [
        [NAMES["verify"], "Succeeded"],
        [NAMES["ct"], "Running"],
        [NAMES["ci"], "Failed"],
    ]
    assert " train-cpu " in lines[1]
    assert " 40 s " in lines[2]


def test_runs_can_be_asked_of_one_service_and_a_few(yard, argo):
    other = workflow("ci", phase="Succeeded", name="ci-acme-other-0123")
    other["metadata"]["labels"]["trainyard/service"] = "other"
    argo.put(ci(), ct(), other)
    assert yard("runs", "--service", "other").out.splitlines()[1].startswith("ci-acme-other-0123  ")
    assert len(yard("runs", "-n", "1").out.splitlines()) == 2


def test_an_empty_platform_says_what_starts_the_first_run(yard, argo, registry, monkeypatch):
    monkeypatch.setenv("GIT_URL", "file:///solo/git")
    push = "git push file:///solo/git/acme/digits.git HEAD:main"
    for words in ((), ("--service", "digits")):
        assert yard("runs", *words).out.splitlines()[1] == f"  → {push}"
        assert yard("models", *words).out.splitlines()[1].endswith(push)
    assert yard("trace", SHA).err == f"nothing is known of {SHA[:12]}\n  → nothing has run yet: {push}\n"
    for command in ("runs", "models"):
        said = yard(command, "--service", "digts")
        assert (said.code, said.out, said.err) == (
            4,
            "",
            "platform.yaml: no service 'digts'\n  → did you mean 'digits'?\n",
        )


def test_reconcile_is_shown_only_when_it_fails(yard, argo):
    for name, phase in (("reconcile-1", "Succeeded"), ("reconcile-2", "Failed")):
        run = workflow("ci", phase=phase, name=name)
        run["metadata"]["labels"]["trainyard/pipeline"] = "reconcile"
        argo.put(run)
    assert [line.split()[0] for line in yard("runs").out.splitlines()[1:]] == ["reconcile-2"]


def test_logs_are_shown_in_order_each_line_with_its_step(yard, argo):
    argo.put(ct())
    argo.logs = {
        pod(NAMES["ct"], "ingest"): ["1797 pictures"],
        pod(NAMES["ct"], "train-cpu", 0): ["lost"],
        pod(NAMES["ct"], "train-cpu", 1): ["model.onnx: 22 bytes", "done"],
    }
    said = yard("logs", NAMES["ct"])
    assert said.out.splitlines() == [
        "ingest     1797 pictures",
        "train-cpu  lost",
        "train-cpu  model.onnx: 22 bytes",
        "train-cpu  done",
    ]
    assert yard("logs", NAMES["ct"], "--step", "ingest").out == "1797 pictures\n"


def test_logs_of_a_pod_that_is_gone_come_from_the_archive(yard, argo):
    argo.put(ci())
    argo.keep(NAMES["ci"], "test", ["4 passed"])
    assert yard("logs", NAMES["ci"], "-s", "test").out == "4 passed\n"


def test_logs_of_a_running_run_are_followed(yard, argo):
    argo.put(workflow("ct", [step("ingest", "Running")]))
    argo.logs = {pod(NAMES["ct"], "ingest"): ["one"], pod(NAMES["ct"], "process"): ["two"]}
    assert yard("logs", NAMES["ct"], "-f").out.splitlines() == ["ingest  one", "process  two"]
    assert yard("logs", NAMES["ct"], "-f", "-s", "process").out == "two\n"


def test_a_run_or_a_step_that_is_not_there_is_said_so(yard, argo):
    assert yard("logs", "ci-x").err == "no run 'ci-x'\n  → nothing has run yet\n"
    argo.put(ci())
    for name in ("", "a/b", "..", "?", "ci x"):  # the server would answer another question
        assert yard("logs", name).code == 4
    said = yard("logs", NAMES["ci"][:-1])
    assert (said.code, said.err) == (4, f"no run '{NAMES['ci'][:-1]}'\n  → did you mean '{NAMES['ci']}'?\n")
    said = yard("logs", NAMES["ci"], "--step", "tset")
    assert (said.code, said.err) == (4, f"{NAMES['ci']}: no step 'tset'\n  → did you mean 'test'?\n")


def lock(registry, number_of_model, digest):
    some = registry.put_blob(b"content")
    versions = {axis: LockedVersion(name="digits", number=1, digest=some) for axis in ("data", "feature", "app")}
    return registry.put_lock(
        Lock(
            service="digits",
            repo="acme/digits",
            branch="main",
            sha=SHA,
            attempt=1,
            image="x",
            versions={**versions, "model": LockedVersion(name="digits", number=number_of_model, digest=digest)},
            platform={"version": "1", "templates": "x", "image": "x", "architecture": "x"},
            seed=1,
            params={},
            params_digest=some,
            metrics={},
            thresholds={},
            decision={},
            workflows={},
        )
    )


@pytest.fixture
def registry(argo, storage_server, bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_URL", storage_server.url)
    monkeypatch.setenv("REGISTRY_BUCKET", bucket)
    return open_registry()


def test_models_are_listed_newest_first_with_the_one_that_serves(yard, registry):
    assert yard("models").out.startswith("no model is registered yet\n  → ")
    digests = [registry.put_blob(content) for content in (b"1", b"2")]
    for digest, accuracy in zip(digests, (0.9722, 0.98), strict=True):
        registry.add_version("model", "digits", digest, {"sha": SHA, "metrics": {"accuracy": accuracy}})
    registry.move_alias("digits", "serving", lock(registry, 1, digests[0]))
    assert yard("models").out.splitlines() == [
        "MODEL      NOW      COMMIT        METRICS",
        f"digits/v2           {SHA[:12]}  accuracy=0.9800",
        f"digits/v1  serving  {SHA[:12]}  accuracy=0.9722",
    ]
    said = yard("models", "--service", "digit")
    assert (said.code, said.err.splitlines()[-1]) == (4, "  → did you mean 'digits'?")


def test_a_proxy_is_not_asked_for_what_answers_on_this_machine(yard, registry, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.com")
    assert yard("runs").code == 0
    assert yard("models").code == 0


def test_a_rerun_is_the_next_attempt_that_nobody_claimed(yard, argo, registry):
    argo.put(ci(), ct())
    registry.claim(f"ci/digits/{SHA}-2", "somebody")
    said = yard("rerun", SHA[:8])
    assert said.code == 0
    assert said.out == (
        f"ci-acme-digits-{SHA[:12]}-3: attempt 3 of acme/digits@{SHA[:12]}\n  → yard watch {SHA[:12]}\n"
    )
    ((path, body),) = argo.submitted
    assert path == "/api/v1/workflows/mlops-build/submit"
    assert (body["resourceKind"], body["resourceName"]) == ("WorkflowTemplate", "ci")
    given = dict(pair.split("=", 1) for pair in body["submitOptions"]["parameters"])
    assert given.pop("delivery").startswith("rerun-2")
    assert given == {"service": "digits", "repo": "acme/digits", "branch": "main", "sha": SHA, "attempt": "3"}
    assert f"trainyard/sha={SHA}" in body["submitOptions"]["labels"].split(",")
    assert body["submitOptions"]["annotations"].startswith("trainyard/delivery=rerun-")


def test_a_rerun_of_a_commit_whose_runs_are_gone_takes_the_service_from_platform_yaml(
    yard, argo, registry, tmp_path, monkeypatch
):
    two = "services: [{repo: acme/a, name: a}, {repo: acme/b, name: b, branch: dev}]"
    (tmp_path / "platform.yaml").write_text(
        f"apiVersion: trainyard/v1\ndomain: a.example\nrepository: me/platform\n{two}\nreleases: acme/r\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/nowhere")  # who does not answer does not say no
    said = yard("rerun", SHA)
    assert said.code == 4
    assert "--service, one of a, b" in said.err
    assert yard("rerun", SHA, "--service", "b").code == 0
    ((_, body),) = argo.submitted
    assert {"service=b", "repo=acme/b", "branch=dev", "attempt=2"} <= set(body["submitOptions"]["parameters"])


def test_a_rerun_of_a_commit_that_the_git_host_does_not_have_is_refused(yard, argo, registry, tmp_path, monkeypatch):
    bare = tmp_path / "git/acme/digits.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    monkeypatch.setenv("GIT_URL", f"file://{tmp_path}/git")
    said = yard("rerun", SHA)
    assert said.code == 4
    assert said.err == f"file://{bare}: no commit {SHA[:12]}\n  → was it pushed? `yard runs` shows what ran\n"
    assert argo.submitted == []


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("refused: accuracy 0.3 < 0.9, by 0.6", "refused: accuracy 0.3 < 0.9, by 0.6"),
        (f"refused: a{'.' * 30}; b{'.' * 30}; c", f"refused: a{'.' * 30}; and 2 more"),
        (f"refused: a{'.' * 30}; b{'.' * 9}; c{'.' * 30}; and 8 more", f"refused: a{'.' * 30}; b{'.' * 9}; and 9 more"),
        (f"refused: {'.' * 90}; b", f"refused: {'.' * 90}; and 1 more"),
    ],
)
def test_why_a_model_was_refused_fits_into_a_line(text, short):
    assert brief(text) == short


def test_of_many_slices_that_fail_the_worst_are_told_and_all_if_asked_for():
    checks = [
        Check(name=f"accuracy[label={n}]", value=n / 10, threshold=0.8, op=">=", passed=False, why="") for n in range(6)
    ]
    found = Decision(accepted=False, checks=checks[::-1], summary=["refused", "stays"])
    assert numbers(found) == [*map(str, checks[:3]), "and 3 more slices"]
    assert len(numbers(found, every=True)) == 6


def test_following_a_run_that_has_ended_does_not_wait(yard, argo):
    argo.put(ci())
    argo.logs = {pod(NAMES["ci"], "claim"): ["claimed"]}
    assert yard("logs", NAMES["ci"], "-f").out.split() == ["claim", "claimed"]
