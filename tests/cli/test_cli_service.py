"""`yard check` and `yard new`, and how `yard` itself behaves: addresses, exit codes, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipelines import config
from pipelines.cli import app as module

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "digits"


def test_a_valid_service_is_told_what_it_must_reach(yard):
    said = yard("check", str(EXAMPLE))
    assert said.code == 0
    assert said.out.splitlines()[0] == f"{EXAMPLE}/mlops.yaml is valid"
    assert "accuracy ≥ 0.95" in said.out


def test_a_mistake_is_told_with_the_path_that_was_given(yard, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mlops.yaml").write_text("apiVersion: trainyard/v1\nservize: digits\n")
    said = yard("check")
    assert said.code == 3
    assert said.err.startswith("mlops.yaml:2: servize: unknown key\n  → did you mean 'service'?")


def test_a_dockerfile_that_is_not_there_is_a_mistake(yard, tmp_path):
    (tmp_path / "mlops.yaml").write_text((EXAMPLE / "mlops.yaml").read_text())
    said = yard("check", str(tmp_path))
    assert said.code == 3
    assert said.err.startswith(f"{tmp_path}/mlops.yaml: dockerfile: there is no file 'Dockerfile'\n")


def test_a_missing_file_says_how_to_get_one(yard, tmp_path):
    said = yard("check", str(tmp_path))
    assert said.code == 4
    assert "yard new PATH" in said.err


def test_the_schema_is_printed_for_editors(yard):
    assert json.loads(yard("check", "--schema").out)["properties"]["gate"]


def test_a_new_service_is_valid_under_its_own_name_and_imports(yard, nowhere):
    said = yard("new", "my-model")
    assert said.code == 0
    found = config.load(nowhere / "my-model" / "mlops.yaml")
    assert (found.service, found.data.name) == ("my-model", "my-model")
    assert found.train.command == "python -m my_model.train"
    assert yard("check", "my-model").code == 0
    # nothing that is run or imported still has the example's name; scikit-learn's load_digits is not ours to rename
    program = "import ast, pathlib, sys; [ast.parse(p.read_text()) for p in pathlib.Path('.').rglob('*.py')]"
    subprocess.run([sys.executable, "-c", program], cwd=nowhere / "my-model", check=True)
    text = "\n".join(path.read_text() for path in (nowhere / "my-model").rglob("*.py"))
    assert "load_digits" in text
    assert "from digits" not in text
    assert "import digits" not in text
    subprocess.run([sys.executable, "-c", "import my_model.paths"], cwd=nowhere / "my-model", check=True)
    assert sorted(path.name for path in nowhere.iterdir()) == ["my-model"]


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()


def test_a_new_service_is_a_repository_that_can_be_pushed_at_once(yard, nowhere):
    said = yard("new", "below/cats")
    assert said.out.splitlines()[0].startswith("below/cats is a service that works at once")
    assert "\n  - {repo: acme/cats, name: cats}\n" in said.out
    assert said.out.splitlines()[-3:] == [
        f"  make -C {ROOT} render",
        "  yard solo down && yard solo up",
        "  git -C below/cats push solo main",
    ]
    folder = nowhere / "below" / "cats"
    assert git(folder, "status", "--porcelain", "--branch") == "## main"
    assert git(folder, "log", "--format=%s") == "A new service"
    assert git(folder, "remote", "get-url", "solo") == f"file://{nowhere}/home/git/acme/cats.git"
    (folder / "cats" / "__pycache__").mkdir()
    (folder / "cats" / "__pycache__" / "train.pyc").touch()
    assert git(folder, "status", "--porcelain") == ""


def test_who_told_git_no_name_still_gets_a_first_commit(yard, nowhere, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(nowhere / "hook.git"))  # as in a hook
    monkeypatch.setenv("HOME", str(nowhere))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(nowhere))
    (nowhere / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n[commit]\ngpgSign = true\n")
    assert yard("new", "cats").code == 0
    monkeypatch.delenv("GIT_DIR")
    assert git(nowhere / "cats", "log", "--format=%an <%ae>") == "trainyard <trainyard@localhost>"


def test_a_new_service_that_is_registered_already_is_only_pushed(yard, nowhere, monkeypatch):
    text = "apiVersion: trainyard/v1\ndomain: a.example\nrepository: me/platform\n"
    text += "services: [{repo: me/cats-repo, name: cats, branch: dev}]\nreleases: me/out\n"
    (nowhere / "platform").mkdir()
    (nowhere / "platform" / "platform.yaml").write_text(text)
    monkeypatch.chdir(nowhere / "platform")
    said = yard("new", "../cats")
    assert said.out.splitlines()[1:] == ["To deploy it on this machine:", "", "  git -C ../cats push solo dev"]
    assert git(nowhere / "cats", "remote", "get-url", "solo").endswith("/git/me/cats-repo.git")
    assert "- {repo: me/dogs, name: dogs}\n" in yard("new", "../dogs").out


def test_a_new_service_is_not_put_into_the_platforms_own_repository(yard, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = yard("new", "cats")
    assert (said.code, said.err.splitlines()[-1]) == (3, "  → yard new ../cats")
    assert not (ROOT / "cats").exists()


def test_a_new_service_that_cannot_be_written_is_said_so(yard, nowhere):
    (nowhere / "file").touch()
    said = yard("new", "file/cats")
    assert (said.code, said.err) == (3, f"{nowhere}/file/cats: cannot be written: Not a directory\n")
    assert [path.name for path in nowhere.iterdir()] == ["file"]


def test_a_new_service_overwrites_nothing(yard, nowhere):
    (nowhere / "mine").mkdir()
    (nowhere / "mine" / "thesis.txt").write_text("unsaved")
    said = yard("new", "mine")
    assert said.code == 5
    assert [path.name for path in (nowhere / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My Model", "  → yard new my-model"),
        ("../Evil One", "  → yard new ../evil-one"),
        ("json", "  → yard new my-json"),
        ("tests", "  → yard new my-tests"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(yard, nowhere, name, message):
    said = yard("new", name)
    assert said.code == 3
    assert said.err.splitlines()[-1] == message
    assert list(nowhere.iterdir()) == []


# --- yard itself -----------------------------------------------------------------------------------------------------


def test_without_a_platform_every_command_that_needs_one_names_the_next_step(yard, nowhere):
    for command in (["runs"], ["logs", "x"], ["models"], ["trace", "HEAD"], ["rerun", "HEAD"], ["watch", "HEAD"]):
        said = yard(*command)
        assert said.code == 6
        assert "no platform is running here\n  → yard solo up" in said.err


@pytest.mark.parametrize("inside", ["", ".solo/git/acme/digits.git", "somewhere/below"])
def test_solo_is_found_from_here_upward_and_from_inside_its_state(yard, argo, tmp_path, monkeypatch, inside):
    home = tmp_path / ".solo"
    home.mkdir()
    endpoints = {"ARGO_URL": argo.url}
    (home / "solo.json").write_text(json.dumps({"pid": 1, "endpoints": endpoints, "registry_credentials": "x"}))
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    monkeypatch.delenv("ARGO_SERVER")
    monkeypatch.delenv("TRAINYARD_HOME", raising=False)
    assert yard("runs").out.startswith("nothing has run yet\n")
    (home / "solo.json").write_text("{")
    assert yard("runs").code == 6


def test_an_address_without_a_scheme_is_https_as_argos_own_command_has_it(yard):
    said = yard("runs", "--server", "127.0.0.1:9")
    assert said.code == 6
    assert said.err.startswith("https://127.0.0.1:9: does not answer")


@pytest.mark.parametrize("words", [["bogus"], ["logs"], ["runs", "-n", "0"], ["watch"]])
def test_a_wrong_command_line_is_usage_not_a_traceback(yard, words):
    assert yard(*words).code == 2


def test_commands_of_other_packages_are_mounted_and_only_loaded_when_asked_for(yard, monkeypatch):
    loaded = []
    import typer

    group = typer.Typer()

    @group.command()
    def hello() -> None:
        print("hello from outside")

    @group.command()
    def other() -> None: ...

    class Point(NamedPoint):
        def load(self):
            loaded.append(self.name)
            return group

    monkeypatch.setattr(module, "entry_points", lambda group: [Point("outside", "x:y")])
    monkeypatch.setattr(module.app, "registered_groups", [])
    yard("check", str(EXAMPLE))
    assert loaded == []
    assert yard("outside", "hello").out == "hello from outside\n"
    assert loaded == ["outside"]


class NamedPoint:
    def __init__(self, name, value):
        self.name, self.value = name, value


def test_a_command_whose_package_is_not_complete_says_what_to_install(yard, monkeypatch):
    point = EntryPoint("outside", "no_such_module_here:app", module.GROUP)
    monkeypatch.setattr(module, "entry_points", lambda group: [point])
    said = yard("outside", "up")
    assert said.code == 4
    assert "pip install 'trainyard[outside]'" in said.err
    assert yard("--help").code == 0


PROGRAM = [sys.executable, "-c", "from pipelines.cli import main; main()"]


def test_a_reader_that_goes_away_is_no_error():
    command = " ".join([sys.executable, "-c", "'from pipelines.cli import main; main()'", "check --schema"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_ctrl_c_ends_quietly(argo):
    environment = {**os.environ, "ARGO_SERVER": argo.url, "PYTHONUNBUFFERED": "1"}
    argo.put()
    process = subprocess.Popen(
        [*PROGRAM, "watch", "0" * 39 + "1"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not argo.watchers:
        assert process.poll() is None
    process.send_signal(2)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_terminal_that_cannot_show_every_character_still_gets_its_answer():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "check", str(EXAMPLE)], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert b"accuracy ? 0.95" in done.stdout
