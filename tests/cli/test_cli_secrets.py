"""`yard secrets` with the real sops and age-keygen, against the Kubernetes API of the test."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from fake_kubernetes import Api, serve

from pipelines import platform, secret_values, sops
from pipelines.errors import Exit

ROOT = Path(__file__).parents[2]
TOKEN = "what-the-bot-writes-with"
PLATFORM = """
apiVersion: trainyard/v1
domain: example.com
repository: acme/trainyard
releases: acme/releases
services:
  - {repo: acme/digits, name: digits, environments: [dev, prod]}
  - {repo: acme/cats, name: cats}
addons: {storage: true}
"""
GOOGLE = PLATFORM.replace("addons: {storage: true}\n", "")


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A checkout with a platform that keeps its store in the cluster, and a person who ran `yard secrets init`.

    What sops and age-keygen are called with is written down.
    """
    calls = tmp_path / "calls"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sops", "age-keygen"):
        real = sops.find(name, ROOT)
        (programs / name).write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >> {calls}\nenv >> {calls}\nexec {real} "$@"\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for name in ("SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE", "KUBECONFIG", "KUBERNETES_URL", "KUBERNETES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    root = tmp_path / "platform"
    root.mkdir()
    (root / "platform.yaml").write_text(PLATFORM)
    shutil.copy(ROOT / "versions.yaml", root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def api(monkeypatch):
    api = Api("argocd", "argo-events", "mlops")
    with serve(api) as url:
        monkeypatch.setenv("KUBERNETES_URL", url)
        yield api


@pytest.fixture
def give(yard, monkeypatch):
    """`yard secrets set` with a value on the standard input."""

    def give(value, *words):
        monkeypatch.setattr("sys.stdin", io.StringIO(value))
        return yard("secrets", "set", *words)

    return give


@pytest.fixture
def started(box, yard, give):
    """The one value that a person has to supply is there."""
    assert yard("secrets", "init").code == 0
    assert give(TOKEN, "git-write", "token").code == 0
    return box


def calls(box):
    return (box.parent / "calls").read_text()


def encrypted(box):
    return yaml.safe_load((box / sops.FILE).read_text())


# ---- the file


def test_init_makes_a_key_outside_the_repository_for_its_owner_alone(box, yard):
    said = yard("secrets", "init")
    key = box.parent / "home/config/sops/age/keys.txt"
    assert said.code == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = next(line for line in key.read_text().splitlines() if line.startswith("AGE-SECRET-KEY-"))
    public = re.search(r"age1\w+", (box / ".sops.yaml").read_text())[0]
    assert public in said.out
    assert secret not in said.out + said.err + calls(box)
    before = key.read_bytes(), (box / ".sops.yaml").read_bytes()
    assert yard("secrets", "init").code == 0  # again, it changes nothing
    assert (key.read_bytes(), (box / ".sops.yaml").read_bytes()) == before


def test_init_keeps_the_key_out_of_the_repository(box, yard, monkeypatch):
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(box / "keys.txt"))
    said = yard("secrets", "init")
    assert said.code == Exit.INVALID
    assert "would lie in the repository" in said.err
    assert not (box / "keys.txt").exists()


def test_init_says_when_others_can_read_the_key(started, yard):
    key = started.parent / "home/config/sops/age/keys.txt"
    key.chmod(0o644)
    said = yard("secrets", "init")
    assert said.code == Exit.INVALID
    assert f"chmod 600 {key}" in said.err


def test_a_value_goes_in_encrypted_and_comes_out_as_it_was(started):
    text = (started / sops.FILE).read_text()
    assert TOKEN not in text
    assert re.fullmatch(r"ENC\[AES256_GCM,.*\]", encrypted(started)["git-write"]["token"])
    assert sops.Sops(started).read() == {("git-write", "token"): TOKEN}
    assert subprocess.run(["sops", "decrypt", sops.FILE], capture_output=True, text=True).stdout.count(TOKEN) == 1


def test_setting_one_value_leaves_the_others_as_they_are(started, give):
    before = encrypted(started)["git-write"]
    assert give("another", "git-status").code == 0
    assert give("third", "git-status").code == 0
    assert encrypted(started)["git-write"] == before
    assert sops.Sops(started).read()["git-status", "token"] == "third"
    assert [path.name for path in started.iterdir() if path.name.startswith(".secrets")] == []


def test_a_value_from_a_file_and_what_a_person_puts_around_it(started, yard, tmp_path):
    file = tmp_path / "token.txt"
    file.write_text(f"\n  {TOKEN}2 \n")
    said = yard("secrets", "set", "git-read", "--from-file", str(file))
    assert said.code == 0
    assert f"delete {file}" in said.out
    assert sops.Sops(started).read()["git-read", "token"] == f"{TOKEN}2"


@pytest.mark.parametrize("words", [("git-write", TOKEN), ("git-write", "token", TOKEN), ("git-write", f"--v={TOKEN}")])
def test_a_value_as_an_argument_is_refused_and_not_repeated(started, yard, words):
    said = yard("secrets", "set", *words)
    assert said.code in (Exit.USAGE, Exit.NOT_FOUND)
    assert TOKEN not in said.out + said.err
    assert "argument" in said.err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("git-write", "two words", "a token is one word"),
        ("git-write", "\n", "a token is one word"),
        ("registry-push", "only-a-user", "write USER:PASSWORD"),
        ("registry-push", '{"auths": {}}', "not a Docker config.json"),
        ("signing", "-----BEGIN NONSENSE-----", "not a private key in PEM"),
        ("storage-tokens", "x", "made of `registry`"),
        ("git-wirte", "x", "did you mean 'git-write'?"),
        ("scratch", "x", "asks for no Secret scratch"),
    ],
)
def test_what_cannot_be_right_is_refused(started, give, name, value, told):
    before = (started / sops.FILE).read_bytes()
    said = give(value, name)
    assert said.code in (Exit.INVALID, Exit.NOT_FOUND)
    assert told in said.err
    assert len(value) < 5 or value not in said.out + said.err
    assert (started / sops.FILE).read_bytes() == before


