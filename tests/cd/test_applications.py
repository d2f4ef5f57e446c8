"""What an Application does with a commit: apply, prune, heal, and leave alone what it cannot read."""

import asyncio
import hashlib
import hmac
import json
import shutil

import httpx
import pytest
from starlette.applications import Starlette

from solo.cd import check, delete

from .world import REPOSITORY, SERVICE, application, config_map, deployment, project, release, until

pytestmark = pytest.mark.anyio


async def test_a_commit_becomes_objects_with_the_status_that_argo_cd_writes(released):
    status = released.status()
    assert status["sync"]["revision"] == released.first
    assert status["sync"]["comparedTo"]["source"]["path"] == "digits/dev"
    assert [(row["kind"], row["status"]) for row in status["resources"]] == [
        ("ConfigMap", "Synced"),
        ("Deployment", "Synced"),
        ("Service", "Synced"),
    ]
    operation = status["operationState"]
    assert (operation["phase"], operation["message"]) == ("Succeeded", "successfully synced (all tasks run)")
    assert operation["syncResult"]["revision"] == released.first
    assert [row["message"] for row in operation["syncResult"]["resources"]] == [
        "configmap/digits-release created",
        "deployment.apps/digits created",
        "service/digits created",
    ]
    assert [(entry["id"], entry["revision"]) for entry in status["history"]] == [(0, released.first)]
    assert status["summary"] == {"images": ["app:v1"]}
    assert status["conditions"] == []
    assert status["reconciledAt"].endswith("Z")
    assert released.store.find("Namespace", "", "digits-dev")
    tracked = released.store.get("Deployment", "digits-dev", "digits")["metadata"]["annotations"]
    assert tracked["argocd.argoproj.io/tracking-id"] == "digits-dev:apps/Deployment:digits-dev/digits"


async def test_the_next_commit_is_a_new_generation_and_the_next_entry_of_the_history(released):
    sha = await released.push(release("app:v2"))
    await released.deployed(sha)
    await until(lambda: released.images() == ["app:v2", "app:v2"])
    assert released.store.get("Deployment", "digits-dev", "digits")["metadata"]["generation"] == 2
    assert [entry["id"] for entry in released.status()["history"]] == [0, 1]


async def test_a_commit_elsewhere_in_the_repository_only_moves_the_revision(released):
    operation = released.status()["operationState"]
    sha = await released.push({"other/file.yaml": "not: ours\n"})
    await until(lambda: released.status()["sync"]["revision"] == sha)
    assert released.state() == ("Synced", "Healthy")
    assert released.status()["operationState"] == operation
    assert len(released.status()["history"]) == 1


