"""The loop: it hears of changes, writes what comes of them, survives its death, keeps mutexes and time limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_world import FINAL, manifest

from solo import workflows
from solo.store import Store
from solo.workflows import Runner

DEADLINE = 10


class Cluster:
    """A Store with a Runner and a kubelet that ends each Pod as `outcome` says, at once."""

    def __init__(self, path: Path | str = ":memory:", outcome: Callable[[str], str] = lambda name: "Succeeded") -> None:
        self.store, self.outcome = Store(path), outcome
        self.offset = timedelta()
        self.reported: list[str] = []

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def play(self, script: Callable[[Cluster], Awaitable[None]], *, kubelet: bool = True) -> None:
        async def main() -> None:
            runner = Runner(self.store, scratch_bucket="scratch", clock=self.clock)
            tasks = [asyncio.create_task(runner.run())]
            if kubelet:
                tasks.append(asyncio.create_task(self.kubelet()))
            try:
                await asyncio.wait_for(script(self), DEADLINE)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    async def kubelet(self) -> None:
        queue = self.store.subscribe("Pod")
        for pod in self.store.list("Pod"):
            self.end(pod["metadata"]["name"])
        while True:
            change = await queue.get()
            if change.type == "ADDED":
                self.end(change.object["metadata"]["name"])

    def end(self, name: str, phase: str | None = None) -> None:
        pod = self.store.get("Pod", "argo", name)
        if pod.get("status"):
            return
        phase = phase or self.outcome(name)
        if phase == "Hang":
            return
        self.reported.append(name)
        message = "" if phase == "Succeeded" else "Error (exit code 1)"
        outputs = {"exitCode": 0 if phase == "Succeeded" else 1}
        self.store.update({**pod, "status": {"phase": phase, "message": message, "solo": {"outputs": outputs}}})

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Look after each change of a Workflow or Pod."""
        queues = [self.store.subscribe(kind) for kind in ("Workflow", "Pod", "CronWorkflow")]
        while not (result := condition()):
            waiting = [asyncio.create_task(queue.get()) for queue in queues]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        for queue in queues:
            self.store.unsubscribe(queue)
        return result

    def submit(self, text: str) -> None:
        for obj in manifest(text):
            del obj["metadata"]["uid"], obj["metadata"]["creationTimestamp"]
            if obj["kind"] == "Workflow":
                workflows.submit(self.store, obj)
            else:
                self.store.create(obj)

    def phase(self, name: str = "wf") -> str:
        return self.status(name).get("phase", "")

    def status(self, name: str = "wf") -> dict[str, Any]:
        return self.store.get("Workflow", "argo", name).get("status", {})


CHAIN = """
spec:
  entrypoint: main
  onExit: step
  templates:
  - name: main
    dag:
      tasks:
      - {name: a, template: step}
      - {name: b, template: step, depends: a}
      - {name: fan, template: step, depends: b, withItems: [1, 2]}
      - {name: c, template: step, depends: fan}
  - {name: step, retryStrategy: {limit: 2}, container: {image: x, command: [run]}}
"""


def test_a_workflow_runs_to_its_end() -> None:
    cluster = Cluster()

    async def script(cluster: Cluster) -> None:
        cluster.submit(CHAIN)
        await cluster.until(lambda: cluster.phase() in FINAL)

    cluster.play(script)
    assert cluster.phase() == "Succeeded"
    assert len(cluster.reported) == len(set(cluster.reported)) == 6


def test_killed_anywhere_it_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    for reports in range(7):
        path = tmp_path / f"{reports}.db"
        first = Cluster(path)

        async def some(cluster: Cluster, reports: int = reports) -> None:
            cluster.submit(CHAIN)
            await cluster.until(lambda: len(cluster.reported) >= reports)

        first.play(some)
        first.store.close()
        second = Cluster(path)

        async def rest(cluster: Cluster) -> None:
            await cluster.until(lambda: cluster.phase() in FINAL)

        second.play(rest)
        assert second.phase() == "Succeeded"
        assert len(first.reported + second.reported) == len(set(first.reported + second.reported)) == 6
        assert len(second.store.list("Pod")) == 6


def test_retries_and_timers_need_no_outside_help() -> None:
    cluster = Cluster(outcome=lambda name: "Failed")

    async def script(cluster: Cluster) -> None:
        cluster.submit("""
spec:
  entrypoint: main
  templates:
  - {name: main, retryStrategy: {limit: 2, backoff: {duration: 10ms}}, container: {image: x, command: [run]}}
""")
        await cluster.until(lambda: cluster.phase() in FINAL)

    cluster.play(script)
    assert (cluster.phase(), len(cluster.reported)) == ("Failed", 3)


MUTEX = """
metadata: {name: NAME}
spec:
  entrypoint: main
  synchronization: {mutexes: [{name: release-dev}]}
  templates: [{name: main, container: {image: x, command: [run]}}]
"""


def test_a_mutex_lets_them_in_one_after_the_other_in_the_order_they_came() -> None:
    cluster = Cluster()
    order: list[str] = []

    async def script(cluster: Cluster) -> None:
        for name in ("c", "a", "b"):
            cluster.submit(MUTEX.replace("NAME", name))
        await cluster.until(lambda: cluster.phase("b"))
        assert cluster.status("c")["synchronization"] == {
            "mutex": {"holding": [{"mutex": "argo/Mutex/release-dev", "holder": "argo/c"}]}
        }
        assert cluster.status("a")["message"] == "Waiting for argo/Mutex/release-dev lock. Lock status: 0/1"
        assert cluster.phase("a") == "Pending"
        for _ in range(3):
            (pod,) = await cluster.until(lambda: [p for p in cluster.store.list("Pod") if not p.get("status")])
            order.append(pod["metadata"]["name"])
            cluster.end(pod["metadata"]["name"])
        await cluster.until(lambda: all(cluster.phase(name) in FINAL for name in "abc"))

    cluster.play(script, kubelet=False)
    assert order == ["c", "a", "b"]
    assert "synchronization" not in cluster.status("c")
    assert [cluster.phase(name) for name in "abc"] == ["Succeeded"] * 3


