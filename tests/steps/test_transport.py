"""What becomes of a token, and of an answer that is none."""

from __future__ import annotations

import socket
import threading

import pytest

from pipelines.errors import Exit, YardError
from pipelines.steps import _http
from pipelines.steps._http import request


class Server:
    """Gives the raw answers in turn, the last for ever; keeps the heads of the requests."""

    def __init__(self, host, *answers):
        self.listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self.listener.getsockname()[1]}"
        self.answers, self.heads = list(answers), []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.heads.append(connection.recv(65536).decode())
                connection.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(_http, "PAUSE", 0.001)
    servers = []

    def make(*answers, host="127.0.0.1"):
        servers.append(Server(host, *answers))
        return servers[-1]

    yield make
    for server in servers:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def to(url, code=307):
    return f"HTTP/1.1 {code} Elsewhere\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("code", [302, 307])
def test_a_token_goes_to_no_other_host(serve, code):
    other = serve(OK, host="127.0.0.2")
    first = serve(to(other.url + "/v2", code))
    assert request("GET", first.url, token="s3cret").url == other.url + "/v2"
    assert "Bearer s3cret" in first.heads[0]
    assert "s3cret" not in other.heads[0]
    assert f"Host: {other.url.removeprefix('http://')}\r\n" in other.heads[0]


def test_a_token_stays_with_its_own_host(serve):
    server = serve(to("/renamed"), OK)
    request("POST", server.url, {}, token="s3cret")
    assert server.heads[1].startswith("POST /renamed ")
    assert "Bearer s3cret" in server.heads[1]


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"])
def test_an_answer_that_is_none_is_asked_for_again(serve, answer):
    server = serve(answer, OK)
    assert request("GET", server.url).json() == {}
    broken = serve(answer)
    with pytest.raises(YardError) as raised:
        request("GET", broken.url, tries=2)
    assert raised.value.code == Exit.UNAVAILABLE
    assert len(broken.heads) == 2
