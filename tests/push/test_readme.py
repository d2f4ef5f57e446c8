"""README.md, followed by somebody who types what it says: every command works, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(sh|yaml)\n(.*?)^```$", README)
# what the prose offers; each is run below, or is what runs this test
PROSE = {
    "TRAINYARD_ANY_PORT=1 make demo",
    "yard logs RUN",
    "yard trace SHA",
    "yard rerun SHA",
    "yard event simulate FILE",
    "yard verify-image IMAGE",
    "yard parity",
    "yard secrets list",
    "yard env diff dev prod",
    "yard solo down",
    "git push",
    "make test",
    "make lint",
    "make bench",
    "make e2e",
    "make help",
}
WIDTH = 100
PATIENCE = 300.0  # seconds for one block
GENERATED = ("platform.yaml", "mlops/", "argo-events/", "argocd/", "applications/")


class Reader:
    """A copy of the working tree, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.begin = folder, ""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        # this environment under the copy's name: what `make` would install is there, and newer than what it is made of
        (folder / ".venv").mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != ".ready":
                (folder / ".venv" / path.name).symlink_to(path)
        (folder / ".venv" / ".ready").touch()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "TRAINYARD_", "ARGO_"))}
        self.environment = {
            **kept,
            "TRAINYARD_ANY_PORT": "1",
            "PYTHONPATH": str(folder),  # the copy's code, not that of the tree the environment was made for
            "PATH": os.pathsep.join(
                p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != Path(sys.prefix, "bin")
            ),
            "GIT_AUTHOR_NAME": "ann",
            "GIT_AUTHOR_EMAIL": "ann@example.com",
            "GIT_COMMITTER_NAME": "ann",
            "GIT_COMMITTER_EMAIL": "ann@example.com",
        }
        self.type("git init --quiet . && git add --all && git commit --quiet --message Copy")

    def type(self, text: str, code: int = 0) -> str:
        """What the terminal shows; `. .venv/bin/activate` lasts, as in a shell that stays open."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.begin + text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, f"{text}\n{done.stdout}"
        assert "Traceback" not in done.stdout, done.stdout
        activation = ". .venv/bin/activate\n"
        if activation in text:
            self.begin = activation
        return done.stdout

    def changed(self) -> list[str]:
        return [line[3:] for line in self.type("git status --porcelain --untracked-files=all").splitlines()]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path / "trainyard")
    yield found
    subprocess.run(
        ["bash", "-c", ".venv/bin/yard solo down"],
        cwd=found.folder,
        env=found.environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_what_the_readme_says_works_from_top_to_bottom(reader):
    (sh1, demo), (sh2, create), (is_yaml, line), (sh3, deploy), (sh4, look) = BLOCKS
    assert (sh1, sh2, is_yaml, sh3, sh4) == ("sh", "sh", "yaml", "sh", "sh")

    # try it
    said = reader.type(demo)
    shown = said.replace(str(reader.folder), "/home/ann/trainyard").splitlines()
    assert max(map(len, (text.rstrip() for text in shown))) <= WIDTH
    assert re.search(r"model v1 says \d; the label is \d", said)
    assert re.search(r"(?m)^remote: refused: accuracy .*\nremote: the model that serves now .* goes on serving", said)
    assert reader.changed() == [], "the demo leaves something in the checkout"
    again = re.search(r"(?m)^\$ (curl .*\\\n.*)$", said)
    assert again is not None
    if shutil.which("curl"):
        answer = json.loads(reader.type(again[1].replace("curl", "curl --silent")))
        assert answer["model_version"] == "1"

    # your own service
    said = reader.type(create)
    assert line in said, "the line for platform.yaml is the one that `yard new` prints"
    file = reader.folder / "platform.yaml"
    file.write_text(file.read_text().replace("services:\n", f"services:\n{line}"))
    *_, push = deploy.splitlines()
    assert f"  {push}\n" in said
    assert "cats/v1 serves at http" in reader.type(deploy)
    assert [name for name in reader.changed() if not name.startswith(GENERATED)] == []

    # look
    said = reader.type(look)
    run = re.search(r"^ct-acme-cats-[0-9a-f]{12}-1 +Succeeded", said, re.MULTILINE)
    assert run is not None, said
    assert re.search(r"^cats/v1 +serving", said, re.MULTILINE)
    assert re.search(r"^digits/v1 +serving", said, re.MULTILINE)
    assert re.search(r"cats-dev +Synced Healthy at", said)
    assert "train" in reader.type(f"yard logs {run[0].split()[0]}")
    sha = reader.type("git -C ../cats rev-parse HEAD").strip()
    assert re.search(
        r"✓ serving +http.*\n.*cats-dev is Synced and Healthy, this release", reader.type(f"yard trace {sha}")
    )
    solo = re.search(r"ARGO_URL +(\S+)", said)[1]
    _answers(solo)
    # no cluster is here: solo is compared with itself
    assert "equal" in reader.type(f"yard parity tests/e2e/parity/patch.yaml --server {solo}")
    built = re.search(r"Pushed (\S+@sha256:\w+)", reader.type(f"yard logs ci-acme-cats-{sha[:12]} --step build"))
    assert built is not None
    said = reader.type(f"yard verify-image {built[1]}")
    assert f"{built[1]}: signed\n" in said
    assert re.search(r"(?m)^  software [1-9]\d* components$", said)
    payload = {"ref": "refs/heads/main", "before": "0" * 40, "after": sha, "deleted": False, "commits": []}
    payload["repository"] = {"name": "cats", "full_name": "acme/cats", "owner": {"login": "acme"}}
    saved = reader.folder.parent / "push.json"
    saved.write_text(json.dumps(payload))
    said = reader.type(f"yard event simulate {saved}")
    assert "trigger ci-cats (on push-cats): would start a Workflow" in said
    assert f"name: ci-acme-cats-{sha[:12]}" in said
    said = reader.type(f"yard rerun {sha[:8]}")
    assert f"ci-acme-cats-{sha[:12]}-2: attempt 2 of acme/cats" in said
    assert f"ci-acme-cats-{sha[:12]}-2 " in reader.type("yard runs -n 1")

    assert "yard secrets set registry credentials" in reader.type("yard secrets list")
    said = reader.type("yard env diff dev prod", 9)
    assert "cats" in said

    # what somebody mistypes
    assert "no run 'ci-x'" in reader.type("yard logs ci-x", 4)
    assert "no step 'trian'" in reader.type(f"yard logs {run[0].split()[0]} --step trian", 4)
    unknown = "0123456789" * 4
    assert f"nothing is known of {unknown[:12]}" in reader.type(f"yard trace {unknown}", 4)
    assert f"no commit {unknown[:12]}" in reader.type(f"yard rerun {unknown} --service cats", 4)
    assert "No such file" in reader.type("yard event simulate nowhere.json", 4)
    assert "not JSON" in reader.type("yard event simulate README.md", 3)
    assert "is there already" in reader.type("yard new ../cats", 5)
    assert "lies in the platform's own repository" in reader.type("yard new dogs", 3)

    assert reader.type("yard solo down") == "solo is down\n"
    assert reader.type("yard solo down") == "solo is not running\n"
    _nothing_runs(reader.folder)


def _answers(solo: str) -> None:
    with urllib.request.urlopen(f"{solo}/services/cats-dev/cats/v2/models/cats", timeout=10) as found:
        assert json.loads(found.read())["name"] == "cats"


def _nothing_runs(folder: Path) -> None:
    """Processes end a moment after the one that stopped them says so."""
    deadline = time.monotonic() + 5
    while left := [process for process in psutil.process_iter(["cmdline"]) if _names(process, str(folder))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _names(process: psutil.Process, folder: str) -> bool:
    return any(folder in word for word in process.info["cmdline"] or [])


def test_every_command_of_the_prose_is_one_that_is_run():
    prose = re.sub(r"(?ms)^```.*?^```$", "", README)
    commands = [text for text in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(\w+=\w+ )?(make|yard|git) ", text)]
    assert set(commands) == PROSE


def test_the_targets_and_files_that_are_named_exist():
    for target in re.findall(r"`(?:\w+=\w+ )?make (\w+)`", README):
        assert re.search(rf"(?m)^{target}:.* ## ", (ROOT / "Makefile").read_text()), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_it_stays_one_page():
    assert len(README.splitlines()) <= 90
