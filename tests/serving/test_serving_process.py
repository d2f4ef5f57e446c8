"""The server as a process: what it tells, its limits, how it starts and how it leaves."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import GOLDEN, Server, bundle, launch, request

from pipelines.errors import Exit
from pipelines.serving.bundle import read_bundle
from pipelines.serving.server import listen

ROWS = GOLDEN.tolist()


def test_it_describes_itself_as_the_protocol_wants(server: Server) -> None:
    def get(path: str) -> Any:
        return httpx.get(server.url + path).raise_for_status().json()

    assert get("/v2")["name"] == "trainyard"
    assert get("/v2/health/live") == {"live": True}
    assert get("/v2/health/ready") == {"ready": True}
    assert get("/v2/models/tiny/ready") == get("/v2/models/tiny/versions/3/ready") == {"name": "tiny", "ready": True}
    described = get("/v2/models/tiny")
    assert described == get("/v2/models/tiny/versions/3")
    assert described["versions"] == ["3"]
    assert described["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert described["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ]
    assert described["parameters"]["labels"] == ["0", "1", "2"]


def test_the_golden_question_gets_the_golden_answer_on_both_addresses(server: Server) -> None:
    first = server.infer(ROWS).raise_for_status().json()
    second = httpx.post(f"{server.url}/v2/models/tiny/versions/3/infer", json=request(ROWS)).json()
    assert first == second
    assert first["outputs"][0]["data"] == [0, 1, 2]
    assert first["parameters"] == {"lock": "sha256:aa"}


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v2/models/other", 404, "no model 'other' here, only 'tiny'"),
        ("POST", "/v2/models/other/infer", 404, "no model 'other' here, only 'tiny'"),
        ("POST", "/v2/models/tiny/versions/4/infer", 404, "no version '4' of 'tiny' here, only '3'"),
        ("GET", "/v2/models/tiny/versions/4/ready", 404, "no version '4' of 'tiny' here, only '3'"),
        ("GET", "/v2/models/tiny/infer", 405, "GET /v2/models/tiny/infer: Method Not Allowed"),
        ("GET", "/", 404, "GET /: Not Found"),
    ],
)
def test_what_is_not_there_is_named(server: Server, method: str, path: str, status: int, told: str) -> None:
    answer = httpx.request(method, server.url + path)
    assert (answer.status_code, answer.json()) == (status, {"error": told})


def test_too_many_rows_are_refused(server: Server) -> None:
    assert server.infer([[0] * 4] * 20).status_code == 200
    answer = server.infer([[0] * 4] * 21)
    assert answer.status_code == 413
    assert answer.json() == {"error": "input 'X': 21 rows, 20 are the limit of one request"}


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("content", [b" " * 5000, b" " * 200_000, chunks(5000), chunks(20_000)])
def test_a_body_beyond_the_limit_is_refused_whether_it_says_its_size_or_not(server: Server, content: Any) -> None:
    """The limit is 4096 bytes; without a Content-Length it shows while the body streams in."""
    answer = httpx.post(f"{server.url}/v2/models/tiny/infer", content=content)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 4096 bytes, the limit of one request"}
    assert answer.headers["connection"] == "close"


def test_an_endless_body_is_cut_off(server: Server) -> None:
    sent: list[int] = []

    def send_all(client: socket.socket) -> None:
        for _ in range(100_000):
            client.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
            sent.append(1000)

    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):  # noqa: PT011 - broken pipe or reset, as the kernel likes
            send_all(client)
    assert sum(sent) < 50_000_000


def test_metrics_count_requests_by_code_and_rows(start: Callable[..., Server]) -> None:
    server = start(MODEL_VERSION="3", LOCK="sha256:aa")
    server.infer(ROWS)
    server.infer(ROWS, datatype="INT64")
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert 'trainyard_infer_requests_total{code="200"} 1.0' in lines
    assert 'trainyard_infer_requests_total{code="400"} 1.0' in lines
    assert "trainyard_infer_rows_total 3.0" in lines
    assert "trainyard_infer_seconds_count 2.0" in lines
    assert any(line.startswith("trainyard_model_info{") and 'version="3"' in line for line in lines)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (
            lambda path: (path / "model.onnx").write_bytes(b"x"),
            "model.onnx: this is not the accepted model: 1 bytes, sha256",
        ),
        (lambda path: (path / "model.onnx").unlink(), "model.onnx: cannot be read: No such file or directory"),
        (lambda path: (path / "bundle.json").write_text("{}"), "bundle.json: not a model bundle: no 'format'"),
        (
            lambda path: (path / "bundle.json").write_text(
                (path / "bundle.json").read_text().replace('"label":[0,1,2]', '"label":[0,1,1]')
            ),
            "it answers [0, 1, 2] to the golden rows, not [0, 1, 1]",
        ),
    ],
    ids=["model changed", "model gone", "no bundle", "another golden answer"],
)
def test_a_bundle_that_does_not_hold_is_never_served(
    tmp_path: Path, tamper: Callable[[Path], object], told: str
) -> None:
    directory = bundle(tmp_path)
    tamper(directory)
    process = launch(directory)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode in (Exit.CONFLICT, Exit.INVALID, Exit.NOT_FOUND)
    assert stdout == ""
    assert told in stderr
    assert "Traceback" not in stderr


def test_only_the_wanted_bundle_is_served(start: Callable[..., Server], tmp_path: Path) -> None:
    directory = bundle(tmp_path)
    start(BUNDLE_DIGEST=read_bundle(directory).digest)
    process = launch(directory, BUNDLE_DIGEST="sha256:" + "0" * 64)
    assert "is wanted" in process.communicate(timeout=20)[1]
    assert process.returncode == Exit.CONFLICT


@pytest.mark.parametrize(
    ("env", "code", "told"),
    [
        ({"LIMIT_ROWS": "many"}, Exit.USAGE, "LIMIT_ROWS: 'many' is not a whole number of at least 1"),
        ({"HOST": "192.0.2.1"}, Exit.UNAVAILABLE, "192.0.2.1:0: cannot listen: Cannot assign requested address"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, env: dict[str, str], code: Exit, told: str) -> None:
    process = launch(bundle(tmp_path), **env)
    stderr = process.communicate(timeout=20)[1]
    assert (process.returncode, told in stderr) == (code, True), stderr


def test_a_port_in_use_is_named(server: Server, tmp_path: Path) -> None:
    process = launch(bundle(tmp_path), PORT=str(server.address[1]))
    assert f"127.0.0.1:{server.address[1]}: cannot listen: Address already in use" in process.communicate(timeout=20)[1]
    assert process.returncode == Exit.UNAVAILABLE


def test_an_answer_is_sent_at_once() -> None:
    """Head and body are two writes: on a socket that waits for an ACK between them, every answer took 40 ms."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_request_in_flight_is_finished_after_sigterm(start: Callable[..., Server]) -> None:
    server = start(DRAIN="0")
    body = json.dumps(request(ROWS)).encode()
    with socket.create_connection(server.address, timeout=10) as client:
        head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:10])
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200  # so the first half has arrived, too
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        client.sendall(body[10:])
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in answer.lower()
    assert server.process.wait(10) == 0


