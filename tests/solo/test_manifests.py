"""What solo reads, refuses with file, line and field, and puts in place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from solo import support
from solo.cli import _markdown
from solo.daemon import FOLDERS, noted
from solo.manifests import ManifestError, field_of, load, make_secrets, parse, readdress
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


def test_the_published_table_is_the_one_in_the_code():
    assert (ROOT / "docs/support.md").read_text() == _markdown(), "make render"
