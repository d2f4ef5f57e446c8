"""An address that outlives pods: who gets a connection, and what happens when nobody can."""

import asyncio
import socket

import pytest

from solo.cd import AddressTakenError, Services, services
from solo.store import Store

from .server import Server
from .world import answer, until

pytestmark = pytest.mark.anyio


class Bench:
    """A Service and its pods, without Deployments."""

    def __init__(self, path):
        self.store = Store(path)
        self.servers = []

    async def __aenter__(self):
        self.start()
        return self

    async def __aexit__(self, *exc):
        await self.stop()
        for server in self.servers:
            server.close()
        self.store.close()

    def start(self):
        self.services = Services(self.store)
        self.task = asyncio.create_task(self.services.run())

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def service(self, name="digits", **spec):
        spec = {"selector": {"app": "digits"}, "ports": [{"port": 80, "targetPort": 8080}]} | spec
        metadata = {"name": name, "namespace": "x"}
        self.store.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        address = await until(lambda: self.services.address("x", name, spec["ports"][0]["port"]))
        return tuple(address.split(":"))

    async def pod(self, name, handler=None, *, ready=True, port=None):
        """A pod whose server greets with its name and then runs `handler`."""

        async def greet(reader, writer):
            writer.write(name.encode() + b"\n")
            if handler:
                await handler(reader, writer)
            writer.close()

        if port is None:
            server = await asyncio.start_server(greet, "127.0.0.1", 0)
            self.servers.append(server)
            port = server.sockets[0].getsockname()[1]
        pod = {
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "x", "labels": {"app": "digits"}},
            "spec": {"containers": [{"name": "server", "ports": [{"containerPort": 8080, "name": "http"}]}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "solo": {"ports": {"8080": port}},
            },
        }
        return self.store.create(pod)

    def set_ready(self, pod, ready):
        pod["status"]["conditions"][0]["status"] = str(ready)
        self.store.update(pod)


@pytest.fixture
async def bench(tmp_path):
    async with Bench(tmp_path / "solo.db") as bench:
        yield bench


async def greeting(address):
    reader, writer = await asyncio.open_connection(*address)
    line = await reader.readline()
    writer.close()
    return line.decode().strip()


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_ready_pods_take_turns(bench):
    address = await bench.service()
    for name in ("a", "b", "c"):
        await bench.pod(name)
    await bench.pod("d", ready=False)
    assert sorted([await greeting(address) for _ in range(6)]) == ["a", "a", "b", "b", "c", "c"]


