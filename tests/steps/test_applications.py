"""What Argo CD is told to install, for settings other than the committed ones."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import platform
from pipelines.templates import applications, argocd, base, capacity, certificates, render

SETTINGS: dict[str, Any] = {
    "apiVersion": "trainyard/v1",
    "domain": "ml.corp.test",
    "repository": "corp/platform",
    "branch": "stable",
    "releases": "corp/releases",
    "services": [{"repo": "corp/cats", "name": "cats", "environments": ["dev", "prod"]}],
}
LOGIN = {"issuer": "https://id.corp.test", "viewer": ["all"], "approver": ['leads, "old"'], "admin": ["ops"]}


def settings(**changes: Any) -> platform.Platform:
    return platform.load(yaml.safe_dump(SETTINGS | changes))


def rendered(path: Path, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """File → objects of the whole platform."""
    file = path / "platform.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | changes))
    texts = render.render(file)
    return {name: list(yaml.safe_load_all(text)) for name, text in texts.items() if name.endswith(".yaml")}


def installed(files: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {body["metadata"]["name"]: body for name in files if name.startswith("argocd/a") for body in files[name]}


def config(files: dict[str, list[dict[str, Any]]], name: str) -> dict[str, str]:
    (kustomization,) = files["argocd/install/kustomization.yaml"]
    patches = [yaml.safe_load(patch["patch"]) for patch in kustomization["patches"]]
    (found,) = [patch for patch in patches if patch["metadata"]["name"] == name and patch["kind"] == "ConfigMap"]
    return dict(found["data"])


def test_an_addon_that_is_off_has_no_application_and_one_that_is_on_goes_when_it_is_turned_off(tmp_path):
    assert "storage" not in installed(rendered(tmp_path))
    on = installed(rendered(tmp_path, addons={"storage": True}))
    assert on["storage"]["metadata"]["finalizers"] == ["resources-finalizer.argocd.argoproj.io"]
    assert base.SYNC_OPTIONS not in on["storage"]["metadata"]["annotations"]


def test_a_lost_file_takes_no_part_of_the_core_away_and_argo_cd_outlives_the_root(tmp_path):
    for name, body in installed(rendered(tmp_path)).items():
        kept = "Prune=false,Delete=false" if name in applications.FIRST else "Prune=false"
        assert body["metadata"]["annotations"][base.SYNC_OPTIONS] == kept
        assert ("finalizers" in body["metadata"]) == (name not in applications.FIRST)


def test_a_chart_with_its_values_in_a_file_takes_them_from_this_repository():
    chart = applications.Chart("harbor", "https://charts.example.com", "harbor")
    component = applications.Component("harbor", "", "harbor", "applications/harbor", chart=chart)
    files = {"applications/harbor/kustomization.yaml": [], "applications/harbor/values.yaml": []}
    chart_, folder = applications._sources(settings(), component, {"harbor": "1.19.2"}, files)
    assert chart_["helm"]["valueFiles"] == ["$here/applications/harbor/values.yaml"]
    assert (folder["ref"], folder["path"]) == ("here", "applications/harbor")


@pytest.mark.parametrize("addons", [{}, {"storage": True}, {"storage": True, "postgresql": True, "harbor": True}])
def test_each_component_comes_after_what_it_needs(tmp_path, addons):
    found = installed(rendered(tmp_path, addons=addons))
    needs = {component.name: component.needs for component in (*applications.COMPONENTS, *applications.ADDONS)}
    wave = {name: int(body["metadata"]["annotations"][applications.WAVE]) for name, body in found.items()}
    for name in found:
        assert all(wave[name] > wave[need] for need in needs[name] if need in found), name
    assert all(
        wave["services"] > wave[component.name]
        for component in applications.COMPONENTS
        if component.name in ("argo-workflows", "event-sources", "mlops")
    )


def test_all_come_from_this_repository_at_its_branch_and_from_the_mirror(tmp_path):
    mirror = {"git": "http://git.lan", "charts": "http://charts.lan"}
    files = rendered(tmp_path, mirror=mirror, endpoints={"GIT_URL": "http://git.corp.test"})
    bodies = [*installed(files).values(), *files["argocd/root.yaml"]]
    sources = [source for body in bodies for source in body["spec"].get("sources", [body["spec"].get("source")])]
    assert {(s["repoURL"], s["targetRevision"]) for s in sources if "path" in s} == {
        ("http://git.corp.test/corp/platform.git", "stable")
    }
    assert {s["repoURL"] for s in sources if "chart" in s} == {"http://charts.lan"}
    remotes = [name for name in files["argocd/install/kustomization.yaml"][0]["resources"] if "ref=" in name]
    pins = yaml.safe_load((render.ROOT / "versions.yaml").read_text())["components"]
    assert remotes == [
        f"http://git.lan/argoproj/argo-cd.git//manifests/cluster-install?timeout=90&ref=v{pins['argo-cd']}"
    ]
    (project,) = files["argocd/projects/platform.yaml"]
    assert project["spec"]["sourceRepos"] == ["http://git.corp.test/corp/platform.git", "http://charts.lan"]


def test_the_project_allows_the_namespaces_of_what_is_installed_and_no_other(tmp_path):
    files = rendered(tmp_path)
    (project,) = files["argocd/projects/platform.yaml"]
    allowed = {place["namespace"] for place in project["spec"]["destinations"]}
    assert {"argocd", "cert-manager", "mlops", "cats-dev", "cats-prod"} <= allowed
    assert not allowed & {"storage", "default", "kube-system", "digits-dev"}
    (project,) = rendered(tmp_path, addons={"storage": True})["argocd/projects/platform.yaml"]
    assert "storage" in {place["namespace"] for place in project["spec"]["destinations"]}


def test_without_login_there_is_the_admin_and_with_login_there_is_nobody_else(tmp_path):
    alone = config(rendered(tmp_path), "argocd-cm")
    assert (alone["admin.enabled"], alone["users.anonymous.enabled"], alone["exec.enabled"]) == (
        "true",
        "false",
        "false",
    )
    assert "oidc.config" not in alone
    files = rendered(tmp_path, login=LOGIN)
    found = config(files, "argocd-cm")
    assert (found["admin.enabled"], found["url"]) == ("false", "https://argocd.ml.corp.test")
    provider = yaml.safe_load(found["oidc.config"])
    assert provider["issuer"] == "https://id.corp.test"
    assert provider["clientSecret"] == "$oidc.clientSecret"
    rights = config(files, "argocd-rbac-cm")
    assert rights["policy.default"] == ""
    groups = [row[1:] for row in csv.reader(rights["policy.csv"].splitlines()) if row[0] == "g"]
    assert ["all", "role:viewer"] in groups
    assert ['leads, "old"', "role:approver"] in groups
    assert ["ops", "role:admin"] in groups


def test_only_an_admin_may_touch_what_is_not_a_service():
    rules = [row for row in csv.reader(argocd.policy(None).splitlines()) if row[0] == "p"]
    assert {row[4] for row in rules if row[3] != "get"} == {"services/*"}
    assert not [row for row in rules if row[2] in ("exec", "clusters", "repositories", "accounts")]


def test_the_clusters_own_ca_signs_unless_lets_encrypt_does():
    own = certificates.issuers(settings())
    assert [(body["kind"], body["metadata"]["name"]) for body in own] == [
        ("ClusterIssuer", "self-signed"),
        ("Certificate", "trainyard-ca"),
        ("ClusterIssuer", "trainyard"),
    ]
    assert own[1]["spec"]["privateKey"]["rotationPolicy"] == "Never"
    for name, host in (("letsencrypt", "acme-v02"), ("letsencrypt-staging", "acme-staging-v02")):
        (issuer,) = certificates.issuers(settings(tls={"issuer": name, "email": "ops@corp.test"}))
        assert issuer["metadata"]["name"] == "trainyard"
        assert host in issuer["spec"]["acme"]["server"]
        assert "http01" not in str(issuer)


def test_who_calls_a_registry_that_the_clusters_own_ca_signs_for_is_given_that_ca(tmp_path):
    def trusted(**changes: Any) -> tuple[list[str], list[str]]:
        """The namespaces that have the CA, and what Kaniko is told."""
        files = rendered(tmp_path, addons={"postgresql": True, "harbor": True}, **changes)
        names = [file for file in files if file.startswith("mlops/config/") and "registry-ca" in str(files[file])]
        (ci,) = files["mlops/templates/ci.yaml"]
        (build,) = [body for body in ci["spec"]["templates"] if body["name"] == "build"]
        flag = "--registry-certificate"
        return names, [word for word in build["container"]["args"] if word.startswith(flag)]

    assert trusted() == (
        ["mlops/config/mlops-build.yaml", "mlops/config/mlops-release.yaml"],
        ["--registry-certificate=harbor.ml.corp.test=/kaniko/registry-ca/ca.crt"],
    )
    assert trusted(tls={"issuer": "letsencrypt", "email": "ops@corp.test"}) == ([], [])


def test_an_ingress_has_its_own_certificate_and_holds_up_no_wave():
    body = base.ingress(settings(), "x", "argocd", ("argocd", "argocd-server", "http"))
    notes = body["metadata"]["annotations"]
    assert notes["cert-manager.io/cluster-issuer"] == "trainyard"
    assert notes["argocd.argoproj.io/ignore-healthcheck"] == "true"
    assert body["spec"]["tls"] == [{"hosts": ["argocd.ml.corp.test"], "secretName": "argocd-tls"}]


def test_the_sum_of_what_objects_ask_for():
    def container(cpu: str, memory: str, limit: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}}

    def pod(*containers: dict[str, Any], first: dict[str, Any] | None = None) -> dict[str, Any]:
        return {"template": {"spec": {"containers": list(containers), "initContainers": [first] if first else []}}}

    deployment = {"kind": "Deployment", "spec": {"replicas": 2, **pod(container("100m", "128Mi", "1Gi"), {})}}
    # an init container runs before the others, so the larger of both counts
    database = {
        "kind": "StatefulSet",
        "spec": {
            **pod(container("1", "1Gi", "2Gi"), first=container("10m", "3Gi", "3Gi")),
            "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "5Gi"}}}}],
        },
    }
    claim = {"kind": "PersistentVolumeClaim", "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
    bus = {"kind": "EventBus", "spec": {"jetstream": {"replicas": 3, "persistence": {"volumeSize": "2Gi"}}}}
    job = {"kind": "Job", "spec": pod(container("8", "64Gi", "64Gi"))}
    found = capacity.total([deployment, database, claim, bus, job, {"kind": "ConfigMap", "data": {}}])
    assert found == pytest.approx(capacity.Sum(1.2, 2**28 + 3 * 2**30, 5 * 2**30, 12 * 2**30))
    asked = container("1", "1Gi", "2Gi")
    cluster = {"kind": "Cluster", "spec": {"instances": 3, "storage": {"size": "5Gi"}, **asked}}
    metrics = {"kind": "Prometheus", "spec": {"storage": {"volumeClaimTemplate": claim}, **asked}}
    assert capacity.total([cluster, metrics]) == pytest.approx(capacity.Sum(4, 4 * 2**30, 8 * 2**30, 16 * 2**30))
    with pytest.raises(ValueError, match="1 GB"):
        capacity.quantity("1 GB")


def test_the_sum_of_what_a_charts_values_ask_for():
    values = {
        "core": {"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}},
        "persistence": {
            "enabled": True,
            "persistentVolumeClaim": {"registry": {"size": "5Gi"}, "jobs": {"size": "1Gi"}},
        },
        "startupapicheck": {"resources": {"requests": {"cpu": "8"}}},
    }
    assert capacity.of_values(values) == pytest.approx(capacity.Sum(0.1, 2**27, 2**28, 6 * 2**30))


def test_the_committed_table_of_waves_names_every_application():
    text = (render.ROOT / "docs/waves.md").read_text()
    for path in (render.ROOT / "argocd/applications").glob("*.yaml"):
        assert f"| `{path.stem}` |" in text