def test_a_google_key_has_to_be_one(started, give):
    (started / "platform.yaml").write_text(GOOGLE)
    key = {"type": "service_account", "private_key": "-----BEGIN", "client_email": "x@y"}
    assert give(json.dumps(key), "scratch").code == 0
    assert json.loads(sops.Sops(started).read()["scratch", "credentials"]) == key
    said = give(json.dumps({"type": "authorized_user"}), "registry")
    assert "not a service account's key" in said.err


# ---- what check refuses


def test_check_takes_no_key_to_read(started, yard):
    (started.parent / "home/config/sops/age/keys.txt").unlink()
    said = yard("secrets", "check")
    assert said.code == 0
    assert "1 values, all encrypted, for 1 age keys" in said.out


def test_without_a_file_there_is_nothing_to_check(box, yard):
    assert yard("secrets", "check").code == 0


def change(box, text):
    (box / sops.FILE).write_text(text)


OTHER = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
BROKEN = {
    "a plain file": (lambda text: f"git-write: {{token: {TOKEN}}}\n", "is not encrypted"),
    "one plain value": (lambda text: f"git-read: {{token: {TOKEN}}}\n{text}", "git-read.token: a value that is not"),
    "a value that SOPS leaves plain": (
        lambda text: f"git-read: {{token_unencrypted: {TOKEN}}}\n{text}",
        "git-read.token_unencrypted: a value that is not",
    ),
    "a plain value in place of a Secret": (lambda text: f"git-read: {TOKEN}\n{text}", "a value that is not encrypted"),
    "a comment": (lambda text: f"# {TOKEN}\n{text}", "secrets.enc.yaml:1: a comment that is plain"),
    "a comment behind a value": (lambda text: text.replace("]\nsops", f"] # {TOKEN}\nsops"), "a comment that is plain"),
    "no checksum": (lambda text: re.sub(r"    mac: .*\n", "", text), "no checksum"),
    "for another key": (
        lambda text: re.sub(r"recipient: \w+", f"recipient: {OTHER}", text),
        f"too many: {OTHER}",
    ),
    "for another service": (lambda text: f"{text}    pgp: [{{fp: x}}]\n", "too many: pgp"),
    "a name that nobody asks for": (lambda text: text.replace("git-write:", "git-wirte:"), "did you mean 'git-write"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_check_refuses(started, yard, api, name):
    broken, told = BROKEN[name]
    change(started, broken((started / sops.FILE).read_text()))
    for command in ("check", "apply"):
        said = yard("secrets", command)
        assert said.code == Exit.INVALID
        assert told in said.err
        assert TOKEN not in said.out + said.err
    assert api.writes == []


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("", "not understood"),
        ("creation_rules: []\n", "not understood"),
        ("creation_rules: [{age: age1x1}]\n", "is no age recipient"),
        (f"creation_rules: [{{age: {OTHER}, unencrypted_regex: token}}]\n", "has unencrypted_regex"),
        (f"creation_rules: [{{age: {OTHER}, pgp: x}}]\n", "has pgp"),
    ],
)
def test_sops_yaml_asks_for_whole_files_and_age_alone(started, yard, give, rule, told):
    (started / ".sops.yaml").write_text(rule)
    for said in (yard("secrets", "check"), give("x", "git-read")):
        assert said.code == Exit.INVALID
        assert told in said.err


