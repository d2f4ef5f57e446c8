"""Releases under load and under failures, all three loops together, with real processes where it matters."""

import asyncio
import time

import pytest

from solo.cd import delete

from .world import World, answer, application, deployment, project, release, until

pytestmark = pytest.mark.anyio


class Load:
    """Clients that never pause: some keep their connection as long as they may, some open one per request."""

    def __init__(self, address, *, keeping, opening):
        self.address, self.failures, self.versions = address.split(":"), [], {}
        self.tasks = [asyncio.create_task(self.client(keep=True)) for _ in range(keeping)]
        self.tasks += [asyncio.create_task(self.client(keep=False)) for _ in range(opening)]

    async def client(self, *, keep):
        reader = writer = None
        while True:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(*self.address)
                writer.write(b"GET / HTTP/1.1\r\nHost: digits\r\n\r\n")
                status, body, again = await answer(reader)
                assert status == 200, body
                self.versions[body] = self.versions.get(body, 0) + 1
            except Exception as error:
                self.failures.append(repr(error))
                again = False
            if not (again and keep) and writer is not None:
                writer.close()
                writer = None
            await asyncio.sleep(0.002)

    async def sees(self, version):
        """Wait for further answers of one version only."""
        await until(lambda: self.versions.get(version, 0) > 20)
        self.versions.clear()
        await until(lambda: sum(self.versions.values()) > 50)
        assert set(self.versions) == {version}

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.slow
async def test_rolls_under_load_fail_no_request(tmp_path):
    async with World(tmp_path, processes=True) as world:
        world.store.create(project())
        await world_with_v1(world)
        load = Load(world.services.address("digits-dev", "digits", 8080), keeping=4, opening=4)
        for version in ("v2", "v3"):
            sha = await world.push(release(f"app:{version}"))
            await world.deployed(sha)
            await until(lambda version=version: world.images() == [f"app:{version}"] * 2)
            await asyncio.sleep(0.5)  # the drain of the pods that left
            await load.sees(version)
        await load.stop()
        assert load.failures == []


async def test_a_release_that_is_never_ready_is_degraded_and_the_old_one_serves(released):
    await released.push(release("app:never", progressDeadlineSeconds=1))
    await until(lambda: released.state() == ("Synced", "Progressing"))
    assert await released.get() == (200, "v1")
    await until(lambda: released.state() == ("Synced", "Degraded"))
    assert released.images() == ["app:never", "app:v1", "app:v1"]
    assert await released.get() == (200, "v1")
    released.repository.git("revert", "--no-edit", "HEAD")
    await released.applications.webhook({"repository": {"full_name": "acme/releases"}})
    sha = released.repository.git("rev-parse", "HEAD")
    await released.deployed(sha)
    assert released.images() == ["app:v1", "app:v1"]
    assert [entry["id"] for entry in released.status()["history"]] == [0, 1, 2]
    assert await released.get() == (200, "v1")


async def test_a_release_whose_pods_fail_is_degraded_too(released):
    await released.push(release("app:fails", progressDeadlineSeconds=1))
    await until(lambda: released.state() == ("Synced", "Degraded"))
    assert len(released.kubelet.started) < 8
    assert await released.get() == (200, "v1")


async def test_one_of_two_pods_that_dies_is_replaced(released):
    pod = released.store.list("Pod")[0]
    released.kubelet.report(pod, "Failed", ready=False)
    await until(lambda: pod["metadata"]["uid"] not in {p["metadata"]["uid"] for p in released.store.list("Pod")})
    await released.deployed(released.first)
    assert released.images() == ["app:v1", "app:v1"]


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.04, 0.06, 0.1])
async def test_solo_killed_during_a_roll_goes_on_where_it_was(released, seconds):
    started = time.monotonic()
    sha = await released.push(release("app:v2", replicas=4))
    while time.monotonic() < started + seconds:
        await asyncio.sleep(0.001)
    await released.restart()
    await released.deployed(sha)
    await until(lambda: released.images() == ["app:v2"] * 4)
    assert len(released.kubelet.started) == 2 + 4
    assert [entry["revision"] for entry in released.status()["history"]] == [released.first, sha]
    await until(lambda: released.services.address("digits-dev", "digits", 8080))
    assert await released.get() == (200, "v2")


async def test_the_application_deleted_during_a_roll_takes_all_pods_along(released):
    app = released.app()
    app["metadata"]["finalizers"] = ["resources-finalizer.argocd.argoproj.io"]
    released.store.update(app)
    await released.push(release("app:never"))
    await until(lambda: "app:never" in released.images())
    delete(released.store, "digits-dev")
    await until(lambda: not released.images())
    assert released.store.list("ReplicaSet") == []
    released.store.create(application())
    sha = await released.push(release("app:v3"))
    await released.deployed(sha)
    assert await released.get() == (200, "v3")


async def test_a_deployment_made_again_under_its_name_starts_from_nothing(released):
    before = {pod["metadata"]["uid"] for pod in released.store.list("Pod")}
    with released.store.transaction():
        old = released.store.get("Deployment", "digits-dev", "digits")
        released.store.delete("Deployment", "digits-dev", "digits")
        for key in ("uid", "resourceVersion", "creationTimestamp"):
            del old["metadata"][key]
        del old["status"]
        released.store.create(old)
    await until(lambda: not before & {pod["metadata"]["uid"] for pod in released.store.list("Pod")})
    await until(lambda: released.images() == ["app:v1", "app:v1"])
    await released.deployed(released.first)


async def test_min_ready_seconds_delay_the_roll(released):
    sha = await released.push(release("app:v2", minReadySeconds=1))
    await until(lambda: "app:v2" in released.images())
    await until(lambda: released.store.get("Deployment", "digits-dev", "digits")["status"]["readyReplicas"] == 3)
    assert released.images() == ["app:v1", "app:v1", "app:v2"]
    await released.deployed(sha)


async def test_replicas_follow_the_commit(released):
    for replicas in (5, 0, 1):
        sha = await released.push({"digits/dev/deployment.yaml": deployment(replicas=replicas)})
        await released.deployed(sha)
        assert released.images() == ["app:v1"] * replicas


async def world_with_v1(world):
    world.repository.commit(release("app:v1"))
    world.store.create(application())
    await until(lambda: world.state() == ("Synced", "Healthy"))
    await until(lambda: world.services.address("digits-dev", "digits", 8080))
