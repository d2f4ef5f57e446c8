"""k3s on a machine: what is installed is what is pinned, a second run changes nothing, a killed one is completed."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import yaml
from box_world import IMAGES, ROOT, VERSION

from pipelines import platform
from pipelines.cli import k3s
from pipelines.errors import Exit, YardError


def config(world, name):
    return yaml.safe_load((world.machine.root / "etc/rancher/k3s" / name).read_text())


def restarts(world):
    return [line for line in world.log if line.startswith("systemctl restart")]


def test_a_bare_machine_gets_what_is_pinned_and_k3s_is_started_once(world):
    done = world.install()
    assert done.returncode == 0, done.stderr
    tree = world.tree()
    assert tree["usr/local/bin/k3s"] == (0o755, (world.files / "k3s").read_bytes())
    assert tree[f"var/lib/rancher/k3s/agent/images/{IMAGES}"][1] == b"images"
    assert tree["etc/rancher/k3s/config.yaml"][0] == 0o600
    assert config(world, "config.yaml") == {
        "node-name": "box",
        "prefer-bundled-bin": True,
        "write-kubeconfig-mode": "0600",
        "secrets-encryption": True,
        "tls-san": ["ml.example.com"],
    }
    assert f"installer server {VERSION} skip=true,true token=" in world.log  # and no K3S_ variable of another cluster
    assert restarts(world) == ["systemctl restart k3s"]


def test_traefik_lets_a_large_layer_take_its_time(world):
    world.install()
    body = yaml.safe_load(
        (world.machine.root / "var/lib/rancher/k3s/server/manifests/trainyard-traefik.yaml").read_text()
    )
    assert (body["kind"], body["metadata"]) == ("HelmChartConfig", {"name": "traefik", "namespace": "kube-system"})
    ports = yaml.safe_load(body["spec"]["valuesContent"])["ports"]
    for port in ("web", "websecure"):
        assert ports[port]["transport"]["respondingTimeouts"]["readTimeout"] == "3600s"


def test_the_second_run_changes_nothing(world):
    world.install()
    before = world.tree()
    world.forget()
    done = world.install()
    assert (done.returncode, done.stdout.strip()) == (0, "")
    assert world.tree() == before
    assert world.log == ["systemctl is-active --quiet k3s"]


@pytest.mark.parametrize("name", ["k3s", "install.sh", IMAGES])
def test_a_file_with_another_checksum_is_refused_and_not_installed(world, name):
    (world.files / name).write_text("#!/bin/sh\necho mischief\n")
    done = world.install()
    assert done.returncode == 1
    assert "its sha256 is" in done.stderr
    assert f"{world.files / name}" in done.stderr
    assert "mischief" not in str(world.tree().values())
    assert restarts(world) == []


def test_a_file_that_is_not_pinned_is_refused_with_the_line_to_add(world):
    digest = k3s.pins(world.checkout / "versions.yaml").files["k3s"]
    (world.files / "sha256sum-amd64.txt").write_text(f"{'0' * 64}  k3s-arm64\n{digest}  k3s\n")
    world.pin("install.sh", IMAGES)
    done = world.install()
    assert done.returncode == 1
    assert f"      k3s: {VERSION}@sha256:{digest}" in done.stderr
    world.pin("k3s", IMAGES)
    assert "install.sh: '@sha256:" in world.install().stderr
    assert restarts(world) == []


def test_an_upgrade_without_new_checksums_is_told_where(world):
    path = world.checkout / "versions.yaml"
    path.write_text(path.read_text().replace(f"k3s: {VERSION}\n", "k3s: v1.36.4+k3s1\n", 1))
    done = world.install()
    assert done.returncode == 1
    assert "versions.yaml: k3s." in done.stderr
    assert "components.k3s is v1.36.4+k3s1" in done.stderr


def test_an_upgrade_replaces_k3s_and_restarts_it(world):
    world.install()
    (world.files / "k3s").write_text((world.files / "k3s").read_text() + "# newer\n")
    world.pin("k3s", "install.sh", IMAGES, version="v1.36.4+k3s1")
    world.forget()
    done = world.install()
    assert "k3s v1.36.4+k3s1 was started" in done.stdout
    assert restarts(world) == ["systemctl restart k3s"]


def test_a_changed_setting_restarts_k3s_once(world):
    world.install()
    world.platform(mirror={"files": str(world.files)}, domain="other.example.com")
    world.forget()
    assert "config.yaml is changed" in world.install().stdout
    assert restarts(world) == ["systemctl restart k3s"]
    world.forget()
    world.install()
    assert restarts(world) == []


def test_k3s_that_was_stopped_is_started_again(world):
    world.install()
    (world.folder / "active").unlink()
    assert "was not running" in world.install().stdout


@pytest.mark.parametrize("where", ["die-in-installer", "die-in-restart", "die-after-restart"])
def test_a_run_that_was_killed_is_completed_by_the_next(world, where):
    (world.folder / where).touch()
    assert world.install().returncode == -9
    world.forget()
    done = world.install()
    assert done.returncode == 0, done.stderr
    assert restarts(world) == ["systemctl restart k3s"]  # whether the first was started in full, nobody knows
    world.forget()
    assert world.install().stdout.strip() == ""
    assert restarts(world) == []


def test_a_run_that_was_killed_while_it_fetched_is_completed_by_the_next(world):
    whole, path = (world.files / "k3s").read_bytes(), world.files / "k3s"
    path.unlink()
    os.mkfifo(path)  # half of the file comes, and no more
    process = world.start()
    with path.open("wb") as pipe:
        pipe.write(whole[: len(whole) // 2])
        pipe.flush()
        process.kill()
        process.wait(10)
    path.unlink()
    path.write_bytes(whole)
    assert not (world.machine.root / "usr/local/bin/k3s").exists()
    assert world.install().returncode == 0
    assert not list((world.machine.root / "usr/local/bin").glob(".*"))


def test_from_an_address(world, address):
    world.platform(mirror={"files": address})
    done = world.install()
    assert done.returncode == 0, done.stderr
    assert world.tree()[f"var/lib/rancher/k3s/agent/images/{IMAGES}"][1] == b"images"


def test_a_mirror_without_the_images_is_no_mistake_and_one_without_k3s_is(world, address):
    world.platform(mirror={"files": address})
    (world.files / IMAGES).unlink()
    assert world.install().returncode == 0
    (world.files / "k3s").unlink()
    (world.machine.root / "usr/local/bin/k3s").unlink()
    done = world.install()
    assert f"{address}/k3s: HTTP 404" in done.stderr
    assert "mirror.files" in done.stderr


def test_a_mirror_that_does_not_answer_is_told(world):
    world.platform(mirror={"files": "http://127.0.0.1:1"})
    done = world.install()
    assert "http://127.0.0.1:1/install.sh: does not answer" in done.stderr


def test_what_does_not_start_is_told_and_tried_again(world):
    (world.folder / "broken").touch()
    done = world.install()
    assert "Job for k3s.service failed" in done.stderr
    assert "journalctl -u k3s" in done.stderr
    (world.folder / "broken").unlink()
    assert "was started" in world.install().stdout


def test_a_line_that_yard_doctor_advised_is_taken_over_and_a_file_of_others_is_not_touched(world):
    path = world.machine.root / "etc/rancher/k3s/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("prefer-bundled-bin: true\n")
    assert world.install().returncode == 0
    path.write_text("cluster-cidr: 10.0.0.0/16\n")
    done = world.install()
    assert done.returncode == 1
    assert "config.yaml.d/own.yaml" in done.stderr
    assert path.read_text() == "cluster-cidr: 10.0.0.0/16\n"


def test_a_k3s_of_others_is_not_replaced(world):
    path = world.machine.root / "usr/local/bin/k3s"
    path.parent.mkdir(parents=True)
    path.write_text("of others")
    done = world.install()
    assert "not by `yard up`" in done.stderr
    assert world.tree() == {"usr/local/bin/k3s": (path.stat().st_mode & 0o777, b"of others")}


@pytest.mark.parametrize(("first", "second"), [("", "https://other:6443"), ("https://box:6443", "")])
def test_a_server_does_not_become_a_node_nor_a_node_a_server(world, first, second):
    world.install(first)
    before = world.tree()
    done = world.install(second)
    assert done.returncode == 1
    assert "-uninstall.sh first" in done.stderr
    assert world.tree() == before


def test_a_node_joins_with_a_token_and_has_no_server(world):
    done = world.install("https://box:6443")
    assert done.returncode == 0, done.stderr
    assert config(world, "config.yaml")["server"] == "https://box:6443"
    assert config(world, "config.yaml")["token-file"].endswith("etc/rancher/k3s/token")
    assert not (world.machine.root / "var/lib/rancher/k3s/server").exists()
    assert restarts(world) == ["systemctl restart k3s-agent"]
    assert any(line.startswith("installer agent ") for line in world.log)


# ---- registries.yaml and names, of the settings alone


def mirrors(**options):
    body = yaml.safe_load((ROOT / "platform.yaml").read_text()) | {"domain": "ml.example.com"} | options
    return k3s.mirrors(platform.load(yaml.safe_dump(body)))


OWN = {"postgresql": True, "harbor": True}
TRUST = {"harbor.ml.example.com": {"tls": {"ca_file": "/etc/rancher/k3s/platform-ca.crt"}}}


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({}, {}),
        ({"tls": {"issuer": "letsencrypt", "email": "a@b.c"}, "addons": OWN}, {}),
        ({"addons": OWN}, {"configs": TRUST}),
        (
            {"mirror": {"images": "registry.lan:5000"}},
            {
                "mirrors": {
                    "*": {"endpoint": ["https://registry.lan:5000"]},
                    # with its port: k3s ignores an endpoint that is the default, and the default is off
                    "harbor.ml.example.com": {"endpoint": ["https://harbor.ml.example.com:443"]},
                }
            },
        ),
        (
            {"endpoints": {"REGISTRY": "10.0.0.2:5000/ml", "REGISTRY_URL": "http://10.0.0.2:5000"}},
            {"mirrors": {"10.0.0.2:5000": {"endpoint": ["http://10.0.0.2:5000"]}}},
        ),
    ],
)
def test_registries_yaml(options, body):
    assert mirrors(**options) == body


def test_the_own_registry_is_trusted_by_each_of_its_names():
    body = mirrors(mirror={"images": "registry.lan:5000"}, addons=OWN)
    assert body["configs"] == TRUST | {"harbor.ml.example.com:443": TRUST["harbor.ml.example.com"]}


def test_a_mirror_below_a_path():
    assert mirrors(mirror={"images": "r.lan/all"})["mirrors"]["*"] == {"endpoint": ["https://r.lan/v2/all"]}


def test_with_a_mirror_nothing_is_asked_of_the_internet(world):
    world.platform(mirror={"files": str(world.files), "images": "registry.lan:5000"})
    world.install()
    assert config(world, "config.yaml")["disable-default-registry-endpoint"] is True
    assert config(world, "registries.yaml")["mirrors"]["*"]
    world.platform(mirror={"files": str(world.files)})
    assert "registries.yaml is gone" in world.install().stdout


@pytest.mark.parametrize(
    ("own", "nodes", "name"),
    [
        ("box", ["box", "gpu"], "box"),
        ("GPU.lan", ["box", "gpu"], "gpu"),
        ("gpu.lan", ["box", "gpu.lan"], "gpu.lan"),
        ("localhost.localdomain", ["box"], "box"),
    ],
)
def test_the_node_is_called_what_platform_yaml_calls_it(world, own, nodes, name):
    world.platform(nodes=[{"name": node} for node in nodes])
    found = platform.load(world.checkout / "platform.yaml")
    assert k3s.node_name(world.machine._replace(name=own), found) == name


def test_a_machine_that_platform_yaml_does_not_know_is_told(world):
    world.platform(nodes=[{"name": "box"}, {"name": "gpu"}])
    found = platform.load(world.checkout / "platform.yaml")
    with pytest.raises(YardError) as told:
        k3s.node_name(world.machine._replace(name="third.lan"), found)
    assert told.value.code == Exit.INVALID
    assert "- {name: third}" in told.value.todo


def test_the_committed_pins_have_k3s_for_both_architectures():
    found = k3s.pins(ROOT / "versions.yaml")
    assert {"k3s", "k3s-arm64", "install.sh"} <= found.files.keys()


def test_the_commands_of_the_documents_find_what_they_look_for():
    texts = "".join((ROOT / "docs" / name).read_text() for name in ("operations.md", "install-openeuler.md"))
    awks = re.findall(r"\$\((awk '[^']+' versions\.yaml)\)", texts)
    said = [subprocess.run(["bash", "-c", awk], cwd=ROOT, capture_output=True, text=True, check=True) for awk in awks]
    own = ["ghcr.io/trainyard/pipelines", "ghcr.io/trainyard/serving", "ghcr.io/trainyard/storage"]
    assert said[0].stdout.split() == [k3s.pins(ROOT / "versions.yaml").version]
    assert [name.partition(":")[0] for name in said[1].stdout.split()] == own