def test_a_value_that_was_moved_or_changed_by_hand_is_not_applied(started, yard, give, api):
    give("another", "git-read")
    text = (started / sops.FILE).read_text()
    one, two = re.findall(r"token: (ENC\S+)", text)
    change(started, text.replace(one, two))
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "was changed by hand" in said.err
    assert api.writes == []


def test_another_person_s_key_does_not_open_it(started, yard, monkeypatch, api):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(started.parent / "other"))
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "none of this person's age keys opens it" in said.err
    said = yard("secrets", "init")
    assert said.code == 0
    assert "not in .sops.yaml yet" in said.out
    assert yard("secrets", "apply").code == Exit.INVALID
    assert api.writes == []


def test_a_second_person_is_let_in_as_the_docs_say(started, yard, monkeypatch, api):
    mine = (started / ".sops.yaml").read_text()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(started.parent / "other"))
    public = re.search(r"public part (\w+)", yard("secrets", "init").out)[1]
    (started / ".sops.yaml").write_text(mine.replace("]", f", {public}]"))
    said = yard("secrets", "check")
    assert said.code == Exit.INVALID
    assert "encrypted for 1 keys, and .sops.yaml names 2" in said.err
    monkeypatch.setenv("XDG_CONFIG_HOME", str(started.parent / "home/config"))
    subprocess.run(["sops", "updatekeys", "--yes", sops.FILE], check=True, capture_output=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(started.parent / "other"))
    assert yard("secrets", "apply").code == 0


def test_without_sops_it_says_where_to_get_which_version(started, yard, monkeypatch, api):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    version = yaml.safe_load((ROOT / "versions.yaml").read_text())["tools"]["sops"]
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "make tools" in said.err
    assert f"version {version} on PATH from https://github.com/getsops/sops" in said.err


# ---- apply


def test_apply_makes_and_brings_all_that_is_needed_and_then_nothing(started, yard, api):
    said = yard("secrets", "apply")
    assert said.code == 0
    wanted = {
        place
        for value in secret_values.needed(platform.load(started / "platform.yaml"))
        if not value.optional
        for place in value.places(platform.load(started / "platform.yaml"))
    }
    assert {(namespace, name) for namespace, name, _ in wanted} == set(api.secrets)
    assert all(api.data(namespace, name)[key] for namespace, name, key in wanted)
    assert api.data("mlops-release", "git-write") == {"token": TOKEN}
    for name in ("stages-token", "registry", "registry-read"):
        found = api.values(name)
        assert len({json.dumps(data) for data in found.values()}) == 1
    assert set(api.values("registry-read")) == {"digits-dev", "digits-prod", "cats-dev"}
    assert api.data("argocd", "argocd-secret") == {
        "webhook.github.secret": api.data("argo-events", "github-webhook")["secret"]
    }
    writer, reader = (
        api.values(name)["mlops" if name == "registry" else "cats-dev"]["credentials"]
        for name in ("registry", "registry-read")
    )
    assert json.loads(api.data("storage", "storage-tokens")["tokens.json"]) == {
        "trainyard-registry": {"write": [writer], "read": [reader]},
        "trainyard-scratch": "open",
    }
    assert "BEGIN PRIVATE KEY" in api.data("mlops-release", "signing")["key.pem"]
    assert len(writer) >= 43
    assert "namespace storage: made" in said.out
    assert "namespace mlops: made" not in said.out
    before, api.writes = copy.deepcopy(api.secrets), []
    again = yard("secrets", "apply")
    assert again.code == 0
    assert (api.writes, api.secrets) == ([], before)
    assert re.search(r"^0 Secrets changed, \d+ were right$", again.out, re.M)


def test_no_value_is_printed_or_given_as_an_argument_or_in_the_environment(started, yard, give, api):
    said = [
        yard("secrets", "list"),
        yard("secrets", "apply"),
        yard("secrets", "list"),
        yard("secrets", "rotate", "registry"),
    ]
    said += [give("robot$trainyard:Pass+w0rd", "registry-push"), yard("secrets", "apply"), yard("secrets", "check")]
    assert [one.code for one in said] == [0] * len(said)
    values = {text for body in api.secrets.values() for text in body["data"].values()} | {TOKEN, "Pass+w0rd"}
    told = "".join(one.out + one.err for one in said) + calls(started)
    assert "sops" in calls(started)
    for value in values:
        assert value not in told
        assert base64.b64encode(value.encode()).decode() not in told


