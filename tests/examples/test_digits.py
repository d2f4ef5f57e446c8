"""examples/digits is a repository as a user would push it: it tests itself, trains, and is good enough for release."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines.config import Config
from pipelines.evaluate import Scores, load_split, scores
from pipelines.serving.bundle import load_bundle, make_bundle

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
CLASSES = [str(digit) for digit in range(10)]
CONTRACT = yaml.safe_load((DIGITS / "mlops.yaml").read_text())


class Service(NamedTuple):
    """A read-only copy of the repository, as in its image, and directories such as the platform gives it."""

    python: Path
    directory: Path

    def run(self, command: str, **given: Path) -> subprocess.CompletedProcess[str]:
        """One of the contract's commands. The environment has what the platform gives, and nothing else."""
        env = {
            "PATH": str(self.python.parent),
            "TMPDIR": str(self.directory),
            "PYTHONPYCACHEPREFIX": str(self.python.parent / "cache"),
            **{name: str(path) for name, path in given.items()},
        }
        words = command.split()
        assert words[0] == "python"
        source = self.directory / "app"
        return subprocess.run(
            [self.python, *words[1:]], cwd=source, env=env, capture_output=True, text=True, check=False
        )

    def step(self, step: str, name: str = "", **params: Any) -> None:
        """Run a step with its parameters. Its model goes to the directory `name`."""
        settings = self.directory / f"params{name}.json"
        settings.write_text(json.dumps({"seed": CONTRACT["seed"], "params": CONTRACT["params"] | params}))
        directories = {"DATA_DIR": "data", "FEATURES_DIR": "features", "MODEL_DIR": name or "model"}
        given = {key: self.directory / value for key, value in directories.items()}
        for path in given.values():
            path.mkdir(exist_ok=True)
        ran = self.run(CONTRACT[step]["command"], PARAMS_FILE=settings, **given)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def scored(self, name: str) -> Scores:
        x, y, slices = load_split(self.directory / "features" / "test.npz")
        bundle = self.directory / f"bundle-{name}"
        make_bundle(bundle, self.directory / name / "model.onnx", x[:4], CLASSES, name="digits")
        model = load_bundle(bundle)
        return scores(y, *model.predict(x), model.labels, {"label": y, **slices})


def service(python: Path, directory: Path) -> Service:
    source = shutil.copytree(DIGITS, directory / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [source, *source.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return Service(python, directory)


@pytest.fixture(scope="module")
def digits(digits_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """The service with its data and features."""
    found = service(digits_python, tmp_path_factory.mktemp("digits"))
    found.step("data")
    found.step("process")
    return found


def passes(found: Scores) -> bool:
    gate = CONTRACT["gate"]
    floor = gate["slices"]["accuracy"]
    return (
        found["samples"] >= gate["samples"]
        and all(found["metrics"][name] >= bound["min"] for name, bound in gate["metrics"].items())
        and all(
            part["accuracy"] >= floor["min"] and part["samples"] >= floor["samples"]
            for part in found["slices"][floor["by"]].values()
        )
    )


def test_its_model_is_released_the_same_again_and_worse_ones_are_not(digits: Service) -> None:
    """One test, since each training costs a second. The last two are changes that a demonstration may push."""
    digits.step("train")
    found = digits.scored("model")
    assert found["metrics"]["accuracy"] > 0.97
    assert passes(found)

    digits.step("train", "again")
    assert (digits.directory / "again" / "model.onnx").read_bytes() == (
        digits.directory / "model" / "model.onnx"
    ).read_bytes()

    for name, worse in {"narrow": {"hidden": 1}, "short": {"max_iter": 2}}.items():
        digits.step("train", name, **worse)
        found = digits.scored(name)
        assert found["metrics"]["accuracy"] < 0.5
        assert not passes(found)


def test_its_features_are_the_same_again_and_no_row_is_in_both_parts(digits: Service) -> None:
    header, *rows = (digits.directory / "data" / "digits.csv").read_text().splitlines()
    expect = CONTRACT["data"]["expect"]
    assert len(rows) >= expect["rows"]
    assert header.split(",")[-1] == expect["label"]
    assert {row.split(",")[-1] for row in rows} == set(expect["classes"])

    parts = [digits.directory / "features" / f"{part}.npz" for part in ("train", "test")]
    train, test = ({row.tobytes() for row in load_split(part)[0]} for part in parts)
    assert not train & test

    before = [part.read_bytes() for part in parts]
    digits.step("process")
    assert [part.read_bytes() for part in parts] == before


def test_its_own_tests_pass_in_a_read_only_tree(digits_python: Path, tmp_path: Path) -> None:
    copy = service(digits_python, tmp_path)
    before = sorted((copy.directory / "app").rglob("*"))
    ran = copy.run(CONTRACT["test"]["command"])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted((copy.directory / "app").rglob("*")) == before  # for root, every tree is writable


def test_its_contract_is_valid_and_fits_on_one_screen() -> None:
    assert Config.model_validate(CONTRACT).service == "digits"
    assert len((DIGITS / "mlops.yaml").read_text().splitlines()) <= 40


def test_every_requirement_is_pinned_and_hashed_and_no_address_is_in_it() -> None:
    text = (DIGITS / "requirements.txt").read_text()
    pins = re.findall(r"^([a-z0-9-]+)==[^\\\n]+\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S", text, re.MULTILINE))
    assert "://" not in text
    wanted = re.findall(r"^([a-z0-9-]+)", (DIGITS / "requirements.in").read_text(), re.MULTILINE)
    assert set(wanted) <= {name for name, _ in pins}


def test_its_image_can_be_built_on_another_base() -> None:
    lines = [line for line in (DIGITS / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("ARG BASE_IMAGE=python:3.")
    assert lines[1] == "FROM ${BASE_IMAGE}"
    assert {line.split()[0] for line in lines} <= {"ARG", "FROM", "WORKDIR", "ENV", "COPY", "RUN", "USER"}
