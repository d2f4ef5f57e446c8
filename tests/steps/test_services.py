"""What `deploy:` of mlops.yaml makes of a release, and that one service's files are nobody else's matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from step_world import git

from pipelines.config import Deploy
from pipelines.manifests import FILES, SETTINGS
from pipelines.platform import load
from pipelines.templates import render

ROOT = Path(__file__).parents[2]
PLAIN = ["deployment.yaml", "pdb.yaml", "release.yaml", "service.yaml"]


class Folder:
    """What is released of a service to dev."""

    def __init__(self, world, service="digits"):
        self.world, self.path = world, f"services/{service}/dev"

    def files(self):
        return sorted(name.removeprefix(f"{self.path}/") for name in self.world.releases.files() if self.path in name)

    def read(self, name):
        return yaml.safe_load(self.world.releases.show(f"{self.path}/{name}.yaml"))

    def pod(self):
        return self.read("deployment")["spec"]["template"]

    def serving(self):
        (container,) = self.pod()["spec"]["containers"]
        return container

    def tree(self):
        """Git's name of every byte in it."""
        return git(self.world.releases.bare, "rev-parse", f"main:{self.path.rpartition('/')[0]}")


@pytest.fixture
def deployed(world):
    def deploy(**knobs):
        world.released(deploy=knobs)
        return Folder(world)

    return deploy


def test_the_simplest_service_has_a_fixed_number_of_pods_and_no_settings(deployed):
    found = deployed()
    assert found.files() == PLAIN
    assert found.read("deployment")["spec"]["replicas"] == 1
    assert found.pod()["metadata"]["annotations"].keys() == {"trainyard/lock", "trainyard/sha"}
    assert "envFrom" not in found.serving()
    assert found.serving()["resources"] == {
        "requests": {"cpu": "50m", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }


def test_the_container_that_fetches_the_model_asks_for_no_more_processor_than_serving(deployed):
    folder = deployed(resources={"cpu": "20m"})
    (fetch,) = folder.pod()["spec"]["initContainers"]
    asked = [container["resources"]["requests"]["cpu"] for container in (fetch, folder.serving())]
    assert asked == ["20m", "20m"]


def test_a_node_with_the_only_pod_can_be_drained(deployed):
    assert deployed(replicas=1).read("pdb")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("spread", "keys"),
    [
        ("node", ["kubernetes.io/hostname"]),
        ("zone", ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]),
        ("none", []),
    ],
)
def test_pods_are_kept_apart_where_there_is_room_and_run_where_there_is_none(deployed, spread, keys):
    found = deployed(replicas=3, spread=spread).pod()
    constraints = found["spec"].get("topologySpreadConstraints", [])
    assert [entry["topologyKey"] for entry in constraints] == keys
    assert all(entry["whenUnsatisfiable"] == "ScheduleAnyway" for entry in constraints)
    assert all(
        entry["labelSelector"]["matchLabels"].items() <= found["metadata"]["labels"].items() for entry in constraints
    )


def test_the_autoscaler_alone_says_how_many_pods_there_are(deployed):
    found = deployed(scale={"min": 2, "max": 6, "cpu": 60}, resources={"cpu": "500m", "memory": "1Gi"})
    assert "replicas" not in found.read("deployment")["spec"]
    scaler = found.read("hpa")
    assert (scaler["apiVersion"], scaler["kind"]) == ("autoscaling/v2", "HorizontalPodAutoscaler")
    assert scaler["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits"},
        "minReplicas": 2,
        "maxReplicas": 6,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
            }
        ],
    }
    assert found.serving()["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}  # what 60 per cent are of


def test_what_the_autoscaler_says_of_itself_takes_no_release_back(deployed):
    annotations = deployed(scale={"max": 2}).read("hpa")["metadata"]["annotations"]
    assert annotations == {"argocd.argoproj.io/ignore-healthcheck": "true"}


def test_a_changed_setting_starts_new_pods_and_the_same_settings_do_not(deployed):
    found = deployed(env={"THREADS": "2", "GREETING": "hello: you"})
    assert found.read("env")["metadata"]["name"] == "digits-env"
    assert found.read("env")["data"] == {"THREADS": "2", "GREETING": "hello: you"}
    assert found.serving()["envFrom"] == [{"configMapRef": {"name": "digits-env"}}]
    first = found.pod()["metadata"]["annotations"][SETTINGS]
    assert first.startswith("sha256:")
    assert deployed(env={"GREETING": "hello: you", "THREADS": "2"}).pod()["metadata"]["annotations"][SETTINGS] == first
    assert deployed(env={"GREETING": "hello: you", "THREADS": "3"}).pod()["metadata"]["annotations"][SETTINGS] != first


def test_a_secret_is_named_and_its_value_is_nowhere(deployed):
    found = deployed(secrets=["TOKEN"])
    assert found.files() == PLAIN
    entry = next(entry for entry in found.serving()["env"] if entry["name"] == "TOKEN")
    assert entry == {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "digits-secrets", "key": "TOKEN"}}}
    assert "digits-secrets" not in str(found.pod()["spec"]["initContainers"])