BAD = {
    "YAML that does not parse": ("a: [1\nb: 2\n", "digits/dev/bad.yaml:2: "),
    "a document that is no object": ("- 1\n", "digits/dev/bad.yaml:1: not a Kubernetes object"),
    "an object without a kind": (
        "apiVersion: v1\nmetadata: {name: x}\n",
        "bad.yaml:1: not a Kubernetes object: 'kind'",
    ),
    "a kind that solo cannot deploy": (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n",
        "bad.yaml:2: kind: Job is not a kind that solo can deploy",
    ),
    "a version that is gone": (
        "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: x}\n",
        "bad.yaml:1: apiVersion: Deployment is known as apps/v1",
    ),
    "a misspelt field": (
        deployment().replace("replicas", "replica"),
        "bad.yaml:6: spec.replica: is not supported: did you mean replicas?",
    ),
    "a number where text belongs": (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  good: '1'\n  port: 8080\n",
        "bad.yaml:6: data.port: must be text, not 8080",
    ),
    "a key given twice": ("kind: A\nkind: B\n", "bad.yaml:2: the key 'kind' is given twice"),
    "the same object twice": (
        config_map("digits-release"),
        "digits/dev/release.yaml:1: ConfigMap 'digits-release' is in",
    ),
    "a name that is not allowed": (config_map("Digits_1"), "bad.yaml:3: metadata.name: 'Digits_1' is not a valid name"),
    "a hook": (
        config_map("x").replace("name: x", "name: x, annotations: {argocd.argoproj.io/hook: PreSync}"),
        "bad.yaml:3: metadata.annotations.argocd.argoproj.io/hook: is not supported",
    ),
    "text that is not UTF-8": (b"a: 1\nb: \xff\n", "bad.yaml:2: not UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
async def test_a_revision_that_cannot_be_used_changes_nothing(released, text, message):
    before = released.store.list("Deployment") + released.store.list("ConfigMap")
    await released.push(release("app:v2") | {"digits/dev/bad.yaml": text})
    await until(lambda: released.state()[0] == "Unknown")
    assert released.conditions() == ["ComparisonError"]
    assert message in released.message()
    assert released.state() == ("Unknown", "Healthy")
    assert {row["status"] for row in released.status()["resources"]} == {"Unknown"}
    assert released.store.list("Deployment") + released.store.list("ConfigMap") == before
    assert await released.get() == (200, "v1")


async def test_a_bad_manifest_taken_back_is_synced_again(released):
    await released.push({"digits/dev/bad.yaml": "{"})
    await until(lambda: released.state()[0] == "Unknown")
    sha = await released.push({"digits/dev/bad.yaml": None})
    await released.deployed(sha)
    assert released.conditions() == []


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "digits/dev/kustomization.yaml": "solo does not run kustomize",
        "digits/dev/Chart.yaml": "solo does not run Helm",
        "digits/dev/main.jsonnet": "solo does not run Jsonnet",
    }.items(),
)
async def test_what_would_need_a_tool_is_refused_with_its_name(released, name, message):
    await released.push({name: "{}"})
    await until(lambda: released.state()[0] == "Unknown")
    assert f"{name}: {message}" in released.message()


async def test_links_and_submodules_are_refused(released):
    (released.repository.path / "digits/dev/link.yaml").symlink_to("/etc/hostname")
    await released.push({})
    await until(lambda: released.state()[0] == "Unknown")
    assert "digits/dev/link.yaml: a symbolic link; solo reads plain files only" in released.message()
    await released.push({"digits/dev/link.yaml": None})
    await until(lambda: released.state()[0] == "Synced")
    released.repository.git("update-index", "--add", "--cacheinfo", f"160000,{released.first},digits/dev/more")
    released.repository.git("commit", "-qm", "submodule")
    await released.applications.webhook({"repository": {"full_name": "acme/releases"}})
    await until(lambda: released.state()[0] == "Unknown")
    assert "digits/dev/more: solo does not read submodules" in released.message()


async def test_a_path_that_is_gone_prunes_nothing(released):
    await released.push(dict.fromkeys(release(), None) | {"README": "empty"})
    await until(lambda: released.state() == ("Unknown", "Healthy"))
    assert "digits/dev: app path does not exist" in released.message()
    assert await released.get() == (200, "v1")


async def test_a_path_without_objects_prunes_nothing(released):
    sha = await released.push(dict.fromkeys(release(), None) | {"digits/dev/README": "empty"})
    await until(lambda: released.state() == ("OutOfSync", "Healthy"))
    assert released.message() == f"Skipping sync attempt to {sha}: auto-sync will wipe out all resources"
    assert {row.get("requiresPruning") for row in released.status()["resources"]} == {True}
    assert await released.get() == (200, "v1")


async def test_what_a_commit_removes_is_pruned_and_nothing_else(released):
    metadata = {"name": "somebody-elses", "namespace": "digits-dev"}
    released.store.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    sha = await released.push({"digits/dev/release.yaml": None})
    await released.deployed(sha)
    assert [obj["metadata"]["name"] for obj in released.store.list("ConfigMap")] == ["somebody-elses"]
    rows = released.status()["operationState"]["syncResult"]["resources"]
    assert [row["message"] for row in rows if row["status"] == "Pruned"] == ["pruned"]


