"""`yard doctor`: what it says of a machine, from recordings.

`doctor/openeuler-24.03.json` is a machine on which nothing is to do, written from the formats that the programs print
(no such machine was at hand). Each other machine differs from it in one answer or a few.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cli import doctor
from pipelines.cli.doctor import CHECKS, MISSING, TIMED_OUT, Answer, Recording, evaluate
from pipelines.errors import Exit

ROOT = Path(__file__).parents[2]
GOOD = Path(__file__).parent / "doctor" / "openeuler-24.03.json"
PINNED = "v1.36"
NO_SUCH = Answer(code=MISSING)
COMMANDS = sorted({command for check in CHECKS for command in check.commands})


def says(text, code=0):
    return Answer(code=code, out=text)


def changed(changes):
    return Recording(outputs={**doctor.load(GOOD).outputs, **changes})


def verdict(name, changes):
    """Of the good machine with some answers changed; the other checks do not mind."""
    verdicts = evaluate(changed(changes), PINNED)
    assert {other for other, said in verdicts.items() if said.state != "ok"} <= {name}
    return verdicts[name]


def listening(*lines):
    return {doctor.PORTS: says("".join(f"{line}\n" for line in lines))}


ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
SP1 = 'ID="openEuler"\nVERSION="24.03 (LTS-SP1)"\nVERSION_ID="24.03"\nPRETTY_NAME="openEuler 24.03 (LTS-SP1)"\n'
TRUSTED = doctor.FIREWALL_TRUSTED
# check → what differs, what is found, what to do
FAILS = [
    ("system", {doctor.SYSTEM: says(SP1)}, "openEuler 24.03 (LTS-SP1)", "SP2 or newer"),
    ("cgroup", {doctor.CGROUP: says("tmpfs\n")}, "v1", "systemd.unified_cgroup_hierarchy=1"),
    ("selinux", {doctor.SELINUX_RPM: says("k3s-selinux-1.6-1.el9.noarch\n")}, "1.6-1.el9", "dnf remove k3s-selinux"),
    (
        "selinux",
        {doctor.SELINUX_REPO: says("/etc/yum.repos.d/rancher-k3s-common.repo\n")},
        "left its repository",
        "rm /etc/yum.repos.d/rancher-k3s-common.repo",
    ),
    ("firewalld", {TRUSTED: says("\n")}, "10.42.0.0/16 and 10.43.0.0/16", "--add-source=10.43.0.0/16"),
    ("firewalld", {TRUSTED: says("10.42.0.0/16\n")}, "not trust 10.43.0.0/16", "--add-source=10.43.0.0/16"),
    ("iptables", {doctor.IPTABLES: says("iptables v1.8.4 (nf_tables)\n")}, "v1.8.4", "prefer-bundled-bin: true"),
    ("iptables", {doctor.IPTABLES: says("iptables v1.8.0 (legacy)\n")}, "v1.8.0", "prefer-bundled-bin: true"),
    ("nfs", {doctor.NFS: NO_SUCH}, "no NFS client", "dnf install -y nfs-utils"),
    ("nfs", {doctor.NFS_MODULE: says("", 1)}, "no module nfs", "reboot"),
    (
        "time",
        {doctor.CLOCK: says("NTPSynchronized=no\n"), doctor.CHRONY: says("Leap status     : Not synchronised\n")},
        "not synchronised",
        "enable --now chronyd",
    ),
    ("ports", listening("tcp LISTEN 0 4096 *:6443 *:*"), "6443/tcp (Kubernetes API)", "ss -lntup"),
    ("ports", listening("tcp LISTEN 0 4096 127.0.0.1:10010 0.0.0.0:*"), "10010/tcp", "ss -lntup"),
    ("ports", listening("tcp LISTEN 0 128 [::]:10250 [::]:*"), "10250/tcp (kubelet)", "ss -lntup"),
    ("ports", listening("udp UNCONN 0 0 0.0.0.0:8472 0.0.0.0:*"), "8472/udp (flannel)", "ss -lntup"),
    ("disk", {doctor.DISK: says("1B-blocks Avail Mounted on\n60000000000 39000000000 /\n")}, "39 GB", "make room"),
    ("memory", {doctor.MEMORY: says("MemTotal:  3879012 kB\n")}, "4.0 GB", "12 GiB"),
    ("route", {doctor.ROUTES: says(f"{ROUTE_HEAD}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")},
     "no default route", "ip route add default"),
    ("route", {doctor.ROUTES: says(f"{ROUTE_HEAD}eth0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0\n")},
     "no default route", "ip route add default"),
    (
        "k3s",
        {doctor.K3S_OF_PACKAGE: says("k3s version v1.24.2+k3s1 (0a1b2c3d)\ngo version go1.18.1\n")},
        "/usr/bin/k3s is v1.24.2+k3s1",
        "dnf remove k3s",
    ),
    ("k3s", {doctor.WANTED: says("v1.35.2+k3s1\n")}, "INSTALL_K3S_VERSION is v1.35.2+k3s1", "v1.36"),
]  # fmt: skip
WARNS = [
    ("system", {doctor.SYSTEM: says('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')}, "not openEuler"),
    ("system", {doctor.SYSTEM: says('ID="openEuler"\nVERSION_ID="22.03"\n')}, "openEuler"),
    ("selinux", {doctor.SKIP: says("", 1)}, "would install"),
    ("firewalld", {doctor.FIREWALL_PORTS: says("\n")}, "6443/tcp is closed"),
    ("firewalld", {TRUSTED: Answer(code=253, err="Authorization failed.")}, "not shown to this user"),
    ("iptables", {doctor.IPTABLES: says("iptables v1.6.1\n")}, "v1.6.1"),
    ("ports", listening("tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:*"), "80/tcp (Traefik)"),
    ("disk", {doctor.DISK: says("1B-blocks Avail Mounted on\n500000000000 60000000000 /\n")}, "fuller than 85 %"),
    ("memory", {doctor.MEMORY: says("MemTotal:  7969612 kB\n")}, "largest step"),
    ("k3s", {doctor.K3S_OF_INSTALLER: says("k3s version v1.33.1+k3s1 (0a1b2c3d)\n")}, "/usr/local/bin/k3s is v1.33.1"),
]
FINE = [
    ("selinux", {doctor.SKIP: says("", 1), doctor.POLICIES: says("", 2)}, "will not install a policy"),
    ("selinux", {doctor.SKIP: says("", 1), doctor.SELINUX_RPM: NO_SUCH}, "will not install a policy"),
    ("firewalld", {doctor.FIREWALL: NO_SUCH, TRUSTED: NO_SUCH, doctor.FIREWALL_PORTS: NO_SUCH}, "not running"),
    ("firewalld", {doctor.FIREWALL: Answer(code=252, err="not running\n"), TRUSTED: says("", 252)}, "not running"),
    ("iptables", {doctor.IPTABLES: NO_SUCH}, "k3s uses its own"),
    (
        "iptables",
        {doctor.IPTABLES: says("iptables v1.8.4\n"), doctor.CONFIGURED_BUNDLE: says("prefer-bundled-bin: true\n")},
        "k3s will use its own",
    ),
    ("iptables", {doctor.IPTABLES: says("iptables v1.8.10 (nf_tables)\n")}, "v1.8.10"),
    ("nfs", {doctor.NFS_MODULE: NO_SUCH}, "nfs-utils 2.6.4"),
    ("time", {doctor.CLOCK: NO_SUCH}, "synchronised"),
    ("time", {doctor.CHRONY: NO_SUCH}, "synchronised"),
    ("ports", listening(), "free"),
    ("ports", {**listening("tcp LISTEN 0 4096 *:6443 *:*"), doctor.K3S_ACTIVE: says("active\n")}, "runs already"),
    (
        "disk",  # it has a disk of its own
        {doctor.DISK: says("1B-blocks Avail Mounted on\n9000000000 1 /\n300000000000 290000000000 /var/lib/rancher\n")},
        "290 GB free of 300 GB at /var/lib/rancher",
    ),
    ("memory", {doctor.MEMORY: says("MemTotal:  12010000 kB\n")}, "12.3 GB"),
    ("k3s", {doctor.K3S_OF_INSTALLER: says("k3s version v1.36.2+k3s1 (0a1b2c3d)\n")}, "v1.36.2+k3s1 is installed"),
    ("k3s", {doctor.WANTED: says("v1.36.2+k3s1\n")}, "none yet"),
]


def test_a_good_machine_needs_nothing(yard):
    said = yard("doctor", "--from", str(GOOD))
    assert (said.code, said.err) == (Exit.OK, "")
    lines = said.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["✓", check.name] for check in CHECKS]
    assert lines[0] == "✓ system    openEuler 24.03 (LTS-SP2)"


def test_the_good_recording_has_what_record_writes_and_no_more():
    assert sorted(doctor.load(GOOD).outputs) == COMMANDS
    assert GOOD.read_text() == doctor.load(GOOD).model_dump_json(indent=2) + "\n"


@pytest.mark.parametrize(("name", "changes", "found", "todo"), FAILS)
def test_what_breaks_k3s_fails_and_says_what_to_do(name, changes, found, todo):
    said = verdict(name, changes)
    assert said.state == "fail"
    assert found in said.found
    assert todo in "\n".join(said.todo)


def test_every_check_can_fail():
    assert {name for name, *_ in FAILS} == {check.name for check in CHECKS}


@pytest.mark.parametrize(("name", "changes", "found"), WARNS)
def test_what_may_do_harm_is_a_warning_with_a_next_step(name, changes, found):
    said = verdict(name, changes)
    assert said.state == "warn"
    assert found in said.found
    assert said.todo


@pytest.mark.parametrize(("name", "changes", "found"), FINE)
def test_what_does_no_harm_is_fine(name, changes, found):
    said = verdict(name, changes)
    assert (said.state, said.todo) == ("ok", ())
    assert found in said.found


def test_a_failed_check_is_told_with_its_next_step_and_ends_with_invalid(yard, tmp_path):
    file = tmp_path / "box.json"
    file.write_text(changed({doctor.CGROUP: says("tmpfs\n"), doctor.NFS: NO_SUCH}).model_dump_json())
    said = yard("doctor", "--from", str(file))
    assert said.code == Exit.INVALID
    lines = said.out.splitlines()
    at = lines.index("✗ cgroup    v1, on which the kubelet does not start")
    assert lines[at + 1 : at + 3] == [
        "            → sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1",
        "            → sudo reboot",
    ]
    assert lines[-1] == "failed: cgroup, nfs"


def test_a_warning_alone_does_not_stop_an_installation(yard, tmp_path):
    file = tmp_path / "box.json"
    file.write_text(changed({doctor.SKIP: says("", 1)}).model_dump_json())
    said = yard("doctor", "--from", str(file))
    assert said.code == Exit.OK
    assert re.search(r"(?m)^! selinux .*\n +→ export INSTALL_K3S_SKIP_SELINUX_RPM=true", said.out)


# what each check says when its commands do not exist: some are answered by that
WITHOUT = {"firewalld": "ok", "iptables": "ok", "k3s": "ok", "selinux": "ok", "nfs": "fail"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_commands_that_do_not_exist_are_an_answer(check):
    said = evaluate(changed(dict.fromkeys(check.commands, NO_SUCH)), PINNED)[check.name]
    assert said.state == WITHOUT.get(check.name, "warn")
    assert said.state == "ok" or said.todo


# selinux: that rpm does not know the package is its good answer, however it says so
@pytest.mark.parametrize("check", [check for check in CHECKS if check.name != "selinux"], ids=lambda check: check.name)
@pytest.mark.parametrize("answer", [says("%$#\x00\ufffd nonsense\n"), Answer(code=TIMED_OUT), says("", 1)])
def test_what_is_not_understood_is_not_called_good(check, answer):
    said = evaluate(changed(dict.fromkeys(check.commands, answer)), PINNED)[check.name]
    assert said.state in ("warn", "fail")
    assert said.todo


ANSWERS = st.builds(
    Answer,
    code=st.sampled_from([0, 1, 126, MISSING, TIMED_OUT]),
    out=st.one_of(
        st.text(), st.sampled_from([answer.out + "9" * 5000 for answer in doctor.load(GOOD).outputs.values()])
    ),
    err=st.text(max_size=9),
)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(COMMANDS, ANSWERS)))
def test_no_answer_makes_a_check_fall_over(outputs):
    for said in evaluate(Recording(outputs=outputs), PINNED).values():
        assert said.found
        assert said.state == "ok" or said.todo


def test_an_older_recording_is_judged_as_far_as_it_goes():
    outputs = {command: answer for command, answer in doctor.load(GOOD).outputs.items() if command != doctor.DISK}
    said = evaluate(Recording(outputs=outputs), PINNED)
    assert {name for name, one in said.items() if one.state != "ok"} == {"disk"}
    assert said["disk"].found == "not in this recording"


def test_this_machine_is_looked_at_and_its_recording_is_judged_alike(yard, tmp_path, monkeypatch):
    monkeypatch.setenv("SOMETHING_SECRET", "hunter2-hunter2")
    file = tmp_path / "box.json"
    here = yard("doctor", "--record", str(file))
    assert here.code in (Exit.OK, Exit.INVALID)
    assert here.err == ""
    heads = [line.split()[1] for line in here.out.splitlines() if line[0] in "✓!✗"]
    assert heads == [check.name for check in CHECKS]
    assert "hunter2" not in file.read_text()
    there = yard("doctor", "--from", str(file))
    assert there == here


def test_a_command_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "TIMEOUT", 0.2)
    hangs = doctor.Check("hangs", ("sleep 60", "no-such-program-here"), "", lambda box: doctor.unknown(box, "sleep 60"))
    monkeypatch.setattr(doctor, "CHECKS", (hangs,))
    recording = doctor.gather()
    assert [answer.code for answer in recording.outputs.values()] == [TIMED_OUT, MISSING]
    said = evaluate(recording, PINNED)["hangs"]
    assert said.found == "cannot tell from `sleep 60`: it did not end"


def test_programs_are_found_that_only_root_has_in_its_path(monkeypatch, tmp_path):
    program = tmp_path / "only-in-sbin"
    program.write_text("#!/bin/sh\necho found, in $LC_ALL\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")  # what programs print is read: it must not be translated
    monkeypatch.setattr(doctor, "SBIN", str(tmp_path))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.Check("sbin", ("only-in-sbin",), "", lambda box: doctor.ok("")),))
    assert doctor.gather().outputs["only-in-sbin"] == says("found, in C\n")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("not JSON", "Invalid JSON"),
        ("[]", "not a recording"),
        ('{"doctor": 2, "outputs": {}}', "doctor"),
        ('{"outputs": {"getenforce": {"out": "Enforcing"}}}', "outputs.getenforce.code"),
    ],
)
def test_another_file_is_refused_by_name(yard, tmp_path, text, what):
    file = tmp_path / "box.json"
    file.write_text(text)
    said = yard("doctor", "--from", str(file))
    assert said.code == Exit.INVALID
    assert f"{file}: not a recording" in said.err
    assert what in said.err
    assert "→ write one on the machine: yard doctor --record FILE" in said.err


def test_files_that_are_not_there_and_options_that_exclude_each_other(yard, tmp_path):
    missing = yard("doctor", "--from", str(tmp_path / "none.json"))
    assert (missing.code, missing.out) == (Exit.NOT_FOUND, "")
    unwritable = yard("doctor", "--record", str(tmp_path / "no-folder" / "box.json"))
    assert unwritable.code == Exit.INVALID
    assert "cannot be written" in unwritable.err
    assert yard("doctor", "--from", str(GOOD), "--record", str(tmp_path / "x")).code == Exit.USAGE
    assert not (tmp_path / "x").exists()


def test_the_pinned_k3s_is_that_of_versions_yaml(monkeypatch):
    monkeypatch.chdir(ROOT)
    pinned = doctor.pinned_k3s()
    assert pinned == yaml.safe_load((ROOT / "versions.yaml").read_text())["components"]["k3s"]
    assert re.fullmatch(r"v1\.\d+(\.\d+\S*)?", pinned)


@pytest.mark.parametrize(
    ("version", "state"), [("v1.36.0+k3s1", "ok"), ("v1.36", "ok"), ("v1.360.0+k3s1", "fail"), ("v1.3.6+k3s1", "fail")]
)
def test_a_version_is_that_of_the_pin_or_a_release_of_it(version, state):
    assert verdict("k3s", {doctor.K3S_OF_PACKAGE: says(f"k3s version {version} (0a1b2c3d)\n")}).state == state


def test_the_memory_of_the_largest_step_is_that_of_the_templates():
    def limits(node):
        if isinstance(node, dict):
            memory = (node.get("limits") or {}).get("memory") if isinstance(node.get("limits"), dict) else None
            yield from [memory] if memory else []
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                yield from limits(one)

    units = {"Mi": 2**20, "Gi": 2**30}
    found = {
        int(limit[:-2]) * units[limit[-2:]]
        for file in (ROOT / "mlops" / "templates").glob("*.yaml")
        for document in yaml.safe_load_all(file.read_text())
        for limit in limits(document)
    }
    assert max(found) == doctor.BUILD_MEMORY


def test_the_documentation_lists_the_checks_as_they_are():
    rows = [
        f"| {check.name} | {check.wants} | {'<br>'.join(f'`{command}`' for command in check.commands)} |"
        for check in CHECKS
    ]
    written = (ROOT / "docs" / "install-openeuler.md").read_text().partition("\n## Preflight\n")[2].splitlines()
    assert [line for line in written if line.startswith("| ")][1:] == ["| --- | --- | --- |", *rows]
