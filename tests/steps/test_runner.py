"""How a step is called, and what it leaves behind when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import pytest

from pipelines.errors import Exit, YardError
from pipelines.steps import MODULES
from pipelines.steps._step import STEPS, InputPath, OutputPath, StepFailedError, run, signature, step


class Out(TypedDict):
    answer: str


@pytest.fixture
def registered():
    before = dict(STEPS)
    yield
    STEPS.clear()
    STEPS.update(before)


def test_a_signature_declares_parameters_artifacts_and_results():
    def example(*, sha: str, source: InputPath, report: OutputPath) -> Out:
        raise NotImplementedError

    assert signature(example) == (["sha"], ["source"], ["report"], ["answer"])


def test_results_are_written_where_the_template_looks(tmp_path, registered):
    @step
    def double(*, text: str) -> Out:
        return {"answer": text * 2}

    assert run(["double", "--text=ab=c\nd", f"--outputs={tmp_path}/deep/out"]) == Exit.OK
    assert (tmp_path / "deep/out/answer").read_text() == "ab=c\ndab=c\nd"


def test_a_refusing_step_still_hands_over_its_decision(tmp_path, registered, capsys):
    @step
    def refuse() -> Out:
        raise StepFailedError("no", results={"answer": "evidence"}, code=Exit.REFUSED)

    assert run(["refuse", f"--outputs={tmp_path}"]) == Exit.REFUSED
    assert (tmp_path / "answer").read_text() == "evidence"
    assert capsys.readouterr().err == "no\n"


def test_a_users_mistake_has_no_traceback_and_a_bug_has_one(registered, capsys):
    @step
    def mistaken() -> None:
        raise YardError("wrong", where="mlops.yaml:3", todo="write it right", code=Exit.INVALID)

    @step
    def broken() -> None:
        raise KeyError("x")

    assert run(["mistaken"]) == Exit.INVALID
    assert capsys.readouterr().err == "mlops.yaml:3: wrong\n  → write it right\n"
    assert run(["broken"]) == Exit.BUG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["nope"], [], ["one"], ["one", "--a=1", "--b=2"], ["one", "--a=1", "--a=1"], ["one", "a"]]
)
def test_a_wrong_call_is_a_usage_error(words, registered):
    @step
    def one(*, a: str) -> None: ...

    assert run(words) == Exit.USAGE


def test_every_step_lives_where_the_index_says():
    import importlib

    for name, module in MODULES.items():
        importlib.import_module(f"pipelines.steps.{module}")
        assert name in STEPS, name
    assert {name for name in STEPS if STEPS[name].__module__.startswith("pipelines.")} == set(MODULES)


def test_a_type_that_argo_cannot_carry_is_refused():
    def wrong(*, number: int) -> None: ...

    with pytest.raises(TypeError, match="number"):
        signature(wrong)


def test_an_artifact_arrives_as_a_path(tmp_path, registered):
    @step
    def copy(*, source: InputPath, target: OutputPath) -> None:
        assert isinstance(source, Path)
        target.write_text(source.read_text())

    (tmp_path / "a").write_text("x")
    assert run(["copy", f"--source={tmp_path}/a", f"--target={tmp_path}/b"]) == Exit.OK
    assert (tmp_path / "b").read_text() == "x"