def test_on_sigterm_it_is_not_ready_at_once_but_still_answers(start: Callable[..., Server]) -> None:
    server = start(DRAIN="60")
    with socket.create_connection(server.address):  # as long as somebody is connected, it does not go
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while (ready := httpx.get(f"{server.url}/v2/health/ready")).status_code == 200 and time.monotonic() < deadline:
            pass
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert httpx.get(f"{server.url}/v2/models/tiny/ready").status_code == 503
        answer = server.infer(ROWS)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert server.process.wait(10) == 0


def test_nobody_connected_means_no_long_wait(start: Callable[..., Server]) -> None:
    server = start(DRAIN="60")
    assert server.stop(deadline=10) == 0


def test_no_request_fails_while_one_server_takes_over_from_another(start: Callable[..., Server]) -> None:
    """Clients keep connections; who routes them hears of the change only after a while, as kube-proxy does."""
    old, new = start(DRAIN="2"), start()
    endpoints = [old.address]
    failed: list[str] = []
    answered = {old.address: 0, new.address: 0}
    done = threading.Event()
    body = json.dumps(request(ROWS))

    def client() -> None:
        address = endpoints[0]
        connection = http.client.HTTPConnection(*address, timeout=10)
        while not done.is_set():
            try:
                connection.request("POST", "/v2/models/tiny/infer", body)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failed.append(f"HTTP {answer.status}")
                answered[address] += 1
                if answer.headers.get("connection") == "close":
                    connection.close()
                    address = endpoints[0]
                    connection = http.client.HTTPConnection(*address, timeout=10)
            except OSError as error:
                failed.append(f"{address}: {error!r}")
                return
        connection.close()

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not (failed or condition()) and time.monotonic() < deadline:
            time.sleep(0.01)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    until(lambda: answered[old.address] > 50)
    old.process.send_signal(signal.SIGTERM)
    before = answered[old.address]
    until(lambda: answered[old.address] > before + 50)  # still answers, a while longer
    endpoints[0] = new.address
    code = old.process.wait(10)
    until(lambda: answered[new.address] > 50)
    done.set()
    for thread in clients:
        thread.join()
    assert (failed, code) == ([], 0)
    assert answered[new.address] > 50


def test_the_model_can_be_used_without_the_web_server() -> None:
    """`evaluate` imports it in a step; neither that nor the server needs the client of the object store."""
    told = "import sys, pipelines.serving.{}; print(*[m for m in {} if m in sys.modules])"
    for module, unwanted in [
        ("bundle", ["starlette", "uvicorn", "pydantic"]),
        ("__main__", ["google", "pydantic", "httpx"]),
    ]:
        code = told.format(module, unwanted)
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == ""
