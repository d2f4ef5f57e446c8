"""How Argo Workflows and Argo Events are installed, and who may do what in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import platform
from pipelines.templates import controller, events, installs, links, people

ROOT = Path(__file__).parents[2]
SMALL = {
    "apiVersion": "trainyard/v1",
    "domain": "example.com",
    "repository": "acme/platform",
    "releases": "acme/releases",
    "services": [{"repo": "acme/digits", "name": "digits"}],
}
LOGIN = {"issuer": "https://id.example.com", "viewer": ["all"], "trainer": ["ml", "it's"], "admin": ["ops"]}


def settings(**more):
    return platform.load(yaml.safe_dump({**SMALL, **more}))


def upstream(found):
    (body,) = found["install/kustomization.yaml"]
    return body


def patch_of(body, name):
    """What a strategic merge patch says of a Deployment's pod."""
    texts = [yaml.safe_load(entry["patch"]) for entry in body["patches"]]
    found = [p for p in texts if isinstance(p, dict) and p["kind"] == "Deployment" and p["metadata"]["name"] == name]
    return found[0]["spec"]["template"]


def server(given):
    pod = patch_of(upstream(installs.workflows(given, "4.1.4")), "argo-server")
    return pod, pod["spec"]["containers"][0]


# ---- installations


def test_every_version_is_that_of_the_version_file():
    body = upstream(installs.workflows(settings(), "9.8.7"))
    assert {image["newTag"] for image in body["images"]} == {"v9.8.7"}
    assert body["resources"][0].endswith("ref=v9.8.7")
    (body,) = installs.events(settings(), "7.8.9")["install/kustomization.yaml"]
    assert body["resources"][0].endswith("ref=v7.8.9")
    container = patch_of(body, "controller-manager")["spec"]["containers"][0]
    assert container["env"] == [{"name": "ARGO_EVENTS_IMAGE", "value": "quay.io/argoproj/argo-events:v7.8.9"}]


def test_upstream_is_fetched_from_the_mirror():
    given = settings(mirror={"git": "http://git.lan"})
    bodies = [upstream(installs.workflows(given, "1")), *installs.events(given, "1")["install/kustomization.yaml"]]
    assert all(body["resources"][0].startswith("http://git.lan/argoproj/argo-") for body in bodies)


def test_the_controllers_configuration_has_one_owner():
    found = installs.workflows(settings(), "1")
    assert {"$patch": "delete", **ref("ConfigMap", "workflow-controller-configmap")} in [
        yaml.safe_load(entry["patch"]) for entry in upstream(found)["patches"]
    ]
    (whole,) = found["kustomization.yaml"]
    assert whole["resources"] == ["install", "config/workflow-controller-configmap.yaml"]
    assert upstream(found)["resources"][1:] == ["ingress.yaml", "metrics.yaml"]


def ref(kind, name):
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


@pytest.mark.parametrize(("login", "modes"), [(None, {"client"}), (LOGIN, {"client", "sso"})])
def test_nobody_gets_in_without_a_token_or_a_login(login, modes):
    _, container = server(settings(login=login))
    assert {arg.partition("=")[2] for arg in container["args"] if arg.startswith("--auth-mode")} == modes


def test_a_change_of_the_configuration_starts_a_new_argo_server():
    one, other = (server(settings(login=login))[0]["metadata"] for login in (None, LOGIN))
    assert one != other
    assert one == server(settings())[0]["metadata"]


def test_the_argo_server_reads_no_secret_but_its_own_and_starts_nothing():
    rights = [(rule["resources"], verb) for rule in people.server_rights() for verb in rule["verbs"]]
    assert not [right for right in rights if "secrets" in right[0] or "pods/exec" in right[0]]
    assert {verb for kinds, verb in rights if "workflows" in kinds} == {"get", "list", "watch"}
    assert people.server_secrets(settings()) == []
    role, _ = people.server_secrets(settings(login=LOGIN, addons={"postgresql": True}))
    assert role["metadata"]["namespace"] == "argo"
    read, make = role["rules"]
    assert set(read["resourceNames"]) == {
        *("archive-app", "argo-sso", "sso"),
        *(f"{role}.service-account-token" for role in ("viewer", "trainer", "admin")),
    }
    assert make["verbs"] == ["create"]


