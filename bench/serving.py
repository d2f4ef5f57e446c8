"""What serving costs: rows a second and latency, with ONNX Runtime and with scikit-learn's estimator behind the server.

    python -m bench.serving [--seconds 1]

It runs itself in an environment with the requirements of examples/digits and this one's versions of the web server.

Both run the same application, protocol and checks, one process and one thread each; only `predict` differs. They take
turns, so that a busy machine hurts both. A third server, which answers without reading, shows what the load generator
itself can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "digits")]

import numpy as np  # noqa: E402

from pipelines.serving.app import Service, Settings  # noqa: E402
from pipelines.serving.bundle import load_bundle, make_bundle  # noqa: E402
from pipelines.serving.model import Labels, Model, Probabilities, Rows  # noqa: E402
from pipelines.serving.server import serve  # noqa: E402

CONNECTIONS = 4
ROUNDS = 5
CANNED = b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n" + b" " * 400
BACKENDS = ("onnx", "sklearn", "canned")


class Estimator(Model):
    """The trained estimator in its export's place: `predict` for labels, `predict_proba` if probabilities are asked."""

    def __init__(self, exported: Model, estimator: Any, answer: str) -> None:
        self.__dict__.update(exported.__dict__)
        self._estimator, self._answer = estimator, answer

    def predict(self, x: Rows) -> tuple[Labels, Probabilities]:
        if self._answer == "label":
            return self._estimator.predict(x), np.zeros((len(x), len(self.labels)), np.float32)
        probabilities = self._estimator.predict_proba(x)
        return self._estimator.classes_[probabilities.argmax(axis=1)], probabilities.astype(np.float32)


class Load(NamedTuple):
    """What a round of requests showed: throughput of CONNECTIONS, latency of one that has the server to itself."""

    rows: float  # a second
    p50: float  # milliseconds
    p99: float
    client: float  # share of a core that the load generator took for the throughput


def model(directory: Path, backend: str, answer: str) -> Model:
    exported = load_bundle(directory / "bundle")
    if backend == "onnx":
        return exported
    # our own file of a minute ago; scikit-learn has no other format
    return Estimator(exported, pickle.loads((directory / "estimator.pickle").read_bytes()), answer)  # noqa: S301


def train(directory: Path) -> Rows:
    """The model of examples/digits, its bundle and its estimator. Returns rows to ask about."""
    from digits import train as digits
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    estimator = digits.fit(x, y, 7, {"hidden": 64, "alpha": 0.0001, "max_iter": 200})
    (directory / "estimator.pickle").write_bytes(pickle.dumps(estimator))
    (directory / "model.onnx").write_bytes(digits.export(estimator, x.shape[1]))
    make_bundle(
        directory / "bundle", directory / "model.onnx", x[:4], [str(label) for label in range(10)], name="digits"
    )
    return x


def request(rows: Rows, answer: str) -> bytes:
    tensor = {"name": "X", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    wanted = [{"name": "label"}] if answer == "label" else []
    body = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    return b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Client(asyncio.Protocol):
    """One connection that sends the next request once it has the answer to the last."""

    def __init__(self, requests: list[bytes], until: float) -> None:
        self.requests, self.until = requests, until
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self._buffer
        now = time.perf_counter()
        self.seconds.append(now - self._sent)
        self._buffer = b""
        if now < self.until:
            self._send()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self.requests[len(self.seconds) % len(self.requests)])


async def load(port: int, requests: list[bytes], batch: int, seconds: float) -> Load:
    times = 1000 * np.array(await ask(port, requests, 1, seconds / 2))
    began, cpu = time.perf_counter(), time.process_time()
    answers = len(await ask(port, requests, CONNECTIONS, seconds / 2))
    took, busy = time.perf_counter() - began, time.process_time() - cpu
    return Load(answers * batch / took, float(np.percentile(times, 50)), float(np.percentile(times, 99)), busy / took)


async def ask(port: int, requests: list[bytes], connections: int, seconds: float) -> list[float]:
    """Seconds of each request."""
    until = time.perf_counter() + seconds
    clients = [Client(requests, until) for _ in range(connections)]
    for client in clients:
        await asyncio.get_running_loop().create_connection(lambda client=client: client, "127.0.0.1", port)
    await asyncio.gather(*(client.done for client in clients))
    return [one for client in clients for one in client.seconds]


