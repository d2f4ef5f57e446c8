"""The steps of a roll as a pure function: what is promised for any Deployment, and the corners one by one."""

import copy
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from solo.cd import rollout
from solo.cd.rollout import is_ready, owner_uid, template_hash

from .world import deployment

START = datetime(2026, 11, 1, tzinfo=UTC)


class Cluster:
    """Holds what the plans write, and plays the kubelet."""

    def __init__(self, **spec):
        self.deployment = yaml.safe_load(deployment())
        self.deployment["metadata"] |= {"namespace": "x", "uid": "d", "generation": 1}
        self.deployment["spec"] |= spec
        self.objects, self.count, self.at, self.wake, self.ready = {}, 0, START, None, {}

    def step(self, *, resumed=False):
        plan = rollout.plan(
            self.deployment,
            self.sets(),
            self.pods(),
            self.at,
            ready_since=lambda pod: self.ready[name(pod)],
            resumed=resumed,
        )
        for obj in plan.delete:
            del self.objects[name(obj)]
        for obj in plan.create:
            self.count += 1
            obj["metadata"].setdefault("name", f"{obj['metadata'].get('generateName')}{self.count}")
            obj["metadata"].setdefault("uid", str(self.count))
            obj["metadata"]["creationTimestamp"] = f"{self.count:09}"
        for obj in plan.create + plan.update:
            if obj["kind"] == "Deployment":
                self.deployment = obj
            else:
                self.objects[name(obj)] = obj
        self.wake = plan.wake
        return plan

    def settle(self):
        for _ in range(100):
            plan = self.step()
            if not (plan.create or plan.update or plan.delete):
                return self
        raise AssertionError("the plans never end")

    def change(self, **spec):
        self.deployment["spec"] |= spec
        self.deployment["metadata"]["generation"] += 1
        return self

    def image(self, image):
        template = copy.deepcopy(self.deployment["spec"]["template"])
        template["spec"]["containers"][0]["image"] = image
        return self.change(template=template)

    def report(self, pods, *, ready=True, phase="Running"):
        for pod in pods:
            self.ready[name(pod)] = self.at
            pod["status"] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
            if phase == "Failed":
                pod["status"]["finishTime"] = self.at.isoformat()

    def later(self, seconds):
        self.at += timedelta(seconds=seconds)
        return self

    def sets(self):
        return [obj for obj in self.objects.values() if obj["kind"] == "ReplicaSet"]

    def pods(self, image=None):
        pods = [obj for obj in self.objects.values() if obj["kind"] == "Pod"]
        return [pod for pod in pods if image in (None, pod["spec"]["containers"][0]["image"])]

    def full(self):
        """Rolled out and ready."""
        while waiting := [pod for pod in self.settle().pods() if not is_ready(pod)]:
            self.report(waiting)
        return self

    def condition(self, type_="Progressing"):
        return next(entry for entry in self.deployment["status"]["conditions"] if entry["type"] == type_)


def name(obj):
    return obj["metadata"]["name"]


amounts = st.one_of(st.integers(0, 4), st.integers(0, 100).map("{}%".format))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 6), amounts, amounts)
def test_any_roll_stays_within_its_bounds_and_ends(data, replicas, surge, unavailable):
    budget = {"maxSurge": surge, "maxUnavailable": unavailable}
    cluster = Cluster(replicas=replicas, strategy={"type": "RollingUpdate", "rollingUpdate": budget}).full()
    most, least = rollout._budget(cluster.deployment["spec"], replicas)
    cluster.image("app:v2")
    for _ in range(200):
        cluster.step()
        assert len(cluster.pods()) <= replicas + most
        assert sum(map(is_ready, cluster.pods())) >= replicas - least
        starting = [pod for pod in cluster.pods() if not is_ready(pod)]
        if not starting and len(cluster.pods("app:v2")) == replicas:
            break
        if starting:
            cluster.report([data.draw(st.sampled_from(starting))])
    assert len(cluster.pods("app:v2")) == len(cluster.pods()) == replicas
    assert cluster.settle().condition()["reason"] == "NewReplicaSetAvailable"


