"""One push, all the way to a prediction: what a user sees, and what must not happen."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest
from push_harness import CONTRACT, END, Platform, service, until

pytestmark = pytest.mark.slow


def names(run):
    """Task → phase of a Workflow's nodes."""
    return {node["displayName"]: node["phase"] for node in run["status"]["nodes"].values() if node["type"] != "Retry"}


def node(run, name):
    return next(n for n in run["status"]["nodes"].values() if n["displayName"] == name)


def output(run, task, name):
    parameters = node(run, task)["outputs"]["parameters"]
    return next(p["value"] for p in parameters if p["name"] == name)


def ask(platform: Platform, rows):
    """The deployed model's answer: labels and the version that gave them."""
    url = platform.endpoints["SERVING_URL"].format(service="digits", namespace="digits-dev")
    with urllib.request.urlopen(f"{url}/v2/models/digits", timeout=10) as found:
        metadata, address = json.loads(found.read()), found.url
    tensor = metadata["inputs"][0]
    body = {"inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": [len(rows), 4], "data": rows}]}
    request = urllib.request.Request(
        f"{address}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        said = json.loads(answer.read())
    return next(o["data"] for o in said["outputs"] if o["name"] == "label"), said["model_version"]


def deliver(platform: Platform, body, *, secret=None, delivery=None, event="push", raw=None):
    """POST a webhook as GitHub would; the HTTP status."""
    data = raw if raw is not None else json.dumps(body).encode()
    key = secret if secret is not None else _webhook_secret(platform)
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
    }
    if key:
        headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(key.encode(), data, hashlib.sha256).hexdigest()
    request = urllib.request.Request(_webhook_url(platform), data, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _webhook_url(platform):
    log = (platform.home / "solo.log").read_text()
    return re.findall(r"github/push +(http://\S+)", log)[-1]


def _webhook_secret(platform):
    from solo.manifests import secret_value
    from solo.store import Store

    store = Store(platform.home / "solo.db")
    try:
        return secret_value(store, "github-webhook", "secret")
    finally:
        store.close()


def push_event(sha, *, ref="refs/heads/main", repo="acme/digits", deleted=False, before="0" * 40):
    return {
        "ref": ref,
        "before": before,
        "after": sha,
        "deleted": deleted,
        "repository": {"full_name": repo},
        "pusher": {"name": "ann"},
    }


def phase(platform, name):
    return platform.get(f"/api/v1/workflows/mlops/{name}").get("status", {}).get("phase", "")


def states(platform, sha, pipeline):
    """What the Git host was told of a commit, newest first."""
    url = f"{platform.endpoints['GIT_API_URL']}/repos/acme/digits/commits/{sha}/statuses"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [entry["state"] for entry in json.loads(answer.read()) if entry["context"] == f"trainyard/{pipeline}"]


def test_a_good_push_serves_and_a_worse_one_does_not(platform, work):
    good = work.commit(service())
    said = work.push()
    for words in ("ci", "ct", "release", "verify", "accuracy"):
        assert words in said, said
    assert ask(platform, [[1, 0, 0, 0], [0, 0, 3, 0]]) == ([0, 2], "1")
    for pipeline in ("ci", "ct", "release"):
        assert platform.ended(pipeline=pipeline, sha=good)["status"]["phase"] == "Succeeded"
    assert sorted(platform.registered()) == ["app/v1", "data/v1", "feature/v1", "model/v1"]
    assert len(platform.releases()) == 1
    image = output(platform.ended(pipeline="ci", sha=good), "build(0)", "image")
    said = platform.yard("verify-image", image).stdout
    assert f"{image}: signed" in said
    assert re.search(rf"^  sha +{good}$", said, re.MULTILINE)
    components = output(platform.ended(pipeline="ci", sha=good), "sbom(0)", "components")
    assert re.search(rf"^  software +{components} components$", said, re.MULTILINE)

    worse = work.commit(service(wrong=True))
    said = work.push()
    assert "accuracy" in said
    run = platform.ended(pipeline="ct", sha=worse)
    assert run["status"]["phase"] == "Failed"
    assert names(run)["gate(0)"] == "Failed"
    assert json.loads(output(run, "gate(0)", "decision"))["accepted"] is False
    assert names(run)["register"] == "Omitted"
    assert sorted(platform.registered()) == ["app/v1", "data/v1", "feature/v1", "model/v1"]
    assert len(platform.releases()) == 1
    image = output(platform.ended(pipeline="ci", sha=worse), "build(0)", "image")
    said = platform.yard("verify-image", image, check=False)
    assert (said.returncode, "no signature" in said.stderr) == (4, True), said.stderr
    # the same run once more, as a bus would start it that delivers an event again: it has nothing to do, and ends well
    parameters = [f"{entry['name']}={entry['value']}" for entry in run["spec"]["arguments"]["parameters"]]
    again = {"name": "again", "parameters": parameters}
    submit = {"resourceKind": "WorkflowTemplate", "resourceName": "ct", "submitOptions": again}
    platform.post("/api/v1/workflows/mlops/submit", {"namespace": "mlops", **submit})
    until(lambda: phase(platform, "again") in END, "the second run to end")
    assert phase(platform, "again") == "Succeeded"
    for pipeline in ("ci", "ct", "release"):
        assert states(platform, good, pipeline) == ["success"]
    assert states(platform, worse, "ct") == ["failure"]

    assert ask(platform, [[1, 0, 0, 0]])[1] == "1"
    assert len(platform.runs(pipeline="verify")) == 1  # the bot's push started this, and nothing else
    assert len(platform.runs(pipeline="ci")) == 2

    traced = platform.yard("trace", worse, check=False).stdout
    assert "stopped at: metrics" in traced
    assert "0.9" in traced
    for words in (("runs",), ("models",), ("solo", "status"), ("trace", good)):
        assert platform.yard(*words).stdout.strip()
    logs = platform.yard("logs", platform.ended(pipeline="ci", sha=good)["metadata"]["name"], "--step", "build").stdout
    assert "COPY" in logs


def test_a_push_while_solo_is_down_is_kept(platform, work):
    sha = work.commit(service())
    platform.kill()
    said = work.push()
    assert "picks it up" in said, said
    platform.up()
    assert platform.ended(pipeline="release", sha=sha)["status"]["phase"] == "Succeeded"


def test_solo_killed_in_every_phase_loses_nothing_and_does_nothing_twice(platform, work):
    """When a step begins, and when it is tried for the second time, solo dies. The run ends as if nothing had happened.

    Not at each try: a step that tells another stage is tried four times, and on a busy machine each may find solo down.
    """
    contract = CONTRACT.replace("cp train.npz", "sleep 0.3; cp train.npz").replace("cp model", "sleep 0.3; cp model")
    sha = work.commit(service(contract=contract))
    threading.Thread(target=work.git, args=("push", "origin", "HEAD:main"), daemon=True).start()
    seen: set[str] = set()
    deadline = time.monotonic() + 300
    done = False
    while not done:
        assert time.monotonic() < deadline, f"killed at {sorted(seen)}"
        runs = platform.runs()
        begun = {
            f"{run['metadata']['labels']['trainyard/pipeline']} {n['displayName']}"
            for run in runs
            for n in run.get("status", {}).get("nodes", {}).values()
            if n["type"] == "Pod" and not n["displayName"].endswith(("(2)", "(3)"))
        }
        if begun - seen:
            seen |= begun
            platform.kill()
            platform.up()
            continue
        verified = [r for r in runs if r["metadata"]["labels"]["trainyard/pipeline"] == "verify"]
        done = bool(verified) and verified[0].get("status", {}).get("phase") in ("Succeeded", "Failed", "Error")
        chain = [r for r in runs if r["metadata"]["labels"]["trainyard/pipeline"] in ("ci", "ct", "release")]
        done = done or any(run.get("status", {}).get("phase") in ("Failed", "Error") for run in chain)
        time.sleep(0.02)
    assert len(seen) >= 15, sorted(seen)
    for pipeline in ("ci", "ct", "release"):
        runs = platform.runs(pipeline=pipeline, sha=sha)
        assert [run["status"]["phase"] for run in runs] == ["Succeeded"], names(runs[0])
    assert [run["status"]["phase"] for run in platform.runs(pipeline="verify")] == ["Succeeded"]
    assert sorted(platform.registered()) == ["app/v1", "data/v1", "feature/v1", "model/v1"]
    assert len(platform.releases()) == 1
    assert until(lambda: ask(platform, [[1, 0, 0, 0]])[1], "an answer") == "1"


def test_two_pushes_within_a_second_both_run_and_the_later_serves(platform, work):
    first = work.commit(service(seed=1))
    work.git("push", "--quiet", "origin", f"{first}:refs/heads/later")  # so that both arrive as plain ref updates
    second = work.commit(service(seed=2))
    threads = [
        threading.Thread(target=deliver, args=(platform, push_event(sha)), daemon=True) for sha in (first, second)
    ]
    work.git("push", "--quiet", "origin", f"{second}:refs/heads/later2")
    bare = platform.home / "git/acme/digits.git"
    work.git("update-ref", "refs/heads/main", second, cwd=bare)
    for thread in threads:
        thread.start()
    outcomes = {sha: platform.ended(pipeline="release", sha=sha) for sha in (first, second)}
    assert all(run["status"]["phase"] == "Succeeded" for run in outcomes.values())
    assert output(outcomes[second], "release(0)", "outcome") == "released"
    assert output(outcomes[first], "release(0)", "outcome") in ("released", "superseded")
    until(lambda: _serving_sha(platform) == second, "the later one to serve")


def _serving_sha(platform):
    deployments = platform.get("/apis/apps/v1/namespaces/digits-dev/deployments")["items"]
    ready = deployments and deployments[0].get("status", {}).get("readyReplicas") == 2
    return ready and deployments[0]["spec"]["template"]["metadata"]["annotations"]["trainyard/sha"]


def test_a_force_push_is_a_push_and_tags_and_deletions_are_not(platform, work):
    first = work.commit(service(seed=1))
    work.push("origin", "HEAD:main", "HEAD:refs/tags/v1", "HEAD:side")
    work.git("checkout", "--quiet", "--orphan", "again")
    second = work.commit(service(seed=2))
    work.push("--force", "origin", "HEAD:main")
    work.push("origin", ":side", ":refs/tags/v1")
    outcomes = [output(platform.ended(pipeline="release", sha=sha), "release(0)", "outcome") for sha in (first, second)]
    assert outcomes == ["released", "released"]
    until(lambda: _serving_sha(platform) == second, "the rewritten branch to serve")
    assert len(platform.runs(pipeline="ci")) == 2


def test_what_is_not_a_push_to_a_known_branch_starts_nothing(platform, work):
    sha = work.commit(service())
    work.git("push", "--quiet", "origin", "HEAD:side")
    url_down = [
        (403, deliver(platform, push_event(sha), secret="wrong")),
        (403, deliver(platform, push_event(sha), secret="")),
    ]
    assert all(code in (400, 401, 403) for _, code in url_down), url_down
    assert deliver(platform, None, raw=b"not json") in (400, 415)
    assert deliver(platform, None, raw=b'{"a": "' + b"x" * (5 << 20) + b'"}') in (400, 413)
    assert deliver(platform, push_event(sha, repo="eve/digits")) == 200
    assert deliver(platform, push_event(sha, ref="refs/tags/v1")) == 200
    assert deliver(platform, push_event(sha, ref="refs/heads/side")) == 200
    assert deliver(platform, push_event("0" * 40, deleted=True, before=sha)) == 200
    assert deliver(platform, push_event(sha), event="ping") == 200
    # the one that counts comes last: once it has run, the others have had their chance
    assert deliver(platform, push_event(sha)) == 200
    platform.ended(pipeline="ci", sha=sha)
    assert len(platform.runs(pipeline="ci")) == 1


def test_the_same_delivery_twenty_times_runs_once(platform, work):
    sha = work.commit(service())
    work.git("push", "--quiet", "origin", "HEAD:side")
    delivery = str(uuid.uuid4())
    threads = [
        threading.Thread(target=deliver, args=(platform, push_event(sha)), kwargs={"delivery": delivery})
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    platform.ended(pipeline="ct", sha=sha)
    assert len(platform.runs(pipeline="ci")) == 1
    assert len(platform.runs(pipeline="ct")) == 1


def test_a_missed_delivery_is_found_by_reconcile(platform, work):
    sha = work.commit(service())
    work.git("push", "--quiet", "origin", "HEAD:side")
    work.git("update-ref", "refs/heads/main", sha, cwd=platform.home / "git/acme/digits.git")  # no hook, no webhook
    platform.post(
        "/api/v1/workflows/mlops/submit",
        {"namespace": "mlops", "resourceKind": "CronWorkflow", "resourceName": "reconcile"},
    )
    assert platform.ended(pipeline="ci", sha=sha)["status"]["phase"] == "Succeeded"
    assert platform.ended(pipeline="release", sha=sha)["status"]["phase"] == "Succeeded"


BROKEN = {
    "no mlops.yaml": (None, None, "ci", "validate", "mlops.yaml"),
    "unknown key": ("gate:", "gaet:", "ci", "validate", "did you mean"),
    "wrong type": ("seed: 1", "seed: one", "ci", "validate", "seed"),
    "threshold without its metric": ("accuracy:", "acuracy:", "ci", "validate", "does not compute"),
    "failing tests": ("test -f model.onnx", "exit 1", "ci", "test", ""),
    "training fails": ("cp model.onnx $MODEL_DIR/,", "exit 3,", "ct", "train-cpu", ""),
    "training hangs": ("cp model.onnx $MODEL_DIR/, timeout: 30s", "sleep 600, timeout: 1s", "ct", "train-cpu", ""),
    "training writes nothing": ("cp model.onnx $MODEL_DIR/,", "'true',", "ct", "evaluate", "model.onnx"),
    "an empty model": ("cp model.onnx $MODEL_DIR/,", "'touch $MODEL_DIR/model.onnx',", "ct", "evaluate", "model.onnx"),
    "a model that does not load": (
        "cp model.onnx $MODEL_DIR/,",
        "cp data.csv $MODEL_DIR/model.onnx,",
        "ct",
        "evaluate",
        "model.onnx",
    ),
    "a path outside": ("cp model.onnx $MODEL_DIR/,", "ln -s /etc/passwd $MODEL_DIR/model.onnx,", "ct", "", ""),
    "empty features": ("cp train.npz test.npz $FEATURES_DIR/", "touch $FEATURES_DIR/train.npz", "ct", "", "npz"),
    "an unknown number": ("seed: 1", "seed: .nan", "ci", "validate", "seed"),
    "infinite features": (
        "cp train.npz test.npz $FEATURES_DIR/",
        "cp train.npz $FEATURES_DIR/ && cp infinite.npz $FEATURES_DIR/test.npz",
        "ct",
        "analyze",
        "test.npz",
    ),
    "a model that answers NaN": (
        "cp model.onnx $MODEL_DIR/",
        "cp nan.onnx $MODEL_DIR/model.onnx",
        "ct",
        "evaluate",
        "",
    ),
    "no data": ("cp data.csv $DATA_DIR/", "touch $DATA_DIR/data.csv", "ct", "validate", "data.csv"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_stops_the_chain_and_says_where(shared, case):
    platform, work = shared
    old, new, pipeline, step, words = BROKEN[case]
    files = service(contract=CONTRACT if old is None else CONTRACT.replace(old, new))
    if old is None:
        del files["mlops.yaml"]
        (work.folder / "mlops.yaml").unlink(missing_ok=True)
    else:
        assert files["mlops.yaml"] != CONTRACT
    sha = work.commit(files, case)
    said = work.push()
    run = platform.ended(pipeline=pipeline, sha=sha)
    assert run["status"]["phase"] in ("Failed", "Error")
    failed = [n for n in run["status"]["nodes"].values() if n["type"] == "Pod" and n["phase"] in ("Failed", "Error")]
    assert failed
    assert all(n["displayName"].startswith(step) for n in failed), failed
    assert words in said, said
    assert "Traceback" not in said
    assert not platform.runs(pipeline="release", sha=sha)
    assert platform.registered() == []
    assert platform.releases() == []


def test_a_step_that_is_killed_runs_again(shared):
    platform, work = shared
    contract = CONTRACT.replace("cp model.onnx $MODEL_DIR/,", "'sleep 2 && cp model.onnx $MODEL_DIR/',")
    sha = work.commit(service(contract, wrong=True))
    pusher = threading.Thread(target=work.git, args=("push", "origin", "HEAD:main"))
    pusher.start()
    import psutil

    def training():
        sleeping = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "2"]]
        return [p for p in sleeping if str(platform.home) in p.environ().get("MODEL_DIR", "")]

    until(training, "training to begin")[0].kill()
    pusher.join()
    run = platform.ended(pipeline="ct", sha=sha)
    assert names(run)["train-cpu(0)"] in ("Failed", "Error")
    assert names(run)["train-cpu(1)"] == "Succeeded"
    assert names(run)["gate(0)"] == "Failed"


def test_training_that_prints_100_mb_neither_fills_the_disk_nor_stops_the_run(shared):
    platform, work = shared
    noisy = "'head -c 100000000 /dev/zero | tr \"\\\\0\" x | fold -w 200; cp model.onnx $MODEL_DIR/',"
    sha = work.commit(service(wrong=True, contract=CONTRACT.replace("cp model.onnx $MODEL_DIR/,", noisy)))
    work.push()
    run = platform.ended(pipeline="ct", sha=sha)
    assert names(run)["train-cpu(0)"] == "Succeeded"
    logs = sum(path.stat().st_size for path in (platform.home / "pods").rglob("*.log*"))
    assert logs < 30_000_000


def test_solo_says_which_port_is_taken(platform, tmp_path):
    port = platform.endpoints["ARGO_URL"].rsplit(":", 1)[1]
    assert port
    import socket

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 2746))
            taken.listen()
        except OSError:
            pass  # somebody has it already, which is as good
        done = platform.yard("solo", "up", "--home", str(tmp_path / "other"), check=False)
    assert done.returncode == 6
    assert "2746" in done.stderr
    assert "Traceback" not in done.stderr