def test_keys_that_others_put_into_a_secret_stay(started, yard, api):
    api.put("argocd", "argocd-secret", "argocd-server", **{"admin.password": "$2a$10", "server.secretkey": "k"})
    assert yard("secrets", "apply").code == 0
    assert set(api.data("argocd", "argocd-secret")) == {"admin.password", "server.secretkey", "webhook.github.secret"}


def test_what_is_made_already_is_kept_and_brought_where_it_is_not(started, yard, api):
    api.put("mlops", "stages-token", token="made-by-hand")
    assert yard("secrets", "apply").code == 0
    assert api.data("argo-events", "stages-token") == {"token": "made-by-hand"}
    assert api.data("mlops", "stages-token") == {"token": "made-by-hand"}


def test_the_file_comes_before_the_cluster(started, yard, give, api):
    assert yard("secrets", "apply").code == 0
    assert give("newer", "git-write").code == 0
    assert give("kept-from-the-old-cluster", "stages-token").code == 0
    said = yard("secrets", "apply")
    assert "mlops-release/git-write: token: from secrets.enc.yaml" in said.out
    assert api.data("mlops-release", "git-write") == {"token": "newer"}
    assert {data["token"] for data in api.values("stages-token").values()} == {"kept-from-the-old-cluster"}


def test_what_a_person_put_into_the_cluster_by_hand_is_left_there(box, yard, api):
    yard("secrets", "init")
    api.put("mlops-release", "git-write", token="by-hand")
    assert yard("secrets", "apply").code == 0
    assert api.data("mlops-release", "git-write") == {"token": "by-hand"}


def test_what_is_missing_is_named_after_all_else_is_done(box, yard, api):
    yard("secrets", "init")
    said = yard("secrets", "apply")
    assert said.code == Exit.NOT_FOUND
    assert "a person has to supply: git-write token" in said.err
    assert "signing" in {name for _, name in api.secrets}


def test_made_values_that_differ_stop_everything(started, yard, api):
    api.put("mlops", "stages-token", token="one")
    api.put("argo-events", "stages-token", token="two")
    said = yard("secrets", "apply")
    assert said.code == Exit.CONFLICT
    assert "stages-token token is not the same in argo-events, mlops" in said.err
    assert "yard secrets rotate stages-token" in said.err
    assert api.writes == []
    assert "not the same in all namespaces" in yard("secrets", "list").out
    assert yard("secrets", "rotate", "stages-token").code == 0
    assert len({data["token"] for data in api.values("stages-token").values()} - {"one", "two"}) == 1


def alike(api):
    return all(len({json.dumps(data) for data in api.values(name).values()}) == 1 for _, name in api.secrets)


def test_an_apply_that_was_interrupted_anywhere_is_completed_by_the_next(started, yard, api):
    assert yard("secrets", "apply").code == 0
    writes = len(api.writes)
    assert writes > 10
    for done in range(writes):
        api.secrets, api.writes, api.break_after = {}, [], done
        api.namespaces = {"argocd", "argo-events", "mlops"}
        assert yard("secrets", "apply").code == Exit.UNAVAILABLE
        seen = {place: dict(body["data"]) for place, body in api.secrets.items()}
        api.break_after = None
        assert yard("secrets", "apply").code == 0
        assert alike(api)
        assert {place: api.secrets[place]["data"] for place in seen} == seen  # what was made once stays
        writer = api.data("mlops", "registry")["credentials"]
        assert writer in api.data("storage", "storage-tokens")["tokens.json"]


def test_rotate_changes_a_value_everywhere_and_what_is_made_of_it(started, yard, api):
    yard("secrets", "apply")
    before = json.loads(json.dumps({f"{n}/{s}": body["data"] for (n, s), body in api.secrets.items()}))
    api.writes = []
    said = yard("secrets", "rotate", "registry")
    assert said.code == 0
    assert "rollout restart deployment/storage" in said.out
    after = {f"{n}/{s}": body["data"] for (n, s), body in api.secrets.items()}
    changed = {place for place in after if after[place] != before[place]}
    assert changed == {place for place in after if place.endswith(("/registry", "/storage-tokens"))}
    assert len(changed) > 2
    assert alike(api)
    assert after["mlops/registry"]["credentials"] in after["storage/storage-tokens"]["tokens.json"]
    assert before["mlops/registry"]["credentials"] not in after["storage/storage-tokens"]["tokens.json"]
    assert yard("secrets", "apply").out.startswith("0 Secrets changed")


