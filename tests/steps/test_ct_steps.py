"""From a plan to a lock: what ct's own steps accept, refuse, and leave behind when something breaks in between."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from step_world import CONFIG, MODELS, claim_at_the_end

from pipelines.config import Gate
from pipelines.errors import Exit, YardError
from pipelines.gate import decide
from pipelines.registry import AXES, open_registry
from pipelines.serving.bundle import load_bundle
from pipelines.steps._step import run
from pipelines.steps.claim import claim
from pipelines.steps.data import analyze, validate_data
from pipelines.steps.decide import gate
from pipelines.steps.evaluate import evaluate
from pipelines.steps.fetch import fetch
from pipelines.steps.plan import plan
from pipelines.steps.register import register

SHA = "a" * 40
LOCK = "sha256:" + "ab" * 32
COMPARED = {"serving": {"metric": "accuracy", "margin": 0.02}}


def fails(code):
    return pytest.raises(YardError, check=lambda error: error.code == code)


def config(**changes):
    """The contract as `validate` hands it over; `changes` are deep ones, by dotted name."""
    body = CONFIG.model_dump(mode="json")
    for name, value in changes.items():
        place = body
        *path, last = name.split("__")
        for key in path:
            place = place[key]
        place[last] = value
    return json.dumps(body)


# --- claim, plan -----------------------------------------------------------------------------------------------------


def test_one_run_claims_a_commit_and_only_a_new_attempt_claims_it_again(registry):
    def claimed(owner, attempt="1"):
        return claim(pipeline="ci", service="digits", sha=SHA, attempt=attempt, owner=owner)["claimed"]

    assert [claimed("a"), claimed("b"), claimed("a"), claimed("b", "2")] == ["true", "false", "true", "true"]


def planned(owner="uid", **changes):
    return plan(service="digits", sha=SHA, attempt="1", owner=owner, config=config(**changes))


def test_a_plan_is_what_the_contract_says(registry):
    found = planned()
    assert (found["claimed"], found["serving"], found["gpu"]) == ("true", "", "1")
    assert (found["ingest_command"], found["ingest_timeout"]) == ("ingest", "90")
    assert json.loads(found["params"]) == {"seed": 7, "params": {"hidden": 64}}
    resources = json.loads(found["train_patch"])["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": "1"}
    assert all(isinstance(value, str) for value in found.values())


def test_training_on_a_gpu_gets_the_runtime_that_has_its_driver(registry, monkeypatch):
    assert "runtimeClassName" not in json.loads(planned()["train_patch"])
    monkeypatch.setenv("GPU_RUNTIME", "nvidia")
    assert json.loads(planned()["train_patch"])["runtimeClassName"] == "nvidia"


def test_a_plan_without_a_gpu_asks_for_none(registry, monkeypatch):
    monkeypatch.setenv("GPU_RUNTIME", "nvidia")
    found = planned(train__resources__gpu=0)
    assert found["gpu"] == "0"
    assert "nvidia" not in found["train_patch"]


def test_a_second_run_of_a_commit_is_told_so(registry):
    assert [planned(owner)["claimed"] for owner in ("a", "b", "a")] == ["true", "false", "true"]


def test_the_end_of_a_run_asks_for_the_claim_that_its_beginning_made(registry):
    claim(pipeline="ci", service="digits", sha=SHA, attempt="1", owner="uid")
    planned()
    for pipeline in ("ci", "ct"):
        assert claim_at_the_end(registry, pipeline, service="digits", sha=SHA, attempt="1") == "uid"


def test_a_plan_knows_what_serves(registry):
    registry.move_alias("digits", "serving", LOCK)
    assert planned()["serving"] == LOCK


# --- validate, analyze -----------------------------------------------------------------------------------------------


def validated(directory, text, **expect):
    (directory / "data").mkdir()
    (directory / "data/a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return validate_data(data=directory / "data", config=config(data__expect=expect))["rows"]


def test_rows_are_counted_as_a_spreadsheet_counts_them(tmp_path):
    assert (
        validated(tmp_path, 'a,label\r\n"x\r\ny",1\r\nsmall\u2028pause,2\r\n', label="label", classes=["1", "2"]) == "2"
    )


@pytest.mark.parametrize(
    ("text", "expect", "told"),
    [
        ("", {}, "a.csv:1: an empty file"),
        ("a,a\n1,2\n", {}, "a.csv:1: a column name appears twice"),
        ("a,b\n1,2\n1\n", {}, "a.csv:3: 1 cells, the header has 2"),
        ("a,b\n1,\n", {}, "a.csv:2: column 'b' is empty"),
        ("a\n1\n", {"rows": 2}, "1 rows, at least 2 expected"),
        ("a\n1\n", {"label": "y"}, "a.csv:1: no column 'y'"),
        ("y\n1\n2\n", {"label": "y", "classes": ["1", "3"]}, "2, 3"),
        (b"a\n\xff\n", {}, "not UTF-8 text"),
        ("a\n" + "x" * 200_000 + "\n", {}, "a.csv:2: not CSV: field larger"),
    ],
)
def test_data_that_is_not_as_expected_is_named_by_line(tmp_path, text, expect, told):
    with fails(Exit.FAILED) as raised:
        validated(tmp_path, text, **expect)
    assert told in str(raised.value)


def test_no_data_at_all(tmp_path):
    (tmp_path / "data").mkdir()
    with fails(Exit.FAILED):
        validate_data(data=tmp_path / "data", config=config())


def test_an_analysis_is_json_whatever_the_numbers(tmp_path):
    huge = np.array([[3e38, 1], [-3e38, 1], [3e38, 1]], dtype=np.float32)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", X=huge, y=np.array([0, 1, 0]))
    analyze(features=tmp_path, analysis=tmp_path / "out")
    text = (tmp_path / "out/analysis.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["rows_in_both"] == 3
    assert found["constant_columns"] == 1


# --- gate ------------------------------------------------------------------------------------------------------------


def judged(directory, text, **changes):
    directory = directory / "report"
    directory.mkdir()
    if text is not None:
        (directory / "metrics.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    words = {"service": "digits", "sha": SHA, "workflow": "ct-x", "owner": "uid", "config": config(**changes)}
    return gate(report=directory, **words)["decision"]


def test_an_accepted_model_leaves_its_record_to_register(registry, tmp_path):
    text = json.dumps({"samples": 2, "metrics": {"accuracy": 0.5}, "slices": {}, "serving": None})
    assert json.loads(judged(tmp_path, text))["accepted"] is True
    assert registry.runs() == []


def test_a_refusal_is_kept_and_handed_over(registry, tmp_path):
    text = json.dumps({"samples": 2, "metrics": {"accuracy": 0.49}, "slices": {}, "serving": None})
    with fails(Exit.REFUSED) as raised:
        judged(tmp_path, text)
    handed = raised.value.results["decision"]
    assert json.loads(handed)["accepted"] is False
    (name,) = registry.runs()
    record = registry.get_run(name)
    assert (record["outcome"], record["sha"], record["workflow"], record["uid"]) == ("refused", SHA, "ct-x", "uid")
    assert registry.run_file(name, "decision.json").decode() == handed
    assert json.loads(registry.run_file(name, "metrics.json"))["metrics"] == {"accuracy": 0.49}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "null",
        "[]",
        "{}",
        "0.99",
        b"\xff",
        "[" * 100_000,
        '{"samples": 2, "metrics": {"accuracy": NaN}}',
        '{"samples": 2, "metrics": {"accuracy": Infinity}}',
        '{"samples": 2, "metrics": {"accuracy": -Infinity}}',
        '{"samples": 2, "metrics": {"accuracy": 1e999}}',
        '{"samples": NaN, "metrics": {"accuracy": 1}}',
        '{"samples": 2, "metrics": {"accuracy": null}}',
        '{"samples": 2, "metrics": {"accuracy": "1"}}',
        '{"samples": 2, "metrics": {"accuracy": true}}',
        '{"samples": 2, "metrics": {"accuracy": 1.01}}',
        '{"samples": 2, "metrics": {}}',
        '{"samples": 2, "metrics": null}',
    ],
    ids=lambda text: str(text)[:40],
)
def test_what_cannot_be_read_or_compared_is_refused(registry, tmp_path, text):
    with fails(Exit.REFUSED) as raised:
        judged(tmp_path, text)
    assert json.loads(raised.value.results["decision"])["accepted"] is False
    assert len(registry.runs()) == 1


def test_a_refusal_that_is_tried_again_is_one_record(registry, tmp_path):
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        with fails(Exit.REFUSED):
            judged(tmp_path / number, "{}")
    assert len(registry.runs()) == 1


def test_the_runner_hands_the_refusal_to_argo(registry, tmp_path):
    words = {"service": "digits", "sha": SHA, "workflow": "ct-x", "owner": "uid", "config": config()}
    options = [f"--{key}={value}" for key, value in words.items()]
    assert run(["gate", *options, f"--report={tmp_path}", f"--outputs={tmp_path}/out"]) == Exit.REFUSED
    assert json.loads((tmp_path / "out/decision").read_text())["accepted"] is False


# --- evaluate --------------------------------------------------------------------------------------------------------

ROWS = np.eye(3, 4, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]  # the tiny models answer with the largest column


def evaluated(directory, x=ROWS, y=(0, 1, 2, 0, 1, 1), model="linear", serving=""):
    features, trained = directory / "features", directory / "model"
    for made in (features, trained):
        made.mkdir(parents=True)
    for part in ("train", "test"):
        np.savez(features / f"{part}.npz", X=x, y=np.array(y), s_half=np.arange(len(y)) % 2)
    (trained / "model.onnx").write_bytes((MODELS / f"{model}.onnx").read_bytes())
    evaluate(
        service="digits",
        serving=serving,
        features=features,
        model=trained,
        bundle=directory / "bundle",
        report=directory / "report",
    )
    return json.loads((directory / "report/metrics.json").read_text())


def test_a_first_model_is_scored_alone(registry, tmp_path):
    found = evaluated(tmp_path)
    assert (found["samples"], found["serving"]) == (6, None)
    assert found["metrics"]["accuracy"] == pytest.approx(5 / 6)
    assert found["slices"]["half"]["1"] == {"samples": 3, "accuracy": pytest.approx(2 / 3)}
    assert found["slices"]["label"]["2"] == {"samples": 1, "accuracy": 1.0}
    assert load_bundle(tmp_path / "bundle").labels == ["0", "1", "2"]


def serve(registry, directory, **more):
    """Evaluate a model and register it; its lock."""
    evaluated(directory, **more)
    return registered(directory)


def test_the_serving_model_is_scored_on_the_same_rows(registry, tmp_path):
    lock = serve(registry, tmp_path / "before")
    found = evaluated(tmp_path / "now", y=(0, 1, 2, 0, 1, 2), serving=lock)
    assert found["serving"] == {
        "lock": lock,
        "metrics": found["metrics"],
        "samples": 6,
        "wins": 0,
        "losses": 0,
    }


def test_a_serving_model_of_other_classes_cannot_be_compared_and_does_not_fail_the_run(registry, tmp_path):
    lock = serve(registry, tmp_path / "before", y=("cat", "dog", "emu") * 2, model="words")
    found = evaluated(tmp_path / "now", serving=lock)
    assert found["metrics"]["accuracy"] == pytest.approx(5 / 6)
    assert set(found["serving"]) == {"lock", "error"}
    assert "the model knows only cat, dog, emu" in found["serving"]["error"]


def test_a_serving_model_that_is_gone_or_broken_does_not_fail_the_run(registry, tmp_path):
    found = evaluated(tmp_path, serving=LOCK)
    assert found["serving"]["lock"] == LOCK
    assert "no such object" in found["serving"]["error"]


def test_a_store_that_is_away_is_tried_again(registry, tmp_path, monkeypatch, storage_server):
    monkeypatch.setattr("pipelines.steps.evaluate.open_registry", functools.partial(open_registry, deadline=0.2))
    storage_server.faults.order("before", "GET", times=1000)
    with fails(Exit.UNAVAILABLE):
        evaluated(tmp_path, serving=LOCK)


def test_the_gate_minds_a_missing_comparison_only_if_the_contract_asks_for_one():
    report = {"samples": 2, "metrics": {"accuracy": 1.0}, "slices": {}, "serving": {"lock": LOCK, "error": "4 columns"}}
    plain = {"samples": 2, "metrics": {"accuracy": {"min": 0.5}}}
    assert decide(Gate.model_validate(plain), report).accepted
    refused = decide(Gate.model_validate(plain | COMPARED), report)
    assert not refused.accepted
    assert "cannot be compared: 4 columns; remove gate.serving for this release" in refused.summary[0]
    assert "goes on serving" in refused.summary[1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": np.ones((6, 5), np.float32)}, "takes 4 columns"),
        ({"y": (0, 1, 0, 1, 0, 1)}, "3 classes"),
        ({"model": "nan"}, "finite"),
        ({"model": "zipmap"}, "ZipMap"),
    ],
)
def test_a_model_that_cannot_be_served_fails_as_the_users_own(registry, tmp_path, changes, told):
    with fails(Exit.FAILED) as raised:
        evaluated(tmp_path, **changes)
    assert told in str(raised.value)


# --- register, fetch -------------------------------------------------------------------------------------------------


def registered(directory, workflow="ct-x", **changes):
    """Register what lies in `directory` (made if it is not there); the lock."""
    for name in ("data", "features", "bundle", "analysis"):
        if not (directory / name).exists():
            (directory / name).mkdir(parents=True)
            (directory / name / f"{name}.txt").write_text(name)
    metrics = {"samples": 2, "metrics": {"accuracy": 0.9}, "slices": {}, "serving": None}
    words = {
        "service": "digits",
        "repo": "acme/digits",
        "branch": "main",
        "sha": SHA,
        "attempt": "1",
        "workflow": workflow,
        "owner": f"uid-{workflow}",
        "image": "image",
        "config": config(),
        "decision": decide(CONFIG.gate, metrics).model_dump_json(),
        "metrics": json.dumps(metrics),
    }
    inputs = {name: directory / name for name in ("data", "features", "bundle", "analysis")}
    return register(**(words | changes), **inputs)["lock"]


def versions(registry):
    return {axis: [str(v) for v in registry.versions(axis, name)] for axis in AXES for name in registry.names(axis)}


FIRST = {
    "data": ["data/numbers/v1"],
    "feature": ["feature/digits/v1"],
    "model": ["model/digits/v1"],
    "app": ["app/digits/v1"],
}


@pytest.fixture(autouse=True)
def _platform(monkeypatch):
    for name in ("PLATFORM_VERSION", "TEMPLATES_DIGEST", "PIPELINES_IMAGE"):
        monkeypatch.setenv(name, name.lower())


def test_a_lock_names_one_version_of_each_axis(registry, tmp_path):
    lock = registry.get_lock(registered(tmp_path))
    assert versions(registry) == FIRST
    assert {axis: version.number for axis, version in lock.versions.items()} == dict.fromkeys(AXES, 1)
    assert (lock.seed, lock.params, lock.metrics) == (7, {"hidden": 64}, {"accuracy": 0.9})
    assert lock.decision["accepted"] is True
    assert lock.platform["image"] == "pipelines_image"
    assert registry.tree_file(lock.versions["data"].digest, "data.txt") == b"data"
    record = registry.get_run(registry.runs()[0])
    assert (record["outcome"], record["model"]) == ("accepted", "digits/v1")
    assert set(record["files"]) == {"analysis.txt", "config.json", "decision.json", "metrics.json"}


def test_registering_twice_is_registering_once(registry, tmp_path):
    assert registered(tmp_path) == registered(tmp_path)
    assert versions(registry) == FIRST
    assert len(registry.runs()) == 1


def test_another_run_with_the_same_content_gets_a_lock_of_its_own_on_the_same_versions(registry, tmp_path):
    assert registered(tmp_path) != registered(tmp_path, "ct-y")
    assert versions(registry) == FIRST


def test_only_what_changed_gets_a_new_version(registry, tmp_path):
    registered(tmp_path)
    (tmp_path / "bundle/bundle.txt").write_text("another model")
    lock = registry.get_lock(registered(tmp_path, "ct-y"))
    assert {axis: version.number for axis, version in lock.versions.items()} == dict.fromkeys(AXES, 1) | {"model": 2}


@pytest.mark.parametrize("kind", ["after", "lost", "before"])
def test_a_store_that_stumbles_over_every_kind_of_write_changes_nothing(registry, tmp_path, storage_server, kind):
    for path in ("blobs", "versions", "claims", "runs"):
        storage_server.faults.order(kind, "POST", path)
    for skip in (0, 3, 8, 12):
        storage_server.faults.order(kind, "POST", skip=skip)
    lock = registered(tmp_path)
    assert versions(registry) == FIRST
    assert registered(tmp_path) == lock
    assert len(registry.runs()) == 1


@pytest.mark.parametrize(
    ("kind", "skip"), [("full", 0), ("full", 6), ("before", 9), ("full", 11), ("full", 13), ("before", 15)]
)
def test_a_store_that_stops_in_the_middle_is_finished_by_the_next_try(
    registry, tmp_path, storage_server, monkeypatch, kind, skip
):
    monkeypatch.setattr("pipelines.steps.register.open_registry", functools.partial(open_registry, deadline=0.1))
    fault = storage_server.faults.order(kind, "POST", times=10_000, skip=skip)
    with fails(Exit.UNAVAILABLE) as raised:
        registered(tmp_path)
    assert "object store" in str(raised.value)
    assert fault.hits
    assert registry.runs() == []
    storage_server.faults.clear()
    lock = registered(tmp_path)
    assert versions(registry) == FIRST
    assert registered(tmp_path) == lock
    assert len(registry.runs()) == 1


def test_bytes_that_arrive_damaged_are_a_conflict_and_change_nothing(registry, tmp_path, storage_server):
    lock = registered(tmp_path)
    storage_server.faults.order("corrupt", "GET", "blobs", times=100)
    with fails(Exit.CONFLICT):
        registered(tmp_path)
    storage_server.faults.clear()
    assert registered(tmp_path) == lock
    assert versions(registry) == FIRST


def test_a_number_that_json_does_not_have_never_gets_into_a_lock(registry, tmp_path):
    with fails(Exit.INVALID):
        registered(tmp_path, metrics='{"metrics": {"accuracy": NaN}}')
    assert registry.runs() == []


def test_a_bundle_is_fetched_as_it_was_registered(registry, tmp_path):
    lock = serve(registry, tmp_path)
    digest = registry.get_lock(lock).versions["model"].digest
    fetch(bundle=digest, into=str(tmp_path / "srv/bundle"))
    assert load_bundle(tmp_path / "srv/bundle", digest).labels == ["0", "1", "2"]


def test_a_bundle_that_is_not_there_or_damaged_is_not_fetched(registry, tmp_path, storage_server):
    with fails(Exit.NOT_FOUND):
        fetch(bundle=LOCK, into=str(tmp_path / "srv"))
    digest = registry.get_lock(registered(tmp_path)).versions["model"].digest
    storage_server.faults.order("corrupt", "GET", "blobs", times=100)
    with fails(Exit.CONFLICT):
        fetch(bundle=digest, into=str(tmp_path / "srv"))
    assert not list((tmp_path / "srv").glob("**/*.txt"))


def test_the_init_container_loads_no_more_than_it_needs(registry):
    code = "import pipelines.steps.fetch, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "onnxruntime", "pydantic", "hera", "google.cloud.storage"}
