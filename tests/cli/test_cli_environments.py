"""`yard env diff`: what two environments ask for and what they have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pipelines.config import Config, load
from pipelines.manifests import release_files
from pipelines.registry import AXES, Lock

CONTRACT = """\
apiVersion: trainyard/v1
service: SERVICE
data: {name: numbers, command: ingest}
process: {command: process}
train: {command: train}
test: {command: test}
gate: {samples: 1, metrics: {accuracy: {min: 0.5}}}
deploy:
"""
DEV = "  dev: {replicas: 2, env: {THREADS: '1'}}\n"
PROD = "  prod: {scale: {min: 2, max: 6}, env: {THREADS: '4'}, secrets: [TOKEN], resources: {cpu: 500m}}\n"
IMAGES = {"pipelines": "pipelines:1", "serving": "serving:1"}
PLATFORM = """\
apiVersion: trainyard/v1
domain: example.com
repository: acme/platform
services:
  - {repo: acme/digits, name: digits, environments: [dev, prod]}
  - {repo: acme/iris, name: iris}
releases: acme/releases
"""


class Host:
    """Git repositories under GIT_URL; each push is a commit with these files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *words):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgSign=false", *words]
        subprocess.run(command, check=True, capture_output=True)

    def create(self, name):
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.folder / f"git/acme/{name}.git"))

    def push(self, name, files):
        work = self.folder / f"work/{name}"
        if not work.exists():
            self.git("init", "--quiet", "--initial-branch=main", str(work))
        for path, text in files.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text)
        self.git("-C", str(work), "add", "--all")
        self.git("-C", str(work), "commit", "--quiet", "-m", "x")
        self.git("-C", str(work), "push", "--quiet", str(self.folder / f"git/acme/{name}.git"), "main")

    def contract(self, service, *environments):
        self.push(service, {"mlops.yaml": CONTRACT.replace("SERVICE", service) + "".join(environments)})

    def release(self, service, environment, number=1, **files):
        """As the release step writes it, from the service's contract."""
        text = (self.folder / f"work/{service}/mlops.yaml").read_text()
        lock, digest = lock_of(service, number), f"sha256:{number:064x}"
        versions = {axis: f"{v.name}/v{v.number}" for axis, v in lock.versions.items()}
        record = {"lock": digest, "sha": lock.sha, "image": lock.image, "versions": json.dumps(versions)}
        config: Config = load(text)
        made = release_files(lock, digest, config, environment, images=IMAGES, record=record)
        folder = f"services/{service}/{environment}"
        self.push("releases", {f"{folder}/{name}": text for name, text in {**made, **files}.items()})


def lock_of(service, number):
    digest = f"sha256:{number:064x}"
    facts = {key: {} for key in ("params", "metrics", "thresholds", "decision", "workflows")}
    return Lock(
        **{"service": service, "repo": f"acme/{service}", "branch": "main", "sha": f"{number}" * 40, "attempt": 1},
        image=f"r/acme/{service}@{digest}",
        versions={axis: {"name": service, "number": number, "digest": digest} for axis in AXES},
        platform={"version": "1", "templates": digest, "image": "p", "architecture": "x"},
        seed=0,
        params_digest=digest,
        **facts,
    )


@pytest.fixture
def host(nowhere, monkeypatch):
    """A checkout, and a Git host on which the services' repositories and releases are there and empty."""
    (nowhere / "platform.yaml").write_text(PLATFORM)
    monkeypatch.setenv("GIT_URL", f"file://{nowhere}/git")
    found = Host(nowhere)
    for name in ("digits", "iris", "releases"):
        found.create(name)
    return found


def cells(said):
    head, *lines = [line.split("  ") for line in said.out.splitlines() if "  " in line]
    return [cell.strip() for cell in head if cell], [tuple(cell.strip() for cell in line if cell) for line in lines]


def test_knobs_that_differ_are_shown_and_those_that_do_not_are_not(yard, host):
    host.contract("digits", DEV, PROD)
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    head, rows = cells(said)
    assert head == ["SERVICE", "OF", "WHAT", "DEV", "PROD"]
    assert rows == [
        ("digits", "mlops.yaml", "replicas", "2", "2 to 6, at 70 % CPU"),
        ("digits", "mlops.yaml", "resources.cpu", "50m", "500m"),
        ("digits", "mlops.yaml", "env.THREADS", "1", "4"),
        ("digits", "mlops.yaml", "secrets.TOKEN", "-", "named"),
    ]
    assert said.out.splitlines()[-2:] == ["digits: nothing is released to dev", "digits: nothing is released to prod"]
    assert said.code == 9