def test_who_waits_for_a_mutex_can_be_stopped_and_who_holds_it_deleted() -> None:
    cluster = Cluster()

    async def script(cluster: Cluster) -> None:
        for name in ("a", "b", "c"):
            cluster.submit(MUTEX.replace("NAME", name))
        await cluster.until(lambda: cluster.phase("c"))
        workflows.terminate(cluster.store, "argo", "b")
        await cluster.until(lambda: cluster.phase("b") in FINAL)
        assert cluster.status("b")["message"] == "Stopped with strategy 'Terminate'"
        assert cluster.phase("c") == "Pending"
        workflows.delete(cluster.store, "argo", "a")
        await cluster.until(lambda: cluster.phase("c") == "Running")
        assert [pod["metadata"]["name"] for pod in cluster.store.list("Pod")] == ["c"]

    cluster.play(script, kubelet=False)


def test_a_mutex_of_a_template_holds_its_nodes_back() -> None:
    cluster = Cluster()

    async def script(cluster: Cluster) -> None:
        cluster.submit("""
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {tasks: [{name: a, template: one}, {name: b, template: one}, {name: c, template: other}]}
  - {name: one, synchronization: {mutexes: [{name: m}]}, container: {image: x, command: [run]}}
  - {name: other, container: {image: x, command: [run]}}
""")
        await cluster.until(lambda: len(cluster.store.list("Pod")) == 2)
        nodes = {node["displayName"]: node for node in cluster.status()["nodes"].values()}
        assert nodes["b"]["synchronizationStatus"] == {"waiting": "argo/Mutex/m"}
        assert nodes["b"]["message"] == "Waiting for argo/Mutex/m lock. Lock status: 0/1"
        for pod in cluster.store.list("Pod"):
            cluster.end(pod["metadata"]["name"])
        (last,) = await cluster.until(lambda: [p for p in cluster.store.list("Pod") if not p.get("status")])
        cluster.end(last["metadata"]["name"])
        await cluster.until(lambda: cluster.phase() in FINAL)

    cluster.play(script, kubelet=False)
    assert cluster.phase() == "Succeeded"
    nodes = {node["displayName"]: node for node in cluster.status()["nodes"].values()}
    assert "synchronizationStatus" not in nodes["b"]


def test_stop_reaches_the_pods() -> None:
    cluster = Cluster(outcome=lambda name: "Hang")

    async def script(cluster: Cluster) -> None:
        cluster.submit(MUTEX.replace("NAME", "wf"))
        await cluster.until(lambda: cluster.store.list("Pod"))
        workflows.stop(cluster.store, "argo", "wf")
        await cluster.until(lambda: cluster.phase() in FINAL)

    cluster.play(script)
    assert [pod["solo"]["stop"] for pod in cluster.store.list("Pod")] == [True]
    with pytest.raises(ValueError, match="cannot shutdown a completed workflow"):
        workflows.stop(cluster.store, "argo", "wf")


def test_a_finished_workflow_is_deleted_when_its_time_is_over() -> None:
    cluster = Cluster()
    ttl = "  ttlStrategy: {secondsAfterCompletion: 0, secondsAfterFailure: 3600}\n  entrypoint"

    async def script(cluster: Cluster) -> None:
        cluster.submit(MUTEX.replace("NAME", "wf").replace("  entrypoint", ttl))
        await cluster.until(lambda: cluster.reported and not cluster.store.list("Workflow"))

    cluster.play(script)
    assert cluster.store.list("Pod") == []


def test_a_bug_in_one_workflow_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import solo.workflows.runner as module

    real = module.operate

    def broken(workflow: Any, *args: Any, **options: Any) -> Any:
        if workflow["metadata"]["name"] == "bad":
            raise ZeroDivisionError("oops")
        return real(workflow, *args, **options)

    monkeypatch.setattr(module, "operate", broken)
    cluster = Cluster()

    async def script(cluster: Cluster) -> None:
        for name in ("bad", "good"):
            cluster.submit(MUTEX.replace("NAME", name).replace("release-dev", name))
        await cluster.until(lambda: cluster.phase("good") in FINAL and cluster.phase("bad") in FINAL)

    cluster.play(script)
    assert (cluster.phase("good"), cluster.phase("bad")) == ("Succeeded", "Error")
    assert "oops" in cluster.status("bad")["message"]


@pytest.mark.parametrize("later", range(8))
def test_it_ends_when_told_to_even_as_something_happens(later: int) -> None:
    """`later`: turns of the event loop between the news and the end."""

    async def main() -> None:
        store = Store(":memory:")
        meta = {"namespace": "argo", "name": "yearly"}
        spec = {"schedules": ["0 0 1 1 *"], "workflowSpec": {"workflowTemplateRef": {"name": "none"}}}
        store.apply({"apiVersion": "argoproj.io/v1alpha1", "kind": "CronWorkflow", "metadata": meta, "spec": spec})
        task = asyncio.create_task(Runner(store, scratch_bucket="scratch").run())
        for _ in range(10):
            await asyncio.sleep(0)
        store.apply(
            {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "w", "namespace": "argo"}}
        )
        for _ in range(later):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, "it forgot its end"

    asyncio.run(main())
