"""What looks like a secret is found wherever it is in a repository's history, and is not repeated.

The secrets are made by the tests: this file is in the history that `make lint` looks through.
"""

from __future__ import annotations

import random
import string
import subprocess
import tomllib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipelines.errors import YardError
from pipelines.templates import history


def token():
    """Of the form that GitHub gives out."""
    return "ghp_" + "".join(random.choices(string.ascii_letters + string.digits, k=36))


def private_key():
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def age_key():
    return "AGE-SECRET-KEY-1" + "".join(random.choices("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", k=58))


class Repo:
    def __init__(self, path):
        self.path = path
        path.mkdir(exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("README", "nothing secret\n")

    def git(self, *words, check=True):
        name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        done = subprocess.run(["git", "-C", self.path, *name, *words], capture_output=True, text=True, check=check)
        return done.stdout.strip()

    def write(self, file, text):
        (self.path / file).write_text(text)
        self.git("add", file)

    def commit(self, file, text):
        self.write(file, text)
        self.git("commit", "--quiet", "-m", file)


@pytest.fixture
def repo(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return Repo(tmp_path / "repo")


def test_nothing_is_found_where_nothing_is(repo, capsys):
    assert history.main(repo.path) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "rule"), [(private_key, "private-key"), (token, "github-pat"), (age_key, "age-secret-key")]
)
def test_a_secret_that_was_committed_once_is_refused_for_ever(repo, capsys, make, rule):
    secret = make()
    repo.commit("settings.py", f"# settings\nKEY = '''{secret}'''\n")
    commit = repo.git("rev-parse", "HEAD")
    repo.commit("settings.py", "# settings\n")
    assert history.main(repo.path) == 1
    said = capsys.readouterr().err
    assert f"settings.py:2: looks like a secret ({rule}), in commit {commit[:12]}" in said
    assert "take it out of use" in said
    assert all(line not in said for line in secret.splitlines())


def test_what_is_about_to_be_committed_is_looked_at_too(repo):
    (repo.path / "README").write_text(f"{token()}\n")
    (found,) = history.scan(repo.path)
    assert (found.file, found.commit) == ("README", "")
    assert "not committed yet" in str(found)
    repo.git("add", "README")
    assert len(list(history.scan(repo.path))) == 1


def test_no_remark_excuses_a_secret(repo):
    repo.commit("settings.py", f"KEY = '{token()}'  # gitleaks:{'allow'}\n")
    assert [found.file for found in history.scan(repo.path)] == ["settings.py"]


def test_each_exception_has_a_reason_and_is_narrow():
    config = tomllib.loads((history.ROOT / history.CONFIG).read_text())
    assert config["extend"] == {"useDefault": True}
    for entry in config.get("allowlists", []):
        assert entry["description"]
        assert entry["condition"] == "AND"
        assert entry["paths"]
        assert entry["regexes"]


def test_what_only_a_merge_brought_in_is_found(repo):
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit("README", "one\n")
    repo.git("checkout", "--quiet", "main")
    repo.commit("README", "two\n")
    repo.git("merge", "--quiet", "side", check=False)
    repo.write("README", f"{token()}\n")
    repo.git("commit", "--quiet", "-m", "merge")
    repo.commit("README", "three\n")
    assert [found.file for found in history.scan(repo.path)] == ["README"]


ENCRYPTED = (
    "ENC[AES256_GCM,data:{},iv:8Lm8xOUuT6/gOCW2tuTsC0B1MGN4A6++I3uwBYfSGPI=,tag:Wx2Th75mYuCb+C6pqaJLwA==,type:str]"
)


def test_what_sops_encrypted_is_no_secret_but_what_stands_beside_it_is(repo):
    data = "".join(random.choices(string.ascii_letters + string.digits, k=60))
    good = f"git-write:\n    api_token: {ENCRYPTED.format(data)}\n"
    repo.commit("secrets.enc.yaml", good)
    assert list(history.scan(repo.path)) == []
    repo.commit("secrets.enc.yaml", f"{good}git-read:\n    token: {token()}\n")
    repo.commit("secrets.enc.yaml", good)
    (found,) = history.scan(repo.path)
    assert found.file == "secrets.enc.yaml"
    assert found.line == 4


def test_a_shallow_clone_is_looked_at_and_said_to_be_one(repo, tmp_path, capsys):
    repo.commit("old", f"{token()}\n")
    repo.commit("old", "gone\n")
    repo.commit("new", "x\n")
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "--quiet", "--depth=2", f"file://{repo.path}", shallow], check=True)
    assert history.main(shallow) == 0
    assert "a shallow clone: only its 2 newest commits were looked at" in capsys.readouterr().out
    (shallow / "new").write_text(f"{token()}\n")
    assert history.main(shallow) == 1


def test_outside_git_nothing_is_said_to_be_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(YardError, match="gitleaks failed"):
        list(history.scan(tmp_path))


def test_without_gitleaks_it_says_how_to_get_it(repo, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("pipelines.sops.BUILT", "nowhere")
    with pytest.raises(YardError, match="gitleaks is not here") as told:
        list(history.scan(repo.path))
    assert "make tools" in told.value.todo