def test_only_what_the_contract_asks_for_now_stays_in_the_folder(deployed):
    assert deployed(scale={"max": 3}, env={"A": "b"}).files() == sorted(FILES)
    assert deployed(replicas=2).files() == PLAIN


def test_a_release_that_was_taken_back_leaves_its_files_nowhere(world):
    _, good = world.released(deploy={"replicas": 1})
    _, bad = world.released(deploy={"scale": {"max": 3}, "env": {"A": "b"}})
    from pipelines.steps._step import StepFailedError
    from pipelines.steps.verify import revert

    _, found = world.inspect(bad, before=good)
    with pytest.raises(StepFailedError, match="is taken back"):
        revert(targets=found["targets"], commit=bad)
    assert Folder(world).files() == PLAIN
    assert "replicas" in Folder(world).read("deployment")["spec"]


KNOBS = [{"replicas": 4}, {"scale": {"max": 3}}, {"env": {"A": "b"}}, {"secrets": ["A"]}, {"spread": "none"}]


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: next(iter(knobs)))
def test_another_services_knobs_leave_every_byte_of_a_release(world, knobs):
    world.released()
    before = Folder(world).tree()
    world.released("iris")
    world.released("iris", deploy=knobs)
    assert Folder(world).tree() == before


def test_the_knobs_that_are_tried_are_those_that_there_are():
    known = Deploy.model_fields.keys() - {"max_surge", "max_unavailable", "resources"}  # numbers in the Deployment too
    assert {key for knobs in KNOBS for key in knobs} == known


# the list of services stands in these; each has a reason to know it
SHARED = {
    "argocd/projects/services.yaml",  # where Argo CD may deploy
    "argocd/projects/platform.yaml",  # where it may make namespaces, with their quotas and network
    "mlops/config/mlops.yaml",  # what reconcile looks after
    "mlops/config/mlops-build.yaml",  # the same ConfigMap, for the other namespaces
    "mlops/config/mlops-release.yaml",
    "mlops/sensors/ci.yaml",  # which repository's push starts what
    "mlops/sensors/ct.yaml",
    "mlops/sensors/release.yaml",
    "argo-events/sources/github.yaml",  # which repositories may send
    "applications/monitoring/monitors.yaml",  # where models are served that Prometheus asks
}


def test_one_more_service_changes_its_own_files_and_the_lists_of_services(tmp_path):
    text = (ROOT / "platform.yaml").read_text()
    line = next(line for line in text.splitlines() if line.lstrip().startswith("- {repo: acme/digits"))
    other = "  - {repo: acme/iris, name: iris, environments: [dev, prod]}"
    (tmp_path / "platform.yaml").write_text(text.replace(line, f"{line}\n{other}"))
    assert len(load(tmp_path / "platform.yaml").services) == len(load(ROOT / "platform.yaml").services) + 1
    before, after = render.render(), render.render(tmp_path / "platform.yaml")
    assert before.keys() - after.keys() == set()
    assert {name.rpartition("/")[0] for name in after.keys() - before.keys()} == {
        "applications/services/iris-dev",
        "applications/services/iris-prod",
    }
    assert {name for name in before if before[name] != after[name]} == SHARED