def test_rotating_what_the_file_keeps_changes_the_file_too(started, yard, give, api):
    give("kept", "stages-token")
    yard("secrets", "apply")
    said = yard("secrets", "rotate", "stages-token")
    assert "commit it" in said.out
    (new,) = {data["token"] for data in api.values("stages-token").values()}
    assert new != "kept"
    assert sops.Sops(started).read()["stages-token", "token"] == new
    assert yard("secrets", "apply").out.startswith("0 Secrets changed")


def test_a_rotation_that_was_interrupted_is_told_and_can_be_repeated(started, yard, api):
    yard("secrets", "apply")
    api.writes, api.break_after = [], 0
    assert yard("secrets", "rotate", "stages-token").code == Exit.UNAVAILABLE
    api.break_after = None
    assert yard("secrets", "apply").code == Exit.CONFLICT
    assert yard("secrets", "rotate", "stages-token").code == 0
    assert alike(api)
    assert yard("secrets", "apply").code == 0


def test_only_what_is_made_by_itself_is_rotated(started, yard, api):
    said = yard("secrets", "rotate", "git-write")
    assert said.code == Exit.USAGE
    assert "Fine-grained tokens" in said.err
    assert "GitLab" not in said.err
    said = yard("secrets", "rotate", "storage-tokens")
    assert said.code == Exit.USAGE
    assert "rotate `registry` and `registry-read`" in said.err
    assert api.writes == []


def test_a_secret_with_many_keys_is_whole_after_one_of_them_changed(started, yard, api):
    import bcrypt

    harbor(started)
    api.put("harbor", "harbor-registry-login", "someone", theirs="stays")
    assert yard("secrets", "apply").code == 0
    assert len([path for path in api.writes if path.endswith("/harbor-keys")]) == 1
    keys, before = api.data("harbor", "harbor-keys"), dict(api.data("harbor", "harbor-registry-login"))
    assert {key: len(text) for key, text in keys.items() if len(text) != 16} == {"CSRF_KEY": 32}
    assert set(keys) == {"secretKey", "secret", "CSRF_KEY", "JOBSERVICE_SECRET", "REGISTRY_HTTP_SECRET"}
    assert yard("secrets", "apply").out.startswith("0 Secrets changed")
    assert yard("secrets", "rotate", "harbor-keys").code == Exit.USAGE  # which key?
    assert yard("secrets", "rotate", "harbor-keys", "secretKey").code == Exit.REFUSED
    assert yard("secrets", "rotate", "harbor-admin").code == Exit.REFUSED
    assert yard("secrets", "rotate", "harbor-registry-login", "REGISTRY_PASSWD").code == 0
    after = api.data("harbor", "harbor-registry-login")
    assert {key for key in before if before[key] != after[key]} == {"REGISTRY_PASSWD", "REGISTRY_HTPASSWD"}
    user, _, line = after["REGISTRY_HTPASSWD"].partition(":")
    assert user == "harbor_registry_user"
    assert bcrypt.checkpw(after["REGISTRY_PASSWD"].encode(), line.encode())


def test_a_registry_login_has_the_form_that_the_builder_reads(started, yard, give, api):
    assert give("robot$ci:secret-word", "registry-push").code == 0
    assert yard("secrets", "apply").code == 0
    assert {body["type"] for (_, name), body in api.secrets.items() if name == "registry-push"} == {
        "kubernetes.io/dockerconfigjson"
    }
    (login,) = json.loads(api.data("mlops-build", "registry-push")[".dockerconfigjson"])["auths"].items()
    assert login == ("harbor.example.com", {"auth": base64.b64encode(b"robot$ci:secret-word").decode()})


def harbor(box, more=""):
    (box / "platform.yaml").write_text(
        PLATFORM.replace("{storage: true}", f"{{harbor: true, postgresql: true, storage: true}}{more}")
    )


def test_a_robot_s_password_is_the_login_of_those_who_use_it(started, yard, give, api):
    harbor(started)
    assert yard("secrets", "apply").code == 0

    def logins():
        robot = api.data("harbor", "harbor-robot")
        assert all(8 <= len(robot[key]) <= 128 for key in robot)
        assert all(re.search(kind, robot[key]) for key in robot for kind in ("[A-Z]", "[a-z]", "[0-9]"))
        found = {"push": api.values("registry-push"), "pull": api.values("registry-pull")}
        for key, secrets in found.items():
            auth = base64.b64encode(f"robot${key}:{robot[key]}".encode()).decode()
            wanted = {".dockerconfigjson": json.dumps({"auths": {"harbor.example.com": {"auth": auth}}})}
            assert list(secrets.values()) == [wanted] * len(secrets)
        assert set(found["push"]) == {"mlops-build", "mlops-release"}
        assert set(found["pull"]) == {"mlops-build", "mlops", "mlops-release"}
        return robot["push"], robot["pull"]

    before = logins()
    assert yard("secrets", "rotate", "harbor-robot", "push").code == 0
    after = logins()
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert "a capital letter" in give("all-small-1", "harbor-robot", "pull").err
    assert give("Given2by3a4person", "harbor-robot", "pull").code == 0
    assert yard("secrets", "apply").code == 0
    assert logins() == (after[0], "Given2by3a4person")