async def test_without_prune_the_rest_stays_and_is_reported(world):
    world.repository.commit(release())
    world.store.create(application(syncPolicy=policy(prune=False)))
    await until(lambda: world.state() == ("Synced", "Healthy"))
    await world.push({"digits/dev/release.yaml": None})
    await until(lambda: world.state() == ("OutOfSync", "Healthy"))
    assert world.store.find("ConfigMap", "digits-dev", "digits-release")


async def test_a_change_by_hand_is_healed(released):
    released.kubelet.started.clear()
    live = released.store.get("ConfigMap", "digits-dev", "digits-release")
    live["data"] = {"key": "by hand"}
    ago = released.app()
    ago["status"]["operationState"]["finishedAt"] = "2026-01-01T00:00:00Z"  # beyond the pause between two healings
    released.store.update(ago)
    released.store.update(live)
    await until(lambda: released.store.get("ConfigMap", "digits-dev", "digits-release")["data"] == {"key": "app:v1"})
    assert len(released.status()["history"]) == 1


async def test_without_self_heal_a_change_by_hand_is_only_reported(world):
    world.repository.commit(release())
    world.store.create(application(syncPolicy=policy(selfHeal=False)))
    await until(lambda: world.state() == ("Synced", "Healthy"))
    world.store.delete("ConfigMap", "digits-dev", "digits-release")
    await until(lambda: world.state() == ("OutOfSync", "Missing"))
    sha = await world.push({"digits/dev/more.yaml": config_map("more")})
    await world.deployed(sha)


async def test_the_same_webhook_twenty_times_is_one_sync(released):
    sha = released.repository.commit(release("app:v2"))
    payload = {"repository": {"full_name": "acme/releases", "clone_url": f"{REPOSITORY}.git"}}
    for found in await asyncio.gather(*(released.applications.webhook(payload) for _ in range(20))):
        assert found == ["digits-dev"]
    await released.deployed(sha)
    await until(lambda: released.images() == ["app:v2", "app:v2"])
    assert len(released.status()["history"]) == 2
    assert len(released.kubelet.started) == 4


async def test_a_push_to_another_repository_is_not_ours(released):
    assert await released.applications.webhook({"repository": {"full_name": "acme/digits"}}) == []
    assert await released.applications.webhook({"zen": "no repository"}) == []