def test_what_is_released_is_compared_with_what_is_released(yard, host):
    host.contract("digits", DEV, PROD)
    host.release("digits", "dev", 2)
    host.release("digits", "prod", 1)
    host.contract("digits", DEV, DEV.replace("dev", "prod"))  # asked for now, and not released yet
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    _, rows = cells(said)
    assert {row[1] for row in rows} == {"release"}
    assert {row[2]: row[3:] for row in rows} == {
        "commit": ("2" * 12, "1" * 12),
        **dict.fromkeys(AXES, ("digits/v2", "digits/v1")),
        "image": tuple(f"r/acme/digits@sha256:{number:064x}" for number in (2, 1)),
        "lock": tuple(f"sha256:{number:064x}" for number in (2, 1)),
        "replicas": ("2", "2 to 6, at 70 % CPU"),
        "resources.cpu": ("50m", "500m"),
        "env.THREADS": ("1", "4"),
        "secrets.TOKEN": ("-", "named"),
    }


def test_the_same_release_with_the_same_knobs_is_no_difference(yard, host):
    host.contract("digits", DEV, DEV.replace("dev", "prod"))
    host.release("digits", "dev")
    host.release("digits", "prod")
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    assert (said.code, said.out, said.err) == (0, "dev and prod are the same\n", "")


def test_an_environment_to_which_nothing_is_released_is_said_so(yard, host):
    host.contract("digits", DEV, DEV.replace("dev", "prod"))
    host.release("digits", "dev", 3)
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    assert cells(said)[1] == [("digits", "release", "model", "digits/v3", "-")]
    assert said.out.splitlines()[-1] == "digits: nothing is released to prod"
    assert said.code == 9


def test_an_environment_that_only_one_file_knows_is_a_difference(yard, host):
    host.contract("digits", DEV)
    host.contract("iris", DEV, PROD)
    said = yard("env", "diff", "dev", "prod")
    _, rows = cells(said)
    assert ("digits", "mlops.yaml", "deploy", "given", "-") in rows
    assert ("iris", "platform.yaml", "environments", "listed", "-") in rows
    assert all(row[0] == "iris" for row in rows if row[2] == "replicas")


def test_a_service_that_was_never_pushed_is_said_so(yard, host):
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    assert said.out.splitlines() == [
        "digits: there is no mlops.yaml on main of acme/digits",
        "digits: nothing is released to dev",
        "digits: nothing is released to prod",
        "dev and prod are the same in all that both have",
    ]
    assert said.code == 0


def test_values_of_secrets_are_nowhere(yard, host):
    host.contract("digits", DEV, PROD)
    host.release("digits", "prod")
    assert "digits-secrets" in (host.folder / "work/releases/services/digits/prod/deployment.yaml").read_text()
    assert "secrets.TOKEN" in yard("env", "diff", "prod", "dev", "--service", "digits").out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("dev", "prd"), 4, "no environment 'prd'\n  → did you mean 'prod'?\n"),
        (("dev", "dev"), 2, "dev twice\n  → name two environments\n"),
        (("dev", "prod", "--service", "digts"), 4, "platform.yaml: no service 'digts'\n  → did you mean 'digits'?\n"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(yard, host, words, code, told):
    said = yard("env", "diff", *words)
    assert (said.code, said.out, said.err) == (code, "", told)


@pytest.mark.parametrize("text", ["spec: {}", "x: [", "[]"])
def test_a_release_that_a_person_broke_is_named(yard, host, text):
    host.contract("digits", DEV)
    host.release("digits", "dev", **{"deployment.yaml": text})
    said = yard("env", "diff", "dev", "prod")
    assert said.code == 3
    assert said.err.startswith("services/digits/dev: not what a release writes")


def test_an_mlops_yaml_with_a_mistake_is_named_with_its_place(yard, host):
    host.push("digits", {"mlops.yaml": "a: 1\n"})
    said = yard("env", "diff", "dev", "prod", "--service", "digits")
    assert (said.code, said.err.splitlines()[0]) == (3, "acme/digits: mlops.yaml:1: a: unknown key")


def test_a_git_host_that_is_away_is_said_so(yard, host, monkeypatch):
    monkeypatch.setenv("GIT_URL", f"file://{host.folder}/gone")
    said = yard("env", "diff", "dev", "prod")
    assert said.code == 6
    assert "/gone/acme/releases.git: git: " in said.err


def test_outside_a_checkout_it_says_what_to_do(yard, nowhere, monkeypatch):
    monkeypatch.setenv("TRAINYARD_PLATFORM", str(nowhere / "platform.yaml"))
    said = yard("env", "diff", "dev", "prod")
    assert (said.code, said.err.splitlines()[0]) == (4, "platform.yaml: there is no such file")
