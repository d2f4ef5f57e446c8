"""`yard up` and `yard down`: what they do to a cluster, in which order, and that they ask."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from pipelines.cli import box, doctor
from pipelines.cli.app import run
from pipelines.errors import Exit, YardError

OPENEULER = Path(__file__).parents[1] / "cli/doctor/openeuler-24.03.json"
CHANGES = ("apply", "label", "patch", "delete")


@pytest.fixture
def up(world, monkeypatch, capsys):
    """One run on the machine of the test; `yard secrets` has tests of its own, with a cluster of its own."""
    monkeypatch.setattr(box, "_secrets", lambda kubectl: world.folder.joinpath("secrets").touch())
    monkeypatch.setattr(box, "PAUSE", 0.0)
    monkeypatch.setattr(box, "PATIENCE", 0.0)
    monkeypatch.setattr(box.Kubectl, "__init__", _on_path(box.Kubectl.__init__, world))

    def go(**options) -> tuple[Exit, str]:
        given = {"cluster": False, "skip_checks": True, "join": "", "machine": world.machine}
        code = box.up(**(given | options))
        return code, capsys.readouterr().out

    return go


def _on_path(init, world):
    def made(self, command, kubeconfig=None):
        assert kubeconfig == world.machine.kubeconfig
        init(self, command, kubeconfig)

    return made


def changes(world):
    return [line for line in world.log if line.startswith("kubectl") and any(f" {verb}" in line for verb in CHANGES)]


def test_up_installs_everything_in_order_and_says_how_to_get_in(world, up):
    code, said = up()
    assert code == Exit.OK
    state = json.loads((world.folder / "cluster.json").read_text())
    kinds = [text.split("kind: ")[1].split()[0] for text in state["applied"]]
    assert kinds == ["Namespace", "Kustomization", "AppProject", "Application"]
    assert state["nodes"][0]["metadata"]["labels"] == {}
    assert "https://argo.ml.example.com" in said
    assert "https://argocd.ml.example.com" in said
    assert "argocd-initial-admin-secret" in said
    assert "builds push to harbor.ml.example.com/trainyard: addons.harbor, or endpoints.REGISTRY" in said
    waits = [line for line in world.log if "wait --for" in line or "rollout" in line]
    assert ["node/box" in waits[0], "Ready" in waits[1]] == [True, True]
    assert "rollout status deployment.apps/argocd-server" in waits[-1]


def test_up_again_changes_nothing_and_says_so(world, up):
    up()
    world.forget()
    code, said = up()
    assert code == Exit.OK
    assert "nothing had to be changed" in said
    assert changes(world) == []
    assert [line for line in world.log if "systemctl restart" in line] == []


def test_roles_and_gpus_of_platform_yaml_become_labels_and_go_again(world, up):
    nodes = [{"name": "box", "roles": ["serve"]}, {"name": "gpu", "roles": ["train"], "gpu": True}]
    world.platform(mirror={"files": str(world.files)}, nodes=nodes)
    world.cluster(nodes=[world.node("box"), world.node("gpu")])
    up()
    found = {node["metadata"]["name"]: node["metadata"]["labels"] for node in _nodes(world)}
    assert found["box"] == {"trainyard/train": "false"}
    assert found["gpu"] == {"trainyard/serve": "false", "nvidia.com/gpu.present": "true"}
    world.platform(mirror={"files": str(world.files)}, nodes=[nodes[0], nodes[1] | {"gpu": False}])
    up()
    assert "nvidia.com/gpu.present" not in _nodes(world)[1]["metadata"]["labels"]


def _nodes(world):
    return json.loads((world.folder / "cluster.json").read_text())["nodes"]


def test_a_node_that_is_not_there_yet_is_told(world, up):
    world.platform(mirror={"files": str(world.files)}, nodes=[{"name": "box"}, {"name": "gpu"}])
    _, said = up()
    assert "node gpu is in platform.yaml, and not in the cluster" in said


def test_what_is_not_healthy_is_told_with_its_reason(world, up):
    broken = world.app(
        "harbor", "OutOfSync", "Degraded", operationState={"phase": "Failed", "message": "no such chart"}
    )
    # it says Healthy, and nothing of it could be built
    unbuilt = world.app("mlops", "Unknown", conditions=[{"type": "ComparisonError", "message": "repository not found"}])
    waiting = world.app(
        "digits-dev", "Unknown", conditions=[{"message": "services/digits/dev: app path does not exist"}]
    )
    waiting["spec"]["project"] = "services"
    parent = world.app("services", "Synced", "Degraded", resources=[{"kind": "Application", "name": "digits-dev"}])
    world.cluster(applications=[world.app("root"), parent, broken, unbuilt, waiting])
    code, said = up()
    assert code == Exit.UNAVAILABLE
    assert "harbor: OutOfSync, Degraded; no such chart" in said
    assert "mlops: Unknown, Healthy; repository not found" in said
    assert "digits-dev: Waiting" in said
    assert "services: Waiting" in said  # for that one, and for nothing else
    assert "application digits-dev: " not in said


def test_argo_cd_that_does_not_start_stops_it(world, up):
    world.cluster(stuck=True)
    with pytest.raises(YardError, match="argocd") as told:
        up()
    assert told.value.code == Exit.UNAVAILABLE


def test_the_node_trusts_the_platforms_own_ca(world, up):
    path = world.machine.root / "etc/rancher/k3s/platform-ca.crt"
    up()
    assert not path.exists()
    crt = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
    world.cluster(secrets={"trainyard-ca": {"data": {"tls.crt": crt}}})
    up()
    assert path.read_text() == "-----BEGIN CERTIFICATE-----"


def test_a_machine_that_is_not_fit_is_told_and_nothing_is_done(world, up, monkeypatch):
    recording = doctor.load(OPENEULER)
    recording.outputs[doctor.CGROUP] = doctor.Answer(code=0, out="tmpfs")
    recording.outputs[doctor.IPTABLES] = doctor.Answer(code=0, out="iptables v1.8.2 (nf_tables)")  # cured by k3s' own
    monkeypatch.setattr(doctor, "gather", lambda: recording)
    with pytest.raises(YardError, match=r"not fit: cgroup\n"):
        up(skip_checks=False)
    assert world.tree() == {}


def test_a_node_joins_only_with_a_token(world, up):
    with pytest.raises(YardError, match="no token"):
        up(join="https://box:6443")
    token = world.machine.root / "etc/rancher/k3s/token"
    token.parent.mkdir(parents=True)
    token.write_text("K10")
    code, said = up(join="https://box:6443")
    assert code == Exit.OK
    assert "joins https://box:6443" in said
    assert not [line for line in world.log if line.startswith("kubectl")]


def test_a_cluster_and_a_node_exclude_each_other():
    with pytest.raises(YardError) as told:
        run(["up", "--cluster", "--join", "https://box:6443"])
    assert told.value.code == Exit.USAGE


# ---- down


@pytest.fixture
def terminal(monkeypatch):
    """A person at a terminal, who types."""
    person, program = os.openpty()
    with os.fdopen(program) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield lambda text: os.write(person, text.encode())
    os.close(person)


def test_down_asks_and_only_the_domain_is_a_yes(world, up, terminal, capsys):
    up()
    terminal("yes\n")
    with pytest.raises(YardError, match="another domain") as told:
        box.down(cluster=False, yes=False, machine=world.machine)
    assert told.value.code == Exit.USAGE
    assert "uninstalled" not in world.log
    terminal("ml.example.com\n")
    box.down(cluster=False, yes=False, machine=world.machine)
    assert "uninstalled" in world.log
    said = capsys.readouterr().out
    assert "gs://trainyard-registry" in said
    assert "acme/releases" in said
    assert not world.machine.installed_by_us


def test_down_without_anybody_to_ask_does_nothing(world, up, monkeypatch):
    up()
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        with pytest.raises(YardError, match="nobody is there to ask") as told:
            box.down(cluster=False, yes=False, machine=world.machine)
    assert told.value.code == Exit.USAGE
    assert "uninstalled" not in world.log
    box.down(cluster=False, yes=True, machine=world.machine)
    assert "uninstalled" in world.log


def test_down_leaves_a_k3s_of_others_alone(world):
    with pytest.raises(YardError, match="did not install k3s"):
        box.down(cluster=False, yes=True, machine=world.machine)


def test_up_after_down_is_up_again(world, up):
    up()
    box.down(cluster=False, yes=True, machine=world.machine)
    world.forget()
    up()
    assert [line for line in world.log if "systemctl restart" in line] == ["systemctl restart k3s"]