async def test_the_webhook_endpoint_wants_a_signature(released):
    sha = released.repository.commit(release("app:v2"))
    body = json.dumps({"repository": {"full_name": "acme/releases"}}).encode()
    app = Starlette(routes=released.applications.routes("secret"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://argocd") as client:

        async def post(body, secret=b"secret", event="push"):
            signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
            headers = {"X-Hub-Signature-256": signature, "X-GitHub-Event": event}
            response = await client.post("/api/webhook", content=body, headers=headers)
            return response.status_code, response.text

        assert (await client.post("/api/webhook", content=body)).status_code == 400
        assert await post(body, b"wrong") == (400, "X-Hub-Signature-256 is missing or wrong\n")
        assert await post(body, event="ping") == (200, "pong\n")
        assert await post(body, event="star") == (400, "unknown webhook event 'star'\n")
        assert await post(b"[]") == (400, "the payload is not a JSON object\n")
        assert await post(b"\xff") == (400, "the payload is not a JSON object\n")
        assert released.status()["sync"]["revision"] == released.first
        assert await post(body) == (200, "refreshing digits-dev\n")
    await released.deployed(sha)


async def test_a_repository_that_does_not_exist(world):
    app = application()
    app["spec"]["source"]["repoURL"] = str(world.home / "nowhere.git")
    world.store.apply(project(sourceRepos=["*"]))
    world.store.create(app)
    await until(lambda: world.state() == ("Unknown", "Healthy"))
    assert "Failed to load target state" in world.message()
    assert "nowhere.git" in world.message()
    assert "does not" in world.message()


async def test_a_fetch_that_fails_is_tried_again_as_often_as_the_policy_says(world):
    away = world.repository.path.with_name("away")
    world.repository.commit(release())
    world.repository.path.rename(away)
    retry = {"limit": 2, "backoff": {"duration": "1s", "factor": 1, "maxDuration": "1s"}}
    world.store.create(application(syncPolicy=policy() | {"retry": retry}))
    await until(lambda: world.conditions() == ["ComparisonError"])
    away.rename(world.repository.path)
    await until(lambda: world.state() == ("Synced", "Healthy"))


async def test_a_branch_that_does_not_exist(world):
    world.repository.commit(release())
    app = application()
    app["spec"]["source"]["targetRevision"] = "stage"
    world.store.create(app)
    await until(lambda: world.conditions() == ["ComparisonError"])
    assert "unable to resolve 'stage' to a commit SHA" in world.message()
    world.repository.git("branch", "stage")
    await world.applications.webhook({"repository": {"full_name": "acme/releases"}})
    await until(lambda: world.state() == ("Synced", "Healthy"))


@pytest.mark.parametrize("revision", ["HEAD", "", "v1", "refs/heads/main"])
async def test_ways_to_name_a_revision(world, revision):
    sha = world.repository.commit(release())
    world.repository.git("tag", "v1")
    app = application()
    app["spec"]["source"]["targetRevision"] = revision
    world.store.create(app)
    await world.deployed(sha)


async def test_a_force_push_is_followed(released):
    sha = released.repository.git("commit-tree", "-m", "anew", f"{released.first}^{{tree}}")
    released.repository.git("reset", "-q", "--hard", sha)
    await released.applications.webhook({"repository": {"full_name": "acme/releases"}})
    await released.deployed(sha)


async def test_a_damaged_mirror_is_made_again(released):
    (mirror,) = (released.home / "cd").iterdir()
    (mirror / "refs/heads/main.lock").write_text("")  # what a killed fetch leaves behind
    await released.deployed(await released.push(release("app:v2")))
    shutil.rmtree(mirror)
    await released.deployed(await released.push(release("app:v3")))


async def test_directories_below_are_read_only_when_asked_for(world):
    c = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})
    world.repository.commit({"all/a.yaml": config_map("a"), "all/below/b.yml": config_map("b"), "all/c.json": c})
    for name, directory in {"flat-dev": {}, "deep-dev": {"recurse": True}}.items():
        app = application(name)
        app["spec"]["source"] |= {"path": "./all/", "directory": directory}
        world.store.create(app)
        await until(lambda name=name: world.state(name) == ("Synced", "Healthy"))
    found = [(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in world.store.list("ConfigMap")]
    assert found == [("deep-dev", "a"), ("deep-dev", "b"), ("deep-dev", "c"), ("flat-dev", "a"), ("flat-dev", "c")]


FORBIDDEN = {
    "a kind that the project does not list": (
        {"digits/dev/more.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n"},
        "resource :ServiceAccount is not permitted in project services",
    ),
    "a namespace of somebody else": (
        {"digits/dev/more.yaml": config_map("x").replace("name: x", "name: x, namespace: argocd")},
        "namespace argocd is not permitted in project 'services'",
    ),
    "a namespace that does not exist": (
        {"digits/dev/more.yaml": config_map("x").replace("name: x", "name: x, namespace: other-dev")},
        'namespaces "other-dev" not found',
    ),
    "a selector that cannot change": (
        {"digits/dev/deployment.yaml": deployment("app:v2").replace("app: digits", "app: other")},
        "spec.selector: field is immutable",
    ),
}


@pytest.mark.parametrize(("files", "message"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_what_the_project_or_the_cluster_forbids_fails_the_sync_as_a_whole(released, files, message):
    sha = await released.push(release("app:v2") | files)
    await until(lambda: released.state() == ("OutOfSync", "Healthy") or released.state() == ("OutOfSync", "Missing"))
    operation = released.status()["operationState"]
    assert operation["phase"] == "Failed"
    assert message in operation["message"]
    assert {row["status"] for row in operation["syncResult"]["resources"]} == {"SyncFailed"}
    assert released.conditions() == ["SyncError"]
    assert released.message().startswith(f"Failed last sync attempt to {sha}")
    assert len(released.status()["history"]) == 1
    assert await released.get() == (200, "v1")


async def test_a_project_that_learns_to_allow_it_lets_the_failed_sync_pass(released):
    sha = await released.push({"digits/dev/more.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n"})
    await until(lambda: released.status()["operationState"]["phase"] == "Failed")
    changed = project()
    changed["spec"].pop("namespaceResourceWhitelist")
    released.store.apply(changed)
    await released.deployed(sha)


async def test_another_applications_object_is_left_alone(released):
    before = released.store.get("ConfigMap", "digits-dev", "digits-release")
    released.repository.commit({"thief/more.yaml": config_map("digits-release", "stolen")})
    app = application("thief")
    app["spec"]["source"]["path"] = "thief"
    app["spec"]["destination"]["namespace"] = "digits-dev"
    released.store.create(app)
    await until(lambda: "is part of applications thief and digits-dev" in released.message("thief"))
    assert released.store.get("ConfigMap", "digits-dev", "digits-release") == before


INVALID = {
    "repository": (
        {"sourceRepos": ["https://github.com/other/*"]},
        f"application repo {REPOSITORY}.git is not permitted",
    ),
    "namespace": (
        {"destinations": [{"server": "*", "namespace": "other-*"}]},
        "and namespace 'digits-dev' do not match any of the allowed destinations in project 'services'",
    ),
    "roles": ({"roles": []}, "project services: spec.roles: is not supported"),
}


@pytest.mark.parametrize(("changes", "message"), INVALID.values(), ids=INVALID.keys())
async def test_an_application_that_its_project_refuses(released, changes, message):
    released.store.apply(project(**changes))
    await until(lambda: released.state() == ("Unknown", "Unknown"))
    assert released.conditions() == ["InvalidSpecError"]
    assert message in released.message()
    assert await released.get() == (200, "v1")
    released.store.apply(project())
    await released.deployed(released.first)


async def test_a_project_that_does_not_exist(world):
    world.store.create(application(project="nobody"))
    await until(lambda: world.state() == ("Unknown", "Unknown"))
    assert world.message() == "Application referencing project nobody which does not exist"


REFUSED = {
    "spec.source.helm": lambda app: app["spec"]["source"].update(helm={}),
    "spec.source.path": lambda app: app["spec"]["source"].update(path="../elsewhere"),
    "spec.sources": lambda app: app["spec"].update(sources=[]),
    "spec.destination.name": lambda app: app["spec"]["destination"].update(name="in-cluster"),
    "spec.destination.server": lambda app: app["spec"]["destination"].update(server="https://10.0.0.1"),
    "spec.ignoreDifferences": lambda app: app["spec"].update(ignoreDifferences=[]),
    "spec.syncPolicy.automated": lambda app: app["spec"].update(syncPolicy={}),
    "spec.syncPolicy.automated.allowEmpty": lambda app: app["spec"]["syncPolicy"]["automated"].update(allowEmpty=True),
    "spec.syncPolicy.syncOptions[2]": lambda app: app["spec"]["syncPolicy"]["syncOptions"].append("Replace=true"),
    "spec.syncPolicy.retry.limit": lambda app: app["spec"]["syncPolicy"].update(retry={"limit": -1}),
    "spec.syncPolicy.retry.backoff.duration": lambda app: app["spec"]["syncPolicy"].update(
        retry={"limit": 1, "backoff": {"duration": "soon"}}
    ),
    "metadata.namespace": lambda app: app["metadata"].update(namespace="mlops"),
    "metadata.annotations.argocd.argoproj.io/skip-reconcile": lambda app: app["metadata"].update(
        annotations={"argocd.argoproj.io/skip-reconcile": "true"}
    ),
    "operation": lambda app: app.update(operation={}),
    "spec": lambda app: app.pop("spec"),
}


@pytest.mark.parametrize(("field", "change"), REFUSED.items(), ids=REFUSED.keys())
async def test_what_solo_does_not_honour_in_an_application_is_refused_by_field(field, change):
    app = application()
    assert check(app) == []
    change(app)
    assert [problem.field for problem in check(app)] == [field]


async def test_an_application_that_cannot_be_honoured_says_so_in_its_status(world):
    app = application()
    del app["spec"]
    world.store.create(app)
    await until(lambda: world.conditions() == ["InvalidSpecError"])
    assert world.message() == "spec: is missing"
    assert await world.applications.webhook({"repository": {"full_name": "acme/releases"}}) == []


async def test_deleting_an_application_leaves_what_it_deployed(released):
    delete(released.store, "digits-dev")
    assert await released.get() == (200, "v1")


async def test_deleting_an_application_with_the_finalizer_takes_all_of_it_along(released):
    app = released.app()
    app["metadata"]["finalizers"] = ["resources-finalizer.argocd.argoproj.io"]
    released.store.update(app)
    delete(released.store, "digits-dev")
    await until(lambda: released.images() == [])
    for kind in ("Deployment", "ReplicaSet", "Service", "ConfigMap"):
        assert released.store.list(kind) == []
    await until(lambda: released.services.address("digits-dev", "digits", 8080) is None)


async def test_a_restart_reads_git_again_and_does_nothing_twice(released):
    operation, started = released.status()["operationState"], list(released.kubelet.started)
    await released.stop()
    sha = released.repository.commit({"digits/dev/more.yaml": config_map("more")})
    released.start()
    await released.deployed(sha)
    await released.restart()
    await until(lambda: released.services.address("digits-dev", "digits", 8080))
    assert await released.get() == (200, "v1")
    assert released.status()["operationState"]["syncResult"]["revision"] == sha
    assert operation["syncResult"]["revision"] == released.first
    assert [entry["id"] for entry in released.status()["history"]] == [0, 1]
    assert released.kubelet.started == started


async def test_more_checks_come_with_the_file_and_line(world):
    world.applications._check = lambda obj: [("spec.ports[0].port", "is not liked")] if obj["kind"] == "Service" else []
    world.repository.commit(release())
    world.store.create(application())
    await until(lambda: world.conditions() == ["ComparisonError"])
    line = next(i for i, text in enumerate(SERVICE.splitlines(), 1) if "port:" in text)
    assert f"digits/dev/service.yaml:{line}: spec.ports[0].port: is not liked" in world.message()


def policy(*, prune=True, selfHeal=True):
    return {"automated": {"prune": prune, "selfHeal": selfHeal}, "syncOptions": ["CreateNamespace=true"]}


SCALER = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: digits
  annotations: {argocd.argoproj.io/ignore-healthcheck: "true"}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: digits}
  minReplicas: 2
  maxReplicas: 4
"""


async def test_an_autoscaler_is_applied_and_its_deployment_runs_one_pod(world):
    kinds = project()["spec"]["namespaceResourceWhitelist"]
    scaling = [{"group": "autoscaling", "kind": "HorizontalPodAutoscaler"}]
    world.store.update(
        world.store.get("AppProject", "argocd", "services") | project(namespaceResourceWhitelist=kinds + scaling)
    )
    scaled = deployment().replace("  replicas: 2\n", "")
    world.store.create(application())
    sha = world.repository.commit(release() | {"digits/dev/deployment.yaml": scaled, "digits/dev/hpa.yaml": SCALER})
    await world.deployed(sha)
    assert world.images() == ["app:v1"]
    rows = {row["kind"]: row["status"] for row in world.status()["resources"]}
    assert rows["HorizontalPodAutoscaler"] == "Synced"


async def test_the_health_of_an_object_that_says_so_does_not_count(released):
    text = deployment("app:never").replace(
        "name: digits\n", 'name: digits\n  annotations: {argocd.argoproj.io/ignore-healthcheck: "true"}\n', 1
    )
    sha = await released.push(release() | {"digits/dev/deployment.yaml": text})
    await until(lambda: "app:never" in released.images())
    await released.deployed(sha)
