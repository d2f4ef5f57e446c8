"""What solo reads, refuses with file, line and field, and puts in place."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from solo import support
from solo.cli import _markdown
from solo.daemon import FOLDERS, noted
from solo.manifests import (
    ManifestError,
    field_of,
    load,
    make_registry_login,
    make_secrets,
    make_status_token,
    parse,
    public_key,
    readdress,
    secret_names,
)
from solo.store import Store

ROOT = Path(__file__).parents[2]
WORKFLOW = """\
apiVersion: argoproj.io/v1alpha1
kind: WorkflowTemplate
metadata: {{name: x, namespace: mlops}}
spec:
  entrypoint: main
  templates:
  - name: main
    container: {{image: debian, command: [ls]}}
{extra}
"""


def one(text):
    return next(iter(parse(text, Path("x.yaml"))))


def test_everything_committed_is_honoured_or_noted():
    manifests = load(ROOT, FOLDERS)
    assert len(manifests) > 20
    assert [v.name() for m in manifests for v in support.refused(m.object)] == []
    assert any("securityContext" in line for line in noted([m.object for m in manifests]))


@pytest.mark.parametrize(
    ("extra", "line", "field"),
    [
        ("    daemon: true", 9, "spec.templates[0].daemon"),
        ("    memoize: {key: x}", 9, "spec.templates[0].memoize.key"),
        ("    sidecars:\n    - {name: s, image: i}", 10, "spec.templates[0].sidecars[0].name"),
        ("  - name: two\n    steps: [[{name: a, template: main}]]", 10, "spec.templates[1].steps[0][0].name"),
        ("  volumeClaimTemplates: []", 9, "spec.volumeClaimTemplates"),
        ("  volumes:\n  - name: v\n    hostPath: {path: /}", 11, "spec.volumes[0].hostPath.path"),
        ("  entripoint: x", 9, "spec.entripoint"),
    ],
)
def test_a_field_that_solo_does_not_do_is_refused_where_it_stands(extra, line, field):
    manifest = one(WORKFLOW.format(extra=extra))
    refused = support.refused(manifest.object)
    assert refused[0].name() == field
    assert manifest.where(refused[0].field) == f"x.yaml:{line}"
    assert manifest.where(field_of(field)) == f"x.yaml:{line}"


def test_a_kind_that_solo_does_not_know_is_refused():
    manifest = one("apiVersion: v1\nkind: Gadget\nmetadata: {name: x}\n")
    assert [(v.name(), v.verdict) for v in support.check(manifest.object)] == [("kind", "refused")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [1", "x.yaml:1"),
        ("- 1", "x.yaml:1: not a Kubernetes object"),
        ("kind: A\n---\nkind: B", "x.yaml:1: not a Kubernetes object"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\na: b: c", "x.yaml:5"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_line(text, why):
    with pytest.raises(ManifestError) as error:
        list(parse(text, Path("x.yaml")))
    assert str(error.value).startswith(why)


def test_the_same_object_twice_names_both_places(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n")
    with pytest.raises(ManifestError, match=r"b\.yaml:1.*a\.yaml:1"):
        load(tmp_path, ["."])


def test_a_folder_without_manifests_says_what_to_do(tmp_path):
    with pytest.raises(ManifestError, match="checkout"):
        load(tmp_path, FOLDERS)


def test_only_endpoints_get_other_addresses():
    maps = [
        {"kind": "ConfigMap", "metadata": {"name": name}, "data": {"GIT_URL": "https://github.com", "KEPT": "x"}}
        for name in ("endpoints", "other")
    ]
    assert readdress(maps, {"GIT_URL": "file:///git"}) == {"GIT_URL": ("https://github.com", "file:///git")}
    assert [m["data"]["GIT_URL"] for m in maps] == ["file:///git", "https://github.com"]


def test_a_secret_is_made_once_and_is_the_same_everywhere():
    store = Store()
    mention = {"secret": {"secretName": "registry"}}
    objects = [{"kind": "X", "metadata": {"namespace": n}, "volumes": [mention]} for n in ("a", "b")]
    optional = {"secret": {"secretName": "git-read", "optional": True}}
    objects.append({"kind": "X", "metadata": {"namespace": "a"}, "volumes": [optional]})
    make_secrets(store, objects)
    first = [store.get("Secret", n, "registry")["data"] for n in ("a", "b")]
    assert first[0] == first[1]
    assert len(base64.b64decode(first[0]["credentials"])) > 30
    assert store.find("Secret", "a", "git-read") is None
    make_secrets(store, objects)
    assert store.get("Secret", "a", "registry")["data"] == first[0]


def test_a_release_gets_its_own_secrets_and_none_of_the_platforms():
    store = Store()
    volumes = [{"secret": {"secretName": "registry"}}, {"secret": {"secretName": "git-status", "optional": True}}]
    committed = [{"kind": "X", "metadata": {"namespace": "mlops"}, "v": volumes}]
    make_secrets(store, committed)
    make_status_token(store, committed)
    names = ("digits-secrets", "registry", "git-status")
    references = [{"secretKeyRef": {"name": name, "key": "TOKEN"}} for name in names]
    release = [{"kind": "X", "metadata": {"namespace": "digits-dev"}, "v": references}]
    make_secrets(store, release, but=secret_names(committed))
    assert store.get("Secret", "digits-dev", "digits-secrets")["data"].keys() == {"TOKEN"}
    assert store.find("Secret", "digits-dev", "registry") is None
    assert store.find("Secret", "digits-dev", "git-status") is None


def test_a_key_in_pem_is_a_signing_key_and_its_public_half_is_told():
    store = Store()
    make_secrets(store, [{"kind": "X", "metadata": {"namespace": "a"}, "v": {"secret": {"secretName": "signing"}}}])
    key = load_pem_private_key(base64.b64decode(store.get("Secret", "a", "signing")["data"]["key.pem"]), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    public = load_pem_public_key(public_key(store, "signing", "key.pem").encode())
    public.verify(key.sign(b"x", ec.ECDSA(SHA256())), b"x", ec.ECDSA(SHA256()))


def test_the_registry_has_one_login_wherever_it_is_mentioned():
    store = Store()
    volume = {"secret": {"secretName": "registry-push", "optional": True}}
    objects = [{"kind": "X", "metadata": {"namespace": n}, "volumes": [volume]} for n in ("a", "b")]
    make_secrets(store, objects)
    assert store.find("Secret", "a", "registry-push") is None
    login, text = make_registry_login(store, objects, "solo.invalid")
    assert (login, text) == make_registry_login(store, objects, "solo.invalid")
    for namespace in ("a", "b"):
        data = store.get("Secret", namespace, "registry-push")["data"]
        assert base64.b64decode(data[".dockerconfigjson"]).decode() == text
    assert json.loads(text)["auths"]["solo.invalid"]["auth"] == base64.b64encode(login.encode()).decode()


def test_the_git_hosts_token_is_where_statuses_are_sent_from():
    store = Store()
    volume = {"secret": {"secretName": "git-status", "optional": True}}
    objects = [{"kind": "X", "metadata": {"namespace": n}, "volumes": [volume] * (n == "a")} for n in ("a", "b")]
    token = make_status_token(store, objects)
    assert base64.b64decode(store.get("Secret", "a", "git-status")["data"]["token"]).decode() == token
    assert store.find("Secret", "b", "git-status") is None


def test_the_published_table_is_the_one_in_the_code():
    assert (ROOT / "docs/support.md").read_text() == _markdown(), "make render"