async def canned() -> None:
    """A server that costs next to nothing: it counts what it is asked, what it answers is always the same."""

    class Canned(asyncio.Protocol):
        def __init__(self) -> None:
            self.missing = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if self.missing == 0:
                head, _, body = data.partition(b"\r\n\r\n")
                self.missing = int(head.rpartition(b"content-length: ")[2]) - len(body)
            else:
                self.missing -= len(data)
            if self.missing == 0:
                self.transport.write(CANNED)  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(f"canned on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def launch(directory: Path, backend: str, answer: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, __file__, "--directory", str(directory), "--serve", backend, "--answer", answer]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout
    line = process.stdout.readline()
    return process, int(line.rpartition(":")[2])


def alone(served: Model, rows: Rows) -> float:
    """Microseconds of one `predict`, without a server."""
    times = []
    for _ in range(300):
        began = time.perf_counter()
        served.predict(rows)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def measure(directory: Path, rows: Rows, seconds: float) -> None:
    kinds = {"label": "labels only", "all": "labels and probabilities"}
    print(f"\n{'':34}{'rows/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'× rows/s':>10}{'× p50':>8}{'client':>8}{'predict':>15}")
    limited = False
    for answer, title in kinds.items():
        processes = {backend: launch(directory, backend, answer) for backend in BACKENDS}
        models = {backend: model(directory, backend, answer) for backend in ("onnx", "sklearn")}
        try:
            for batch in (1, 32):
                requests = [request(rows[at * batch : (at + 1) * batch], answer) for at in range(16)]
                rounds: dict[str, list[Load]] = {backend: [] for backend in BACKENDS}
                for number in range(ROUNDS + 1):
                    for backend, (_, port) in processes.items():
                        found = asyncio.run(load(port, requests, batch, seconds if number else 0.2))
                        rounds[backend] += [found] if number else []  # the first only warms up
                middle = {
                    backend: Load(*(statistics.median(column) for column in zip(*found, strict=True)))
                    for backend, found in rounds.items()
                }
                print(f"{title}, batch {batch}")
                base = middle["sklearn"]
                for backend, name in (
                    ("sklearn", "scikit-learn"),
                    ("onnx", "ONNX Runtime"),
                    ("canned", "nothing (the client's limit)"),
                ):
                    found = middle[backend]
                    line = f"  {name:32}{found.rows:10.0f}{found.p50:9.2f}{found.p99:9.2f}"
                    if backend != "canned":
                        line += f"{found.rows / base.rows:10.2f}{base.p50 / found.p50:8.2f}{found.client:8.0%}"
                        line += f"{alone(models[backend], rows[:batch]):12.0f} µs"
                        limited |= found.client > 0.8 or found.rows > 0.5 * middle["canned"].rows
                    print(line)
        finally:
            for process, _ in processes.values():
                process.terminate()
                process.wait()
    print(
        "\nThe load generator was the bottleneck of a line above."
        if limited
        else "\nThe load generator was not the bottleneck."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1, help="length of a round (default 1)")
    for internal in ("--directory", "--serve", "--answer"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if find_spec("sklearn") is None:
        again(["--seconds", str(given.seconds)])
    elif given.serve == "canned":
        asyncio.run(canned())
    elif given.serve:
        service = Service(model(Path(given.directory), given.serve, given.answer), Settings("digits"))
        serve(service, "127.0.0.1", 0, drain=0)
    else:
        with tempfile.TemporaryDirectory() as directory:
            rows = train(Path(directory))
            http = "httptools" if find_spec("httptools") else "h11"
            how = f"{ROUNDS} rounds of {given.seconds:g} s, medians; uvicorn with {http}"
            print(f"serving: rows/s of {CONNECTIONS} connections, latency of one, predict alone; {how}")
            measure(Path(directory), rows, given.seconds)


def again(argv: list[str]) -> None:
    """Run this file where scikit-learn is. What both environments have is of the same version."""
    served = [name for name in ("starlette", "uvicorn", "prometheus-client", "httptools") if _version(name)]
    wanted = [f"--with={name}=={_version(name)}" for name in served]
    requirements = ROOT / "examples" / "digits" / "requirements.txt"
    uv = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable]
    command = [*uv, f"--with-requirements={requirements}", *wanted, "python", __file__, *argv]
    subprocess.run(command, check=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