def test_a_login_from_before_harbor_is_told_of(started, yard, give, api):
    assert give("robot$ci:secret-word", "registry-push").code == 0
    harbor(started)
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "registry-push .dockerconfigjson is made of `harbor-robot push`: nobody gives it" in said.err
    assert 'take it out: sops unset secrets.enc.yaml \'["registry-push"][".dockerconfigjson"]\'' in said.err
    assert api.writes == []


def test_harbor_s_passwords_go_to_no_other_registry(started, yard, give, api):
    harbor(started, "\nendpoints: {REGISTRY: europe-docker.pkg.dev/acme/ml}")
    assert give("_json_key_base64:e30=", "registry-push").code == 0
    assert yard("secrets", "apply").code == 0
    (login,) = json.loads(api.data("mlops-build", "registry-push")[".dockerconfigjson"])["auths"]
    assert login == "europe-docker.pkg.dev"
    assert api.values("registry-pull") == {}


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [("secretKey", "k" * 16, "k" * 15), ("CSRF_KEY", "0" * 32, "0" * 31 + "-")],
)
def test_a_key_that_is_given_has_the_length_that_harbor_takes(started, yard, give, key, right, wrong):
    harbor(started)
    said = give(wrong, "harbor-keys", key)
    assert said.code == Exit.INVALID
    assert "letters and digits" in said.err
    assert give(right, "harbor-keys", key).code == 0


# ---- Argo CD's repositories

CREDENTIALS = "argocd-repositories"
REPO_CREDS = {"argocd.argoproj.io/secret-type": "repo-creds", "app.kubernetes.io/managed-by": "trainyard"}


@pytest.mark.parametrize(
    ("more", "url", "user"),
    [
        ("", "https://github.com", "x-access-token"),
        ("git: {provider: gitlab}\nendpoints: {GIT_URL: 'https://git.lan'}\n", "https://git.lan", "oauth2"),
    ],
)
def test_argo_cd_gets_one_token_for_all_private_repositories(started, yard, give, api, more, url, user):
    (started / "platform.yaml").write_text(PLATFORM + more)
    assert yard("secrets", "apply").code == 0
    assert api.values(CREDENTIALS) == {}  # public ones need none
    assert f"{CREDENTIALS} url" in yard("secrets", "list").out
    assert "nobody gives it" in give("https://elsewhere", CREDENTIALS, "url").err
    assert give("reads-them", CREDENTIALS).code == 0
    assert yard("secrets", "apply").code == 0
    found = api.secrets["argocd", CREDENTIALS]
    assert found["data"] == {"type": "git", "url": url, "username": user, "password": "reads-them"}
    assert found["labels"] == REPO_CREDS
    api.writes = []
    assert yard("secrets", "apply").code == 0
    assert api.writes == []


def test_a_label_that_somebody_took_away_comes_back(started, yard, give, api):
    give("reads-them", CREDENTIALS, "password")
    assert yard("secrets", "apply").code == 0
    api.secrets["argocd", CREDENTIALS]["labels"] = {}
    assert f"argocd/{CREDENTIALS}: labels" in yard("secrets", "apply").out
    assert api.secrets["argocd", CREDENTIALS]["labels"] == REPO_CREDS


# ---- add-ons

ALERTS = "route: {receiver: team}\nreceivers: [{name: team}]\n"