def test_runs_are_archived_where_there_is_a_database():
    assert "persistence" not in controller.config_map(settings())["data"]
    found = yaml.safe_load(controller.config_map(settings(addons={"postgresql": True}))["data"]["persistence"])
    assert found["archive"] is True
    assert found["postgresql"]["host"] == "archive-rw.argo.svc"
    assert found["postgresql"]["userNameSecret"] == {"name": "archive-app", "key": "username"}


def test_a_login_comes_back_to_the_argo_ui():
    assert "sso" not in controller.config_map(settings())["data"]
    found = yaml.safe_load(controller.config_map(settings(login=LOGIN))["data"]["sso"])
    assert found["issuer"] == "https://id.example.com"
    assert found["redirectUrl"] == "https://argo.example.com/oauth2/callback"
    assert found["rbac"] == {"enabled": True}


def test_archived_logs_are_read_from_the_store_in_the_cluster():
    assert "env" not in server(settings())[1]
    _, container = server(settings(addons={"storage": True}))
    assert container["env"] == [{"name": "STORAGE_EMULATOR_HOST", "value": "http://storage.storage.svc:4443"}]


@pytest.mark.parametrize(("nodes", "copies"), [(1, 1), (2, 1), (3, 3), (5, 3)])
def test_the_bus_has_three_copies_where_it_can_lose_a_node(nodes, copies):
    given = settings(nodes=[{"name": f"n{n}"} for n in range(nodes)])
    spec = events.event_bus(given)["spec"]["jetstream"]
    assert spec["replicas"] == copies
    assert yaml.safe_load(spec["streamConfig"])["replicas"] == copies
    assert ("affinity" in spec) == (copies > 1)


# ---- people

READ = {"get", "list", "watch"}
START = {*READ, "create", "update", "patch"}
# (role, namespace, resource) → verbs; what is not here, nobody may
MAY = {
    "viewer": {
        ("mlops", "workflows"): READ,
        ("mlops", "pods"): READ,
        ("mlops", "pods/log"): READ,
        ("mlops-release", "workflows"): READ,
        ("argo-events", "sensors"): READ,
    },
    "trainer": {
        ("mlops", "workflows"): START,
        ("mlops", "pods"): {*READ, "delete"},
        ("mlops", "cronworkflows"): READ,
        ("mlops-release", "workflows"): READ,
        ("mlops-release", "pods"): READ,
    },
    "approver": {
        ("mlops-release", "workflows"): START,
        ("mlops", "workflows"): START,
        ("mlops", "workflowtemplates"): READ,
    },
    "admin": {
        ("mlops", "workflows"): {*START, "delete"},
        ("mlops-release", "workflows"): {*START, "delete"},
        ("mlops", "workflowtemplates"): READ,
        ("mlops", "cronworkflows"): {*READ, "update", "patch"},
        ("argo-events", "sensors"): READ,
    },
}