async def test_a_pod_gets_no_new_connection_from_the_moment_it_is_deleted_or_not_ready(bench):
    address = await bench.service()
    a = await bench.pod("a")
    await bench.pod("b")
    await greeting(address)
    bench.set_ready(a, False)
    assert {await greeting(address) for _ in range(4)} == {"b"}
    bench.set_ready(a, True)
    bench.store.delete("Pod", "x", "b")
    assert {await greeting(address) for _ in range(4)} == {"a"}
    await bench.pod("c")
    a["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z"
    bench.store.update(a)
    assert {await greeting(address) for _ in range(4)} == {"c"}


async def test_pods_of_workflows_other_namespaces_and_other_labels_are_not_meant(bench):
    address = await bench.service()
    pod = await bench.pod("right")
    for key, change in {"namespace": {"namespace": "y"}, "labels": {"labels": {"app": "other"}}}.items():
        other = {**pod, "metadata": {"name": key, "namespace": "x", "labels": {"app": "digits"}} | change}
        bench.store.create(other)
    bench.store.create({**pod, "solo": {}, "metadata": {"name": "step", "namespace": "x", "labels": {"app": "digits"}}})
    assert {await greeting(address) for _ in range(4)} == {"right"}


async def test_an_established_connection_stays_when_its_pod_leaves_the_service(bench):
    address = await bench.service()
    pod = await bench.pod("a", echo)
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.readline() == b"a\n"
    bench.set_ready(pod, False)
    bench.store.delete("Pod", "x", "a")
    await bench.pod("b")
    assert await greeting(address) == "b"
    writer.write(b"still there\n")
    assert await reader.readline() == b"still there\n"
    writer.close()


async def test_a_pod_that_refuses_is_passed_over(bench):
    address = await bench.service()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    await bench.pod("dead", port=port)
    await bench.pod("alive")
    assert {await greeting(address) for _ in range(4)} == {"alive"}


async def test_a_connection_is_held_until_a_pod_is_ready(bench):
    address = await bench.service()
    pod = await bench.pod("late", ready=False)
    waiting = asyncio.create_task(greeting(address))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    bench.set_ready(pod, True)
    assert await waiting == "late"


async def test_without_a_ready_pod_the_answer_is_503(bench, monkeypatch):
    monkeypatch.setattr("solo.cd.proxy.HOLD", 0.1)
    address = await bench.service()
    await bench.pod("starting", ready=False)

    async def ask(request):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        status, body, again = await answer(reader)
        assert not again
        assert await reader.read() == b""
        writer.close()
        return status, body

    # the request is longer than what fits into the buffers: the answer must arrive all the same
    for request in (b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n" + bytes(8 << 20)):
        status, body = await ask(request)
        assert status == 503
        assert body == '{"error": "no ready endpoint of service x/digits: 0 of 1 pods are ready"}\n'


async def test_a_service_that_names_a_port_nobody_has_says_so(bench, monkeypatch):
    monkeypatch.setattr("solo.cd.proxy.HOLD", 0.05)
    address = await bench.service(ports=[{"port": 80, "targetPort": "metrics"}])
    await bench.pod("a")
    reader, writer = await asyncio.open_connection(*address)
    _, body, _ = await answer(reader)
    writer.close()
    assert "1 of 1 pods are ready, but none declares the container port metrics" in body


async def test_target_ports_by_number_by_name_and_by_default(bench):
    await bench.pod("a")
    assert await greeting(await bench.service("number")) == "a"
    assert await greeting(await bench.service("name", ports=[{"port": 80, "targetPort": "http"}])) == "a"
    assert await greeting(await bench.service("same", ports=[{"port": 8080}])) == "a"


@pytest.mark.parametrize("size", [1, 65536, 30_000_000])
async def test_bytes_arrive_unchanged_and_a_half_close_is_passed_on(bench, size):
    address = await bench.service()
    seen = asyncio.get_running_loop().create_future()

    async def collect_then_answer(reader, writer):
        data = await reader.read()  # until the client has said all it has to say
        seen.set_result(len(data))
        writer.write(data)
        await writer.drain()

    await bench.pod("a", collect_then_answer)
    reader, writer = await asyncio.open_connection(*address)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def send():
        writer.write(data)
        writer.write_eof()
        await writer.drain()

    _, received = await asyncio.gather(send(), reader.read())
    assert await seen == size
    assert received == b"a\n" + data
    writer.close()


async def test_a_reset_arrives_as_a_reset(bench):
    address = await bench.service()

    async def reset(reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        await reader.read(1)
        writer.transport.abort()

    await bench.pod("a", reset)
    reader, writer = await asyncio.open_connection(*address)
    await reader.readline()
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_a_client_that_leaves_frees_its_pod(bench):
    address = await bench.service()
    gone = asyncio.get_running_loop().create_future()

    async def watch(reader, writer):
        await reader.read()
        gone.set_result(True)

    await bench.pod("a", watch)
    reader, writer = await asyncio.open_connection(*address)
    await reader.readline()
    writer.transport.abort()
    assert await asyncio.wait_for(gone, 5)


async def test_the_address_survives_restarts(bench):
    first = await bench.service()
    await bench.service("other")
    await bench.pod("a")
    assert bench.store.get("Service", "x", "digits")["status"]["solo"]["addresses"] == {"80": ":".join(first)}
    await bench.stop()
    bench.start()
    assert await bench.service() == first
    assert await greeting(first) == "a"


async def test_an_address_that_somebody_took_meanwhile_is_an_error_that_names_it(bench):
    _, port = await bench.service()
    await bench.stop()
    with socket.create_server(("127.0.0.1", int(port))):
        bench.start()
        with pytest.raises(AddressTakenError) as error:
            await bench.task
    assert f"port {port}, the address of service x/digits:80, is taken by another program" in str(error.value)
    assert f"ss -ltnp 'sport = :{port}'" in str(error.value)
    bench.start()
    assert (await bench.service())[1] == port


async def test_a_port_that_is_taken_is_not_chosen(bench, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        monkeypatch.setattr(services, "PORTS", range(first, first + 50))
        ports = {(await bench.service(f"s{number}"))[1] for number in range(3)}
    assert len(ports) == 3
    assert str(first) not in ports


async def test_ports_come_and_go_with_the_service(bench):
    address = await bench.service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}])
    await until(lambda: bench.services.address("x", "digits", 81))
    await bench.service(ports=[{"port": 80}])
    await until(lambda: bench.services.address("x", "digits", 81) is None)
    assert bench.services.address("x", "digits", 80) == ":".join(address)
    bench.store.delete("Service", "x", "digits")
    await until(lambda: bench.services.address("x", "digits", 80) is None)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


WRONG = {
    "spec.type": {"type": "NodePort"},
    "spec.clusterIP": {"clusterIP": "None"},
    "spec.selector": {"selector": {}},
    "spec.ports": {"ports": []},
    "spec.ports[0].port": {"ports": [{"port": 0}]},
    "spec.ports[0].protocol": {"ports": [{"port": 80, "protocol": "UDP"}]},
    "spec.ports[1].port": {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]},
    "spec.ports[1].name": {"ports": [{"port": 80, "name": "a"}, {"port": 81}]},
}


@pytest.mark.parametrize(("field", "change"), WRONG.items(), ids=WRONG.keys())
async def test_what_kubernetes_or_solo_refuses_in_a_service(field, change):
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80}]}
    obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": spec}
    assert list(services.check(obj)) == []
    obj["spec"] = spec | change
    assert [problem.field for problem in services.check(obj)] == [field]


async def test_the_drain_of_the_tests_own_server():
    server = await Server("v1").start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for keep in (True, False):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await answer(reader) == (200, "v1", keep)
        drain = asyncio.create_task(server.drain())
        await asyncio.sleep(0)
    await drain
    writer.close()
