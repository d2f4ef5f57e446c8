"""What a cluster's Argo Server does that solo does not: pods that are gone, pages, tokens, certificates, errors.

Source of the answers: argoproj/argo-workflows server/, v4.1.4.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fake_argo import COMMIT, NAMES, SHA, Fake, ci, ct, pod, release, serve, step, verify, workflow

from pipelines.cli.runs import run_of
from pipelines.errors import Exit

TRIED = [step("train-cpu", "Failed", retried=True)]


# --- logs


def test_each_try_of_a_step_is_read_where_it_is_left(yard, argo):
    argo.put(workflow("ct", TRIED, "Failed"))
    argo.keep(NAMES["ct"], "train-cpu", ["lost"], attempt=0)
    argo.logs[pod(NAMES["ct"], "train-cpu", 1)] = ["no data"]
    assert yard("logs", NAMES["ct"], "-s", "train-cpu").out == "lost\nno data\n"


def test_an_archived_log_is_preferred_to_what_is_left_of_the_pod(yard, argo):
    argo.put(ci())
    argo.keep(NAMES["ci"], "test", ["one", "two"])
    argo.logs[pod(NAMES["ci"], "test")] = ["two"]
    assert yard("logs", NAMES["ci"], "-s", "test").out == "one\ntwo\n"
    assert not [path for path, _ in argo.asked if "/log?" in path]


def test_an_archive_that_cannot_be_read_is_told_unless_the_pod_is_there(yard, argo):
    argo.put(ci())
    argo.keep(NAMES["ci"], "test", ["x"])
    argo.kept.clear()
    said = yard("logs", NAMES["ci"], "-s", "test")
    assert (said.code, said.out) == (Exit.UNAVAILABLE, "")
    assert said.err.startswith("GET ")
    assert said.err.endswith("/outputs/main-logs: HTTP 500: Internal Server Error\n")
    argo.logs[pod(NAMES["ci"], "test")] = ["4 passed"]
    assert yard("logs", NAMES["ci"], "-s", "test").out == "4 passed\n"


def test_nothing_at_all_is_said_so(yard, argo):
    argo.put(ci())
    said = yard("logs", NAMES["ci"])
    assert (said.code, said.out) == (0, "")
    assert said.err == f"{NAMES['ci']}: nothing was printed, or the pods are gone and left no log\n"


def test_a_followed_log_begins_with_the_steps_whose_pods_are_gone(yard, argo):
    argo.put(workflow("ct", [step("ingest"), step("process", "Running", at=3)]))
    argo.keep(NAMES["ct"], "ingest", ["1797 pictures"])
    argo.logs = {pod(NAMES["ct"], "ingest"): ["1797 pictures"], pod(NAMES["ct"], "process"): ["scaled"]}
    assert yard("logs", NAMES["ct"], "-f").out.splitlines() == ["ingest   1797 pictures", "process  scaled"]


def test_an_error_in_a_stream_is_told(yard, argo):
    argo.put(workflow("ci", [step("test", "Running")]))
    argo.broken[pod(NAMES["ci"], "test")] = "pods is forbidden"
    said = yard("logs", NAMES["ci"], "-s", "test")
    assert said.code == Exit.INVALID
    assert said.err == f'the log of {NAMES["ci"]}: HTTP 403: pods is forbidden\n  → set ARGO_TOKEN to "Bearer …"\n'


def test_a_stream_that_breaks_within_a_line_is_a_lost_connection(yard, argo):
    argo.put(workflow("ci", [step("test", "Running")]))
    argo.logs[pod(NAMES["ci"], "test")] = ["1 passed", "2 passed"]
    argo.cut = 20
    said = yard("logs", NAMES["ci"], "-s", "test")
    assert (said.code, said.out) == (Exit.UNAVAILABLE, "1 passed\n")
    assert "the connection was lost" in said.err


@pytest.mark.parametrize(
    ("name", "ident", "expected"),
    [
        ("wf", "wf", "wf"),  # the entrypoint is the pod itself
        ("wf.build", "wf-123", "wf-build-123"),
        ("wf.build", "wf-123-1", "wf-build-123-1"),  # two names with one hash
    ],
)
def test_the_name_of_a_nodes_pod(name, ident, expected):
    node = {"id": ident, "name": name, "type": "Pod", "phase": "Running", "templateName": "build"}
    (found,) = run_of({"metadata": {"name": "wf"}, "status": {"nodes": {ident: node}}}).steps
    assert [one.pod for one in found.tries] == [expected]


def test_a_hook_of_a_step_is_no_try_of_it():
    ids = {"retry": "Retry", "first": "Pod", "hook": "Pod"}
    nodes = {key: {"id": key, "name": key, "displayName": key, "type": kind} for key, kind in ids.items()}
    nodes["retry"]["children"] = ["first", "hook"]
    nodes["hook"]["nodeFlag"] = {"hooked": True}
    (found,) = run_of({"metadata": {"name": "wf"}, "status": {"nodes": nodes}}).steps
    assert [one.node for one in found.tries] == ["first"]


# --- lists


def test_a_list_of_several_pages_is_read_to_its_end(yard, argo):
    argo.page = 2
    names = [f"ci-{number}" for number in range(5)]
    argo.put(*(ci(name=name) for name in names))
    assert sorted(line.split()[0] for line in yard("runs").out.splitlines()[1:]) == names


def test_what_nobody_reads_is_not_asked_for(yard, argo):
    argo.put(ci())
    yard("runs")
    lists = [path for path, _ in argo.asked if path.startswith("/api/v1/workflows/mlops-build?")]
    assert lists
    assert all("&fields=-items.metadata.managedFields,items.status.stored" in path for path in lists)


# --- tokens and certificates


def test_each_token_goes_to_its_own_server(yard, argo, monkeypatch):
    argo.put(ci(), ct(), release(), verify())
    kubernetes = Fake()
    kubernetes.applications["digits-dev"] = {"sync": {"status": "Synced", "revision": COMMIT}}
    monkeypatch.setenv("ARGO_TOKEN", "argo's")
    monkeypatch.setenv("KUBERNETES_TOKEN", "kubernetes'")
    with serve(kubernetes) as url:
        monkeypatch.setenv("KUBERNETES_URL", url)
        said = yard("trace", SHA)
    assert "now: digits-dev is Synced" in said.out
    assert {token for _, token in argo.asked} == {"Bearer argo's"}
    assert {token for _, token in kubernetes.asked} == {"Bearer kubernetes'"}


def test_a_token_does_not_follow_a_redirect(yard, argo, monkeypatch):
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(307)
            self.send_header("Location", argo.url + self.path)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        argo.put(ci())
        monkeypatch.setenv("ARGO_TOKEN", "Bearer secret")
        assert NAMES["ci"] in yard("runs", "--server", f"http://127.0.0.1:{server.server_port}").out
    finally:
        server.shutdown()
        server.server_close()
    assert {token for _, token in argo.asked} == {None}


@pytest.fixture
def secure(certificate):
    fake = Fake()
    fake.put(ci())
    with serve(fake, certificate) as url:
        fake.url = url
        yield fake


def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(yard, secure, monkeypatch):
    said = yard("runs", "--server", secure.url)
    assert said.code == Exit.UNAVAILABLE
    assert "self-signed certificate" in said.err
    assert "→ trust its certificate with SSL_CERT_FILE=PEM, or set ARGO_INSECURE_SKIP_VERIFY=true" in said.err
    monkeypatch.setenv("ARGO_INSECURE_SKIP_VERIFY", "true")
    assert NAMES["ci"] in yard("runs", "--server", secure.url.removeprefix("https://")).out


def test_a_certificate_can_be_trusted(yard, secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert NAMES["ci"] in yard("runs", "--server", secure.url).out


def test_what_is_not_checked_is_argos_certificate_alone(yard, argo, secure, monkeypatch):
    argo.put(ci(), ct(), release(), verify())
    monkeypatch.setenv("ARGO_INSECURE_SKIP_VERIFY", "true")
    monkeypatch.setenv("KUBERNETES_URL", secure.url)
    assert "now: unknown" in yard("trace", SHA).out.splitlines()[-1]
    assert secure.asked == []


# --- what does not answer


def test_an_argo_cd_out_of_reach_is_one_line_of_the_trace(yard, argo, monkeypatch):
    argo.put(ci(), ct(), release(), verify())
    monkeypatch.setenv("KUBERNETES_URL", "http://127.0.0.1:9")
    said = yard("trace", SHA)
    assert said.code == 0
    *_, serving, now = said.out.splitlines()
    assert serving == "✓ serving   http://127.0.0.1:41233"
    assert now.strip().startswith("now: unknown (http://127.0.0.1:9: does not answer: ")


def test_a_server_that_is_no_argo_server_is_said_so(yard, monkeypatch):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        said = yard("runs", "--server", url)
    finally:
        server.shutdown()
        server.server_close()
    assert (said.code, said.err) == (
        Exit.INVALID,
        f"{url}/api/v1/workflows/mlops-build: answers, but not with JSON\n  → is the address right?\n",
    )


# --- another platform.yaml


def test_another_platform_file_than_the_checkouts(yard, argo, nowhere, monkeypatch):
    monkeypatch.setenv("ARGO_SERVER", argo.url)
    text = "apiVersion: trainyard/v1\ndomain: a.example\nrepository: me/platform\n"
    text += "services: [{repo: acme/cats, name: cats}]\nreleases: acme/r\n"
    (nowhere / "cluster.yaml").write_text(text + "endpoints: {GIT_URL: https://git.example.com}\n")
    monkeypatch.setenv("TRAINYARD_PLATFORM", "cluster.yaml")
    assert "git push https://git.example.com/acme/cats.git HEAD:main" in yard("runs").out
    monkeypatch.setenv("TRAINYARD_PLATFORM", "gone.yaml")
    said = yard("runs")
    assert said.code == Exit.NOT_FOUND
    assert "gone.yaml" in said.err


def test_the_help_names_every_variable_that_is_read(yard):
    text = yard("--help").out
    for name in ("ARGO_TOKEN", "ARGO_INSECURE_SKIP_VERIFY", "SSL_CERT_FILE", "KUBERNETES_TOKEN", "TRAINYARD_PLATFORM"):
        assert name in text
