"""Upstream's validators accept every committed manifest, and each of them refuses what it is there for.

A file in `broken/` says in its first lines what it proves, and what the validator says of it.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from pipelines.errors import Exit, YardError
from pipelines.templates import upstream, validate
from pipelines.templates.upstream import Absent, Chart
from pipelines.templates.validate import Source

ROOT = Path(__file__).parents[2]
BROKEN = Path(__file__).parent / "broken"
CERT_MANAGER = Chart("cert-manager", "v1.21.2", "https://charts.jetstack.io", "cert-manager", "cert-manager", {})


@pytest.fixture(scope="module", autouse=True)
def _tools():
    """Built before, by `make test`; if not, now, in minutes."""
    subprocess.run(["make", "--silent", "tools"], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def told():
    """What the validators say of all of `broken/`: file → lines."""
    found = list(validate.problems(Source(path.name, path.read_text()) for path in sorted(BROKEN.glob("*.yaml"))))
    return {path.name: [str(each) for each in found if each.where.startswith(path.name)] for path in BROKEN.iterdir()}


def test_every_manifest_passes(capsys):
    assert validate.main([]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(BROKEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_broken_is_refused(path, told):
    (says,) = re.findall(r"^# says: (.+)$", path.read_text(), re.MULTILINE)
    (line,) = told[path.name]
    assert says in line


def test_a_file_with_the_same_key_twice_is_refused():
    twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {}\ndata: {}\n"
    (problem,) = validate.problems([Source("twice.yaml", twice)])
    assert 'key "data" already set' in str(problem)


# ---- kustomize


def kustomization(root: Path, *resources: str, folder: str = "argocd/install") -> Path:
    (root / folder).mkdir(parents=True)
    body = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(resources)}
    (root / folder / "kustomization.yaml").write_text(yaml.safe_dump(body))
    return root / folder


def base(component: str, path: str, version: str | None = None) -> str:
    version = version or upstream.versions()[component]
    return f"https://git.example.com/argoproj/{component}//{path}?ref=v{version}"


def test_a_remote_base_is_the_modules(tmp_path):
    folder = kustomization(tmp_path, "upstream", "own.yaml", "../shared")
    kustomization(folder, base("argo-events", "manifests/cluster-install"), folder="upstream")
    own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n"
    (folder / "own.yaml").write_text(own)
    (kustomization(tmp_path, "more.yaml", folder="argocd/shared") / "more.yaml").write_text(own.replace("own", "more"))
    (tmp_path / "mlops").mkdir()
    (tmp_path / "mlops/alone.yaml").write_text(own.replace("own", "alone"))
    install, shared = validate.built(tmp_path)
    found = {(body["kind"], body["metadata"]["name"]) for body in install.objects()}
    assert ("Deployment", "controller-manager") in found
    assert {("ConfigMap", "own"), ("ConfigMap", "more")} < found
    assert [body["metadata"]["name"] for body in shared.objects()] == ["more"]
    assert [source.where for source in validate.plain(tmp_path)] == ["mlops/alone.yaml"]
    assert not list(validate.problems([install]))


def test_a_kustomization_of_nothing_is_refused(tmp_path):
    shutil.copytree(BROKEN / "nothing", tmp_path / "argocd/install")
    with pytest.raises(YardError, match="argocd/install: kustomize makes no object of it"):
        list(validate.built(tmp_path))


def test_a_remote_base_has_the_version_of_the_version_file(tmp_path):
    kustomization(tmp_path, base("argo-events", "manifests/cluster-install", "1.9.10"))
    with pytest.raises(YardError, match=r"ref=v1.9.10 is not the version 1.9.11 of versions.yaml"):
        list(validate.built(tmp_path))


def test_a_remote_base_of_another_project_is_named(tmp_path):
    kustomization(tmp_path, "https://git.example.com/acme/things//install?ref=v1")
    (absent,) = validate.built(tmp_path)
    assert absent == Absent("argocd/install: https://git.example.com/acme/things//install?ref=v1")


# ---- modules


def test_a_module_without_a_digest_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "SUMS", tmp_path / "go.sum")
    upstream.SUMS.write_text("")
    with pytest.raises(YardError, match="no digest of"):
        upstream.folder.__wrapped__("cert-manager")


def test_a_module_that_changed_is_not_read(tmp_path, monkeypatch):
    folder = tmp_path / "tools/upstream"
    shutil.copytree(upstream.SUMS.parent, folder)
    sums = folder / "go.sum"
    sums.write_text(re.sub(r"(cert-manager/cert-manager .*h1:)....", r"\1AAAA", sums.read_text()))
    monkeypatch.setattr(upstream, "SUMS", sums)
    with pytest.raises(YardError, match="checksum mismatch"):
        upstream.folder.__wrapped__("cert-manager")


def test_without_go_it_says_what_to_install(monkeypatch):
    make = shutil.which("make")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(YardError, match="install Go") as caught:
        upstream.folder.__wrapped__("cert-manager")
    assert caught.value.code == Exit.NOT_FOUND
    makefile = subprocess.run(
        [make, "--always-make", "PATH=/nowhere", "tools"], cwd=ROOT, capture_output=True, text=True
    )
    assert makefile.returncode
    assert "install Go" in makefile.stdout + makefile.stderr


def test_the_tools_are_the_versions_of_the_version_file():
    required = dict(re.findall(r"^\s*(\S+) v(\S+)", (ROOT / "tools/lint/go.mod").read_text(), re.MULTILINE))
    for component in ("argo-events", "argo-workflows"):
        assert required[upstream.MODULES[component]] == upstream.versions()[component]
    # Argo CD's own list of what it brings with it
    bundled = (upstream.folder("argo-cd") / "hack/tool-versions.sh").read_text()
    for name, module in (("helm4", "helm.sh/helm/v4"), ("kustomize5", "sigs.k8s.io/kustomize/kustomize/v5")):
        assert f"{name}_version={required[module]}\n" in bundled
    assert upstream.versions()["k3s"].startswith(f"v{upstream.versions()['kubernetes']}+")  # k3s names what is in it


# ---- charts


def test_the_chart_of_a_module_has_the_version_that_was_asked_for():
    made = upstream.chart(CERT_MANAGER)
    assert isinstance(made, str)
    assert set(re.findall(r"image: .*:(\S+?)\"?$", made, re.MULTILINE)) == {"v1.21.2"}


def test_a_value_that_the_chart_does_not_know_is_refused():
    with pytest.raises(YardError, match="crdz"):
        upstream.chart(CERT_MANAGER._replace(values={"crdz": {"enabled": True}}))


def test_a_chart_that_cannot_be_had_is_named():
    harbor = Chart("harbor", "1.19.2", "https://helm.goharbor.io", "harbor", "harbor", {})
    assert upstream.chart(harbor) == Absent("harbor 1.19.2 (from https://helm.goharbor.io)")
    assert isinstance(upstream.chart(CERT_MANAGER._replace(version="v1.0.0")), Absent)


APPLICATION = """apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: front, namespace: argocd}
spec:
  destination: {server: https://kubernetes.default.svc, namespace: web}
  sources:
    - {repoURL: SHOP, chart: tiny, targetRevision: 1.2.3, helm: {valueFiles: [$own/applications/front/values.yaml]}}
    - {repoURL: https://git.example.com/acme/platform, targetRevision: main, ref: own}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A repository whose Application deploys a chart, which a server on loopback has."""
    (tmp_path / "tiny/templates").mkdir(parents=True)
    (tmp_path / "tiny/Chart.yaml").write_text("{apiVersion: v2, name: tiny, version: 1.2.3}\n")
    (tmp_path / "tiny/templates/it.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}\n"
        'data: {color: "{{ .Values.color }}"}\n'
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "served").mkdir()
        upstream.run("helm", "package", str(tmp_path / "tiny"), "--destination", str(tmp_path / "served"))
        upstream.run("helm", "repo", "index", str(tmp_path / "served"), "--url", url)
        root = tmp_path / "git"
        (root / "applications/front").mkdir(parents=True)
        (root / "tools").mkdir()
        (root / "applications/front/application.yaml").write_text(APPLICATION.replace("SHOP", url))
        (root / "applications/front/values.yaml").write_text("color: red\n")
        monkeypatch.setattr(upstream, "LOCK", root / "tools/charts.yaml")
        monkeypatch.setattr(upstream, "CACHE", tmp_path / "cache")
        yield root
        server.shutdown()


def test_a_fetched_chart_is_recorded_and_then_checked(shop):
    (body,) = upstream.applications(shop)
    (chart,) = upstream.charts(body, shop)
    assert isinstance(upstream.chart(chart), Absent)
    assert [source.where for source in validate.plain(shop)] == ["applications/front/application.yaml"]
    upstream.record(shop)
    assert re.fullmatch(r"#.*\ntiny 1\.2\.3: [0-9a-f]{64}\n", upstream.LOCK.read_text())
    (made,) = Source("chart", upstream.chart(chart)).objects()
    assert made["metadata"] == {"name": "front", "namespace": "web"}
    assert made["data"] == {"color": "red"}


def test_a_chart_that_changed_is_refused(shop):
    (body,) = upstream.applications(shop)
    (chart,) = upstream.charts(body, shop)
    upstream.LOCK.write_text(f"tiny 1.2.3: {'0' * 64}\n")
    with pytest.raises(YardError, match="a version is final"):
        upstream.record(shop)
    with pytest.raises(YardError, match="its sha256 is"):
        upstream.chart(chart)


# ---- the render


def test_the_render_is_the_same_each_time(tmp_path):
    trees = []
    for seed in ("1", "2"):
        into = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "pipelines.templates.render", "--into", str(into)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        trees.append({path.relative_to(into): path.read_bytes() for path in into.rglob("*") if path.is_file()})
    assert trees[0]
    assert trees[0] == trees[1]