def test_all_add_ons_have_what_they_need_and_a_second_apply_does_nothing(started, yard, give, api):
    every = "{harbor: true, postgresql: true, nfs: {server: nas, path: /x}, gpu: true, monitoring: true, tunnel: true, "
    every += "storage: true, backup: {bucket: acme-copies}}\nnodes: [{name: box, gpu: true}]"
    (started / "platform.yaml").write_text(PLATFORM.replace("{storage: true}", every))
    said = yard("secrets", "apply")
    assert said.code == Exit.NOT_FOUND
    assert "a person has to supply: tunnel token, backup credentials" in said.err
    assert "gs://acme-copies --role roles/storage.objectCreator" in yard("secrets", "list").out
    key = json.dumps({"type": "service_account", "private_key": "-----BEGIN"})
    for value, name in (("eyJ0", "tunnel"), (key, "backup"), (ALERTS, "alertmanager")):
        assert give(value, name).code == 0
    for wrong in ("receivers: [", "team", "route: {}"):
        assert give(wrong, "alertmanager").code == Exit.INVALID
    assert yard("secrets", "apply").code == 0
    settings = platform.load(started / "platform.yaml")
    for value in secret_values.needed(settings):
        if not value.optional:
            assert all(api.data(place.namespace, place.secret)[place.key] for place in value.places(settings))
    assert set(api.values("backup")) == {"argo", "harbor"}
    assert api.data("monitoring", "alertmanager") == {"alertmanager.yaml": ALERTS}
    before, api.writes = copy.deepcopy(api.secrets), []
    again = yard("secrets", "apply")
    assert again.out.startswith("0 Secrets changed")
    assert (api.writes, api.secrets) == ([], before)


def test_without_harbor_nothing_is_brought_to_its_namespace(started, yard, give, api):
    (started / "platform.yaml").write_text(
        PLATFORM.replace("{storage: true}", "{postgresql: true, storage: true, backup: {bucket: acme-copies}}")
    )
    assert give(json.dumps({"type": "service_account", "private_key": "-----BEGIN"}), "backup").code == 0
    assert yard("secrets", "apply").code == 0
    assert set(api.values("backup")) == {"argo"}
    assert "harbor" not in api.namespaces


def test_list_says_where_each_value_is_and_how_to_get_what_is_missing(box, yard, give, api):
    yard("secrets", "init")
    api.put("mlops", "registry", credentials="x")
    said = yard("secrets", "list")
    assert said.code == 0
    rows = dict(re.findall(r"^(\S+ \S+) +(?:made|supplied) +(.*)$", said.out, re.M))
    assert rows["git-write token"] == "missing"
    assert re.fullmatch(r"in 1 of \d places in the cluster", rows["registry credentials"])
    assert rows["signing key.pem"] == "not made yet"
    assert rows["git-read token"] == "optional, not supplied"
    assert "`yard secrets set git-write token`" in said.out
    assert "`yard secrets set git-read token`" in said.out
    give(TOKEN, "git-write")
    yard("secrets", "apply")
    rows = dict(re.findall(r"^(\S+ \S+) +(?:made|supplied) +(.*)$", yard("secrets", "list").out, re.M))
    assert rows["git-write token"] == "in the file, in the cluster"
    assert rows["signing key.pem"] == "in the cluster"


def test_list_needs_neither_a_cluster_nor_a_key(started, yard):
    (started.parent / "home/config/sops/age/keys.txt").unlink()
    said = yard("secrets", "list")
    assert said.code == 0
    assert "the cluster was not asked: no cluster is named" in said.out
    assert "in the file" in said.out


def test_a_service_s_own_variables_go_to_its_namespace(started, yard, give, api):
    assert give("a b\n", "digits-dev/digits-secrets", "API_TOKEN").code == 0
    assert give("other", "digits-dev/digits-secrets", "SALT").code == 0
    assert yard("secrets", "check").code == 0
    assert yard("secrets", "apply").code == 0
    assert api.values("digits-secrets") == {"digits-dev": {"API_TOKEN": "a b", "SALT": "other"}}
    assert "digits-dev/digits-secrets SALT" in yard("secrets", "list").out
    subprocess.run(["sops", "unset", sops.FILE, '["digits-dev/digits-secrets"]["SALT"]'], check=True)
    give("new", "digits-dev/digits-secrets", "API_TOKEN")
    assert yard("secrets", "apply").code == 0
    assert api.values("digits-secrets") == {"digits-dev": {"API_TOKEN": "new"}}
    for name in ("digits-stage/digits-secrets", "cats-dev/digits-secrets", "digits-dev/other"):
        assert give("x", name, "TOKEN").code == Exit.NOT_FOUND


# ---- the cluster


def test_what_the_api_says_has_no_value_in_it(started, yard, api):
    encoded = base64.b64encode(TOKEN.encode()).decode()
    api.refuse = (403, f"forbidden: {TOKEN} {encoded}")
    api.put("mlops", "x")
    api.put("argo-events", "github-webhook", secret="s")
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "may this user write Secrets there?" in said.err
    api.refuse = None
    api.put("mlops-release", "git-write", kind="custom")
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "kubectl -n mlops-release delete secret git-write" in said.err
    api.refuse = (400, f"cannot handle {TOKEN} {encoded}")
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "cannot handle … …" in said.err