@settings(max_examples=40)
@given(
    st.integers(1, 6),
    amounts,
    amounts,
    st.lists(st.sampled_from(["app:v1", "app:v2", "app:v3"]), min_size=1, max_size=6),
)
def test_a_version_that_is_never_ready_does_not_cost_more_than_the_bound_and_any_other_recovers(
    replicas, surge, unavailable, images
):
    budget = {"maxSurge": surge, "maxUnavailable": unavailable}
    cluster = Cluster(replicas=replicas, strategy={"rollingUpdate": budget}).full()
    most, least = rollout._budget(cluster.deployment["spec"], replicas)
    for image in images:
        cluster.image(image).settle()
        assert sum(map(is_ready, cluster.pods())) >= replicas - least
        assert len(cluster.pods()) <= replicas + most
    cluster.full()
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.pods()} == {images[-1]}


@given(st.integers(1, 20), st.integers(1, 300))
def test_percentages_round_up_for_surge_and_down_for_unavailable(replicas, percent):
    spec = {"strategy": {"rollingUpdate": {"maxSurge": f"{percent}%", "maxUnavailable": f"{percent}%"}}}
    surge, unavailable = rollout._budget(spec, replicas)
    assert surge - 1 < replicas * percent / 100 <= surge
    assert unavailable <= min(replicas, replicas * percent / 100) < unavailable + 1


def test_the_default_rolls_one_of_one_by_starting_the_second_first():
    cluster = Cluster(replicas=1).full().image("app:v2").settle()
    assert (len(cluster.pods("app:v1")), len(cluster.pods("app:v2"))) == (1, 1)
    cluster.report(cluster.pods("app:v2"))
    cluster.settle()
    assert (len(cluster.pods("app:v1")), len(cluster.pods("app:v2"))) == (0, 1)


def test_pods_are_what_the_runtime_expects():
    cluster = Cluster(replicas=1).settle()
    (replica_set,), (pod,) = cluster.sets(), cluster.pods()
    digest = template_hash(cluster.deployment["spec"]["template"])
    assert name(replica_set) == f"digits-{digest}"
    assert pod["metadata"]["labels"] == {"app": "digits", "pod-template-hash": digest}
    assert owner_uid(pod, "ReplicaSet") == replica_set["metadata"]["uid"]
    assert owner_uid(replica_set, "Deployment") == "d"
    assert pod["spec"]["restartPolicy"] == "Always"
    assert "solo" not in pod
    assert cluster.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"


def test_the_status_counts_as_kubernetes_does():
    cluster = Cluster(replicas=2).settle()
    status = dict(cluster.deployment["status"])
    assert status.pop("conditions")
    assert status == {
        "observedGeneration": 1,
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 0,
        "availableReplicas": 0,
        "unavailableReplicas": 2,
    }
    assert cluster.condition("Available")["status"] == "False"
    assert cluster.full().condition("Available")["status"] == "True"


def test_going_back_uses_the_old_replica_set_under_a_new_revision():
    cluster = Cluster(replicas=1).full()
    first = name(cluster.sets()[0])
    cluster.image("app:v2").full().image("app:v1").full()
    assert len(cluster.sets()) == 2
    assert cluster.objects[first]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


def test_old_replica_sets_are_forgotten_beyond_the_limit():
    cluster = Cluster(replicas=1, revisionHistoryLimit=1)
    for number in range(4):
        cluster.image(f"app:v{number}").full()
    revisions = [obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for obj in cluster.sets()]
    assert sorted(revisions) == ["3", "4"]


def test_a_pod_counts_only_after_min_ready_seconds():
    cluster = Cluster(replicas=1, minReadySeconds=10).settle()
    cluster.report(cluster.pods())
    assert cluster.settle().deployment["status"]["availableReplicas"] == 0
    assert cluster.wake == 10
    assert cluster.later(10).settle().deployment["status"]["availableReplicas"] == 1


def test_a_roll_without_progress_misses_its_deadline_and_the_old_pods_stay():
    cluster = Cluster(replicas=2, progressDeadlineSeconds=30).full().image("app:never").settle()
    assert cluster.condition()["reason"] == "NewReplicaSetCreated"
    assert cluster.wake == 31
    cluster.later(31).settle()
    assert (cluster.condition()["status"], cluster.condition()["reason"]) == ("False", "ProgressDeadlineExceeded")
    assert len(cluster.pods("app:v1")) == 2
    cluster.image("app:v1").settle()
    assert cluster.condition()["reason"] == "NewReplicaSetAvailable"
    assert cluster.pods("app:never") == []


