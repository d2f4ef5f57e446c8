"""Posting an event or a commit status: what is tried again, and what is not."""

from __future__ import annotations

import http.server
import ssl
import threading

import pytest

from pipelines.errors import Exit, YardError
from pipelines.steps import _http
from pipelines.steps.emit import emit, status


@pytest.fixture
def server(monkeypatch):
    """Answers with the statuses in `answers`, the last one for ever; keeps what it got."""
    monkeypatch.setattr(_http, "PAUSE", 0.001)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            Handler.got.append((self.path, self.headers.get("Authorization"), body))
            code = Handler.answers.pop(0) if len(Handler.answers) > 1 else Handler.answers[0]
            self.send_response(code)
            if code == 307:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    Handler.got, Handler.answers = [], [200]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        Handler.url = f"http://127.0.0.1:{httpd.server_port}"
        monkeypatch.setenv("EVENTS_URL", Handler.url)
        yield Handler
        httpd.shutdown()


def test_an_event_is_sent_again_until_the_bus_has_it(server, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("STAGES_TOKEN_FILE", str(tmp_path / "token"))
    server.answers = [503, 500, 200]
    emit("built", {"sha": "1"})
    assert [entry[:2] for entry in server.got] == [("/built", "Bearer s3cret")] * 3


def test_a_bus_that_stays_away_is_unavailable_so_that_the_step_is_retried(server):
    server.answers = [503]
    with pytest.raises(YardError) as error:
        emit("built", {})
    assert error.value.code == Exit.UNAVAILABLE
    assert len(server.got) == _http.TRIES


def test_a_refused_token_is_not_tried_again(server):
    server.answers = [401]
    with pytest.raises(YardError) as error:
        emit("built", {})
    assert error.value.code == Exit.INVALID
    assert "stages-token" in str(error.value)
    assert len(server.got) == 1


def test_a_redirected_post_keeps_its_body(server):
    server.answers = [307, 200]
    emit("built", {"a": 1})
    assert [entry[0] for entry in server.got] == ["/built", "/elsewhere"]
    assert server.got[1][2] == b'{"a": 1}'


def tell(state="Succeeded", claim="", owner="uid"):
    run = {"repo": "a/b", "sha": "1", "namespace": "mlops-build", "workflow": "w"}
    status(pipeline="ci", state=state, claim=claim, owner=owner, **run)


def test_a_commit_status_never_fails_a_run(server, monkeypatch, capsys):
    monkeypatch.setenv("GIT_API_URL", server.url)
    server.answers = [500]
    tell()
    assert "not set" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
def test_a_run_that_another_one_forestalled_does_not_tell_how_the_commit_fared(
    server, registry, monkeypatch, capsys, state
):
    monkeypatch.setenv("GIT_API_URL", server.url)
    tell(state, claim="digits/1-1")  # ended before it could claim
    assert registry.claimed("ci/digits/1-1") is None
    registry.claim("ci/digits/1-1", "first")
    tell(state, claim="digits/1-1", owner="first")
    assert len(server.got) == 2
    tell(state, claim="digits/1-1", owner="second")
    assert len(server.got) == 2
    assert "run first does this" in capsys.readouterr().out


def test_the_registrys_own_ca_is_trusted_beside_the_systems_and_need_not_be_there(server, certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), server) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{httpd.server_port}/"
        for there in ("", str(certificate.with_name("absent"))):
            monkeypatch.setenv("REGISTRY_CA", there)
            with pytest.raises(YardError, match="self-signed certificate"):
                _http.request("POST", url, {}, tries=1)
        monkeypatch.setenv("REGISTRY_CA", str(certificate))
        assert _http.request("POST", url, {}, tries=1).status == 200
        httpd.shutdown()