def test_nothing_answers(started, yard, monkeypatch):
    monkeypatch.setenv("KUBERNETES_URL", "http://127.0.0.1:9")
    said = yard("secrets", "apply")
    assert said.code == Exit.UNAVAILABLE
    assert "is the cluster up" in said.err


def kubeconfig(path, server, user, **cluster):
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))


def test_a_kubeconfig_with_certificates_as_k3s_writes_it(started, yard, certificate, monkeypatch, tmp_path):
    api, file, pem = Api("mlops"), tmp_path / "k3s.yaml", certificate.read_bytes()
    both, key = base64.b64encode(pem).decode(), base64.b64encode(pem[pem.index(b"-----BEGIN PRIVATE") :]).decode()
    user = {"client-certificate-data": both, "client-key-data": key}
    with serve(api, certificate) as url:
        monkeypatch.setenv("KUBECONFIG", str(file))
        kubeconfig(file, url, user, **{"certificate-authority-data": both})
        assert yard("secrets", "apply").code == 0
        assert api.secrets
        kubeconfig(file, url, {"client-certificate": str(certificate), "client-key": str(certificate)})
        said = yard("secrets", "apply")
        assert said.code == Exit.UNAVAILABLE  # nobody vouches for the server
        assert "CERTIFICATE_VERIFY_FAILED" in said.err
        file.write_text("nonsense")
        assert "kubeconfig that is not understood" in yard("secrets", "apply").err


def test_a_kubeconfig_with_a_token(started, yard, api, monkeypatch, tmp_path):
    file = tmp_path / "kubeconfig"
    url = os.environ["KUBERNETES_URL"]
    kubeconfig(file, url, {"token": "t0ken"})
    monkeypatch.delenv("KUBERNETES_URL")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'nowhere'}:{file}")
    assert yard("secrets", "apply").code == 0
    assert set(api.tokens) == {"Bearer t0ken"}
    kubeconfig(file, url, {"exec": {"command": "gke-gcloud-auth-plugin"}})
    said = yard("secrets", "apply")
    assert said.code == Exit.INVALID
    assert "kubectl proxy" in said.err


# ---- the table


def every_platform():
    """Settings for each way in which what is needed can differ."""
    copies = "backup: {bucket: acme-copies}"
    for store in (
        f"addons: {{storage: true, harbor: true, postgresql: true, monitoring: true, tunnel: true, {copies}}}\n",
        f"addons: {{postgresql: true, {copies}}}\n",
        "addons: {harbor: true, postgresql: true}\nendpoints: {REGISTRY: gcr.io/x}\n",
        "endpoints: {STORAGE_URL: http://x}\n",
    ):
        for git in ("github", "gitlab"):
            for issuer in ("self-signed", "letsencrypt"):
                for login in ("", "login: {issuer: 'https://id.example.com'}\n"):
                    tls = f"tls: {{issuer: {issuer}, email: a@b}}\ngit: {{provider: {git}}}\n"
                    yield platform.load(GOOGLE + store + tls + login)


def test_a_place_has_one_value_whatever_the_settings_are():
    for settings in every_platform():
        found = [place for value in secret_values.needed(settings) for place in value.places(settings)]
        assert len(found) == len(set(found))
        names = [value.name for value in secret_values.needed(settings)]
        for value in secret_values.needed(settings):
            parts = getattr(value.source, "of", None) or ()
            assert all(names.index(part) < names.index(value.name) for part in parts)
            types = {v.type for v in secret_values.needed(settings) if v.secret == value.secret}
            assert len(types) == 1


def test_each_value_is_needed_somewhere_and_explained():
    needed = {id(value) for settings in every_platform() for value in secret_values.needed(settings)}
    assert needed == {id(value) for value in secret_values.VALUES}
    for value in secret_values.VALUES:
        assert value.purpose
        assert value.leak
        assert value.rotate
        assert not isinstance(value.source, secret_values.Given) or value.source.steps


@pytest.mark.parametrize("tool", ["sops", "age", "gitleaks"])
def test_the_tools_that_are_built_are_those_of_versions_yaml(tool):
    version = yaml.safe_load((ROOT / "versions.yaml").read_text())["tools"][tool]
    (folder,) = [f for f in ("sops", "gitleaks") if tool == f or (tool, f) == ("age", "sops")]
    module = {
        "sops": "github.com/getsops/sops/v3",
        "age": "filippo.io/age",
        "gitleaks": "github.com/zricethezav/gitleaks/v8",
    }
    assert re.search(
        rf"^\t{re.escape(module[tool])} v{version}( //|$)", (ROOT / f"tools/{folder}/go.mod").read_text(), re.M
    )