def test_each_progress_gives_the_roll_its_whole_time_again():
    cluster = Cluster(replicas=2, progressDeadlineSeconds=30, strategy={"rollingUpdate": {"maxSurge": 1}}).full()
    cluster.image("app:v2").settle().later(20)
    cluster.report(cluster.pods("app:v2"))
    cluster.settle().later(20).settle()
    assert cluster.condition()["reason"] == "ReplicaSetUpdated"


def test_time_that_nobody_watched_does_not_count_towards_the_deadline():
    cluster = Cluster(replicas=1, progressDeadlineSeconds=30).full().image("app:v2").settle().later(3600)
    cluster.step(resumed=True)
    assert cluster.settle().condition()["reason"] == "ReplicaSetUpdated"
    cluster.later(31).step(resumed=True)
    cluster.later(31).settle()
    assert cluster.condition()["reason"] == "ProgressDeadlineExceeded"
    cluster.step(resumed=True)
    assert cluster.condition()["reason"] == "ProgressDeadlineExceeded"


def test_a_release_that_was_fine_and_breaks_later_does_not_miss_a_deadline():
    cluster = Cluster(replicas=1, progressDeadlineSeconds=30).full()
    cluster.report(cluster.pods(), ready=False)
    cluster.settle().later(100).settle()
    assert cluster.condition()["reason"] == "NewReplicaSetAvailable"
    assert cluster.condition("Available")["status"] == "False"


def test_a_pod_that_fails_is_replaced_at_once_and_then_ever_more_slowly():
    cluster = Cluster(replicas=1).settle()
    pauses = []
    for _ in range(12):
        cluster.report(cluster.pods(), ready=False, phase="Failed")
        failed = cluster.pods()
        cluster.settle()
        pauses.append(cluster.wake if cluster.pods() == failed else 0)
        cluster.later(pauses[-1]).settle()
        assert cluster.pods() != failed
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    cluster.report(cluster.pods())
    cluster.settle()
    cluster.report(cluster.pods(), ready=False, phase="Failed")
    assert cluster.settle().pods()[0].get("status") is None


def test_fewer_replicas_cost_the_pods_that_do_not_serve_first():
    cluster = Cluster(replicas=3).full()
    broken = name(cluster.pods()[0])
    cluster.report(cluster.pods()[:1], ready=False)
    cluster.change(replicas=2).settle()
    assert broken not in map(name, cluster.pods())
    oldest = name(cluster.pods()[0])
    cluster.change(replicas=1).settle()
    assert [oldest] == list(map(name, cluster.pods()))


WRONG = {
    "spec.replicas": {"replicas": -1},
    "spec.paused": {"paused": True},
    "spec.strategy.type": {"strategy": {"type": "Recreate"}},
    "spec.strategy.rollingUpdate.maxSurge": {"strategy": {"rollingUpdate": {"maxSurge": "some"}}},
    "spec.strategy.rollingUpdate.maxUnavailable": {
        "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}
    },
    "spec.progressDeadlineSeconds": {"progressDeadlineSeconds": 5, "minReadySeconds": 5},
    "spec.selector.matchExpressions": {"selector": {"matchLabels": {"app": "digits"}, "matchExpressions": []}},
    "spec.selector.matchLabels.app": {"selector": {"matchLabels": {"app": "other"}}},
    "spec.selector.matchLabels": {"selector": {"matchLabels": {}}},
    "spec.template.spec.containers": {
        "template": {"metadata": {"labels": {"app": "digits"}}, "spec": {"containers": []}}
    },
    "spec.template.spec.restartPolicy": {
        "template": {"metadata": {"labels": {"app": "digits"}}, "spec": {"containers": [], "restartPolicy": "Never"}}
    },
}


@pytest.mark.parametrize(("field", "spec"), WRONG.items(), ids=WRONG.keys())
def test_what_kubernetes_or_solo_refuses_in_a_deployment(field, spec):
    obj = yaml.safe_load(deployment())
    assert list(rollout.check(obj)) == []
    obj["spec"] |= spec
    assert [problem.field for problem in rollout.check(obj)] == [field]
