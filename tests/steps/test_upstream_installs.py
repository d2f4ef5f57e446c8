"""What upstream's manifests and charts become with our changes, rendered by the tools that Argo CD bundles."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipelines.templates import applications, capacity, render, upstream


def application(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((render.ROOT / applications.FOLDER / f"{name}.yaml").read_text()))


def objects_of(name: str) -> list[dict[str, Any]]:
    """All that an Application deploys, as far as it can be rendered here."""
    body = application(name)
    found = [each for chart in upstream.charts(body) for each in documents(upstream.chart(chart))]
    for source in body["spec"].get("sources") or [body["spec"]["source"]]:
        folder = render.ROOT / source.get("path", "none")
        if (folder / "kustomization.yaml").exists():
            found += documents(upstream.build(folder))
        else:
            found += [each for path in folder.rglob("*.yaml") for each in documents(path.read_text())]
    return found


def documents(text: Any) -> list[dict[str, Any]]:
    return [] if isinstance(text, upstream.Absent) else list(upstream.documents(text, "rendered"))


@pytest.fixture(scope="module")
def everything() -> dict[str, list[dict[str, Any]]]:
    return {path.stem: objects_of(path.stem) for path in (render.ROOT / applications.FOLDER).glob("*.yaml")}


def project() -> dict[str, Any]:
    return dict(yaml.safe_load((render.ROOT / "argocd/projects/platform.yaml").read_text())["spec"])


def test_every_application_renders_to_something(everything):
    assert all(everything.values())


def test_the_project_allows_exactly_the_cluster_wide_kinds_that_there_are(everything):
    there = {kind for objects in everything.values() for kind in applications.cluster_wide(objects)}
    assert {(entry["group"], entry["kind"]) for entry in project()["clusterResourceWhitelist"]} == there


def test_no_cluster_wide_kind_is_unknown(everything):
    """An object without a namespace, but for kinds that are in none, would land in its Application's."""
    for name, objects in everything.items():
        for body in objects:
            if "namespace" not in body["metadata"] and body["kind"] not in applications.CLUSTER_WIDE:
                assert name == "cert-manager", f"{body['kind']} {body['metadata']['name']}: where is it?"


def test_the_project_allows_every_namespace_that_there_is_and_no_other(everything):
    allowed = {entry["namespace"] for entry in project()["destinations"]}
    there = {body["metadata"].get("namespace", "") for objects in everything.values() for body in objects} - {""}
    destinations = {application(name)["spec"]["destination"]["namespace"] for name in everything}
    assert there | destinations == allowed


def test_each_container_of_argo_cd_asks_for_what_the_table_of_waves_says(everything):
    (kustomization,) = yaml.safe_load_all((render.ROOT / "argocd/install/kustomization.yaml").read_text())
    assert capacity.total(everything["argocd"]) == pytest.approx(capacity.total([kustomization]))
    for body in everything["argocd"]:
        spec = body.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), container["name"]
            assert "memory" in container["resources"]["limits"], container["name"]


def test_what_the_chart_of_cert_manager_asks_for_is_in_the_table_of_waves(everything):
    values = application("cert-manager")["spec"]["source"]["helm"]["valuesObject"]
    assert capacity.total(everything["cert-manager"]) == pytest.approx(capacity.of_values(values))


def test_of_argo_cd_only_what_is_used_runs(everything):
    running = {
        body["metadata"]["name"] for body in everything["argocd"] if body["kind"] in ("Deployment", "StatefulSet")
    }
    assert running == {"argocd-application-controller", "argocd-redis", "argocd-repo-server", "argocd-server"}
    left = {body["metadata"]["name"] for body in everything["argocd"]}
    assert not [name for name in left if any(word in name for word in ("dex", "notifications", "applicationset-"))]


def test_crds_stay_whatever_a_commit_says(everything):
    for name, objects in everything.items():
        for body in objects:
            if body["kind"] == "CustomResourceDefinition" and name != "cert-manager":  # its chart keeps them from Helm
                assert body["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