def granted(role):
    """(namespace, resource) → verbs, from the committed Roles, each bound to the account of its name and no other."""
    bodies = list(yaml.safe_load_all((ROOT / "mlops/accounts/people.yaml").read_text()))
    found: dict[tuple[str, str], set[str]] = {}
    for body in bodies:
        meta = body["metadata"]
        if body["kind"] == "RoleBinding":
            assert body["subjects"] == [{"kind": "ServiceAccount", "name": meta["name"], "namespace": "argo"}]
            assert body["roleRef"]["name"] == meta["name"]
        if (body["kind"], meta["name"]) == ("Role", role):
            for rule in body["rules"]:
                for resource in rule["resources"]:
                    found.setdefault((meta["namespace"], resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("role", people.ROLES)
def test_each_role_may_what_the_table_says(role):
    found = granted(role)
    assert {key: found.get(key) for key in MAY[role]} == MAY[role]


@pytest.mark.parametrize("role", people.ROLES)
def test_nobody_has_a_shell_a_wildcard_or_anothers_secret(role):
    found = granted(role)
    assert not [key for key in found if key[1] in ("pods/exec", "pods/attach", "*") or "*" in found[key]]
    assert not [key for key in found if key[0] in ("argo", "argocd")]
    secrets = [right for right in people.rights(settings()) if "secrets" in right.resources]
    assert [(right.names, right.verbs, right.role) for right in secrets] == [(("scratch",), ("get",), "trainer")]


def test_each_role_has_all_that_the_one_before_has():
    for lesser, greater in zip(people.ROLES, people.ROLES[1:], strict=False):
        more = granted(greater)
        assert all(verbs <= more[key] for key, verbs in granted(lesser).items())


def test_groups_stand_for_accounts_and_the_greater_role_wins():
    bodies = [body for body in people.manifests(settings(login=LOGIN)) if body["metadata"]["namespace"] == "argo"]
    notes = {body["metadata"]["name"]: body["metadata"].get("annotations") for body in bodies}
    rule, order = "workflows.argoproj.io/rbac-rule", "workflows.argoproj.io/rbac-rule-precedence"
    assert notes["trainer"] == {rule: '"ml" in groups || "it\'s" in groups', order: "1"}
    assert notes["approver"] is None  # nobody
    assert notes["admin"][order] > notes["viewer"][order]
    tokens = {body["metadata"]["name"] for body in bodies if body["kind"] == "Secret"}
    assert tokens == {f"{role}.service-account-token" for role in ("viewer", "trainer", "admin")}
    assert not [body for body in people.manifests(settings()) if body["kind"] == "Secret"]


# ---- links


def test_a_run_leads_to_its_commit_releases_application_and_models():
    urls = {link["name"]: link["url"] for link in links.of_runs(settings())}
    service = "${workflow.metadata.labels.trainyard/service}"
    assert urls["Releases"] == f"https://github.com/acme/releases/commits/main/services/{service}"
    assert urls["Argo CD"] == f"https://argocd.example.com/applications?search={service}"
    assert urls["Models"].endswith(f"/trainyard-registry/model/{service}")
    assert "Models" not in {link["name"] for link in links.of_runs(settings(addons={"storage": True}))}


def test_a_release_leads_back_to_its_run():
    found = {key: yaml.safe_load(text) for key, text in links.of_releases(settings()).items()}
    (record,) = found["resource.links"]
    assert record["url"] == "https://argo.example.com/workflows/mlops-release/{{ .resource.data.workflow }}"


# ---- nodes


@pytest.mark.parametrize(
    ("nodes", "train", "serve"),
    [
        ([{"name": "box"}], {"box"}, {"box"}),
        ([{"name": "box", "gpu": True}], {"box"}, {"box"}),
        ([{"name": "box"}, {"name": "gpu-1", "gpu": True}], {"box", "gpu-1"}, {"box"}),
        ([{"name": "a", "gpu": True}, {"name": "b", "gpu": True}], {"a", "b"}, {"a", "b"}),
        ([{"name": "a", "roles": ["serve"]}, {"name": "b", "roles": ["train"]}], {"b"}, {"a"}),
        ([{"name": "a", "roles": ["train"]}, {"name": "b", "gpu": True}], {"a", "b"}, {"b"}),
    ],
)
def test_pods_may_run_where_the_node_list_lets_them(nodes, train, serve):
    labels = settings(nodes=nodes).node_labels()
    assert {name for name, found in labels.items() if found["trainyard/train"] != "false"} == train
    assert {name for name, found in labels.items() if found["trainyard/serve"] != "false"} == serve
    with_gpu = {name for name, found in labels.items() if found["nvidia.com/gpu.present"] == "true"}
    assert with_gpu == {node["name"] for node in nodes if node.get("gpu")}
