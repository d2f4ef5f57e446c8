"""`yard doctor`: whether a machine is fit for k3s and the platform, before anything is installed.

A check is data: what it looks at, and a pure function from the recorded outputs to a verdict. So a recording from
another machine can be judged here, and every check is tested on recordings.

Sources: k3s: its documentation (installation/requirements, known-issues, installation/airgap) and install.sh; Harbor:
its installation prerequisites; cgroup v1: KEP-5573 (the kubelet of Kubernetes 1.35 and newer refuses it).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from pipelines.cli.addresses import checkout
from pipelines.errors import Exit, YardError

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
TIMEOUT = 10  # seconds a command may take; all of them answer at once unless something is badly wrong
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # not every user has it in PATH
MISSING, TIMED_OUT = 127, 124  # as shells and timeout(1) say it

PODS, SERVICES = "10.42.0.0/16", "10.43.0.0/16"  # k3s' own defaults
GB = 10**9
K3S_MEMORY, HARBOR_MEMORY, HARBOR_DISK = 2 * GB, 4 * GB, 40 * GB  # what their makers call the minimum
BUILD_MEMORY = 4 * 2**30  # the largest limit of a step in mlops/templates: ci's `build`; a test compares
IMAGES_DELETED = 0.15  # the kubelet deletes unused images above 85 % (imageGCHighThresholdPercent)
TCP = {
    6443: "Kubernetes API",
    6444: "Kubernetes API, local",
    10010: "containerd",
    10248: "kubelet",
    10249: "kube-proxy",
    10250: "kubelet",
    10256: "kube-proxy",
    10257: "controller manager",
    10258: "cloud controller",
    10259: "scheduler",
}
UDP = {8472: "flannel"}
WEB = {80: "Traefik", 443: "Traefik"}  # these are taken by redirection: k3s starts, the other server gets no visitors

# what is looked at: commands, so that one runner gathers everything, and a reader can type them
CGROUP = "stat -fc %T /sys/fs/cgroup"
CHRONY = "chronyc -n tracking"
CLOCK = "timedatectl show --property=NTPSynchronized"
CONFIGURED_BUNDLE = "grep -x 'prefer-bundled-bin: true' /etc/rancher/k3s/config.yaml"  # the rest may be secret
DISK = "df -B1 --output=size,avail,target /var/lib /var/lib/rancher"
FIREWALL = "firewall-cmd --state"
FIREWALL_PORTS = "firewall-cmd --list-ports"
FIREWALL_TRUSTED = "firewall-cmd --zone=trusted --list-sources"
IPTABLES = "iptables --version"
K3S_ACTIVE = "systemctl is-active k3s"
K3S_OF_INSTALLER = "/usr/local/bin/k3s --version"
K3S_OF_PACKAGE = "/usr/bin/k3s --version"
MEMORY = "cat /proc/meminfo"
NFS = "mount.nfs -V"
NFS_MODULE = "modinfo -F description nfs"
POLICIES = "ls -d /usr/share/selinux"
PORTS = "ss -Hlntu"
ROUTES = "cat /proc/net/route"
SELINUX = "getenforce"
SELINUX_REPO = "ls /etc/yum.repos.d/rancher-k3s-common.repo"
SELINUX_RPM = "rpm -q k3s-selinux"
SKIP = "printenv INSTALL_K3S_SKIP_SELINUX_RPM"
SYSTEM = "cat /etc/os-release"
WANTED = "printenv INSTALL_K3S_VERSION"


class Answer(BaseModel):
    """What a command said. `code` is 127 if there is no such command, 124 if it did not end."""

    code: int
    out: str = ""
    err: str = ""


class Recording(BaseModel):
    """Command → answer: what `--record` writes. No name of a host, and nothing that anybody would keep secret."""

    doctor: Literal[1] = 1
    outputs: dict[str, Answer]


class Box(NamedTuple):
    """A machine as recorded, and the k3s that versions.yaml pins."""

    outputs: dict[str, Answer]
    k3s: str

    def out(self, command: str) -> str:
        """The standard output of a command that succeeded, else nothing."""
        answer = self.outputs[command]
        return answer.out.strip() if answer.code == 0 else ""

    def missing(self, command: str) -> bool:
        return self.outputs[command].code == MISSING


class Verdict(NamedTuple):
    """`todo`: lines that a person can act upon; empty only if the check is ok."""

    state: Literal["ok", "warn", "fail"]
    found: str
    todo: tuple[str, ...] = ()


class Check(NamedTuple):
    """`wants` is for the documentation: what passes, and who says so."""

    name: str
    commands: tuple[str, ...]
    wants: str
    judge: Callable[[Box], Verdict]


def ok(found: str) -> Verdict:
    return Verdict("ok", found)


def warn(found: str, *todo: str) -> Verdict:
    return Verdict("warn", found, todo)


def fail(found: str, *todo: str) -> Verdict:
    return Verdict("fail", found, todo)


def unknown(box: Box, command: str) -> Verdict:
    """Nothing can be said, as the answer is none that is understood."""
    answer = box.outputs[command]
    said = (answer.out.strip() or answer.err.strip()).partition("\n")[0][:80]
    why = {MISSING: "there is no such command", TIMED_OUT: "it did not end"}.get(answer.code, f"it said {said!r}")
    return warn(f"cannot tell from `{command}`: {why}", f"look yourself: {command}")


def system(box: Box) -> Verdict:
    fields = {key: value.strip("\"'") for key, value in re.findall(r"^(\w+)=(.*)$", box.out(SYSTEM), re.MULTILINE)}
    name = fields.get("PRETTY_NAME") or fields.get("ID", "")
    if not name:
        return unknown(box, SYSTEM)
    if fields.get("ID", "").lower() != "openeuler":
        return warn(f"{name}, not openEuler", "these checks were made for openEuler 24.03 LTS; read them with care")
    if re.search(r"24\.03 .*SP1\b", fields.get("VERSION", "")):
        return fail(f"{name} is to be avoided", "install openEuler 24.03 LTS with another service pack: SP2 or newer")
    if not fields.get("VERSION_ID", "").startswith("24.03"):
        return warn(f"{name}", "the platform is made for openEuler 24.03 LTS; use it if you can choose")
    return ok(name)


def cgroup(box: Box) -> Verdict:
    kind = box.out(CGROUP)
    if kind == "cgroup2fs":
        return ok("v2")
    if kind != "tmpfs":
        return unknown(box, CGROUP)
    return fail(
        "v1, on which the kubelet does not start",
        "sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1",
        "sudo reboot",
    )


def selinux(box: Box) -> Verdict:
    """install.sh takes openEuler 24 for RHEL 9, and installs RHEL's policy for k3s with its dependencies, or stops."""
    mode = box.out(SELINUX) or "no SELinux"
    installed = box.out(SELINUX_RPM)
    if installed.startswith("k3s-selinux-"):
        return fail(
            f"{installed.splitlines()[0]} is installed, a policy made for RHEL",
            "sudo dnf remove k3s-selinux && sudo rm -f /etc/yum.repos.d/rancher-k3s-common.repo",
            "then install k3s with INSTALL_K3S_SKIP_SELINUX_RPM=true",
        )
    if box.out(SELINUX_REPO):
        return fail(
            "an installation of k3s left its repository of RHEL's packages",
            "sudo rm /etc/yum.repos.d/rancher-k3s-common.repo",
            "then install k3s with INSTALL_K3S_SKIP_SELINUX_RPM=true",
        )
    if box.missing(SELINUX_RPM) or not box.out(POLICIES):
        return ok(f"{mode}; the installer of k3s will not install a policy")
    if box.out(SKIP) == "true":
        return ok(f"{mode}; INSTALL_K3S_SKIP_SELINUX_RPM=true")
    return warn(
        f"{mode}; the installer of k3s would install a policy made for RHEL",
        "export INSTALL_K3S_SKIP_SELINUX_RPM=true before you run it",
    )


def firewalld(box: Box) -> Verdict:
    answer = box.outputs[FIREWALL]
    state = answer.out.strip() or answer.err.strip()
    if box.missing(FIREWALL) or state == "not running":
        return ok("not running")
    if state != "running":
        return unknown(box, FIREWALL)
    if box.outputs[FIREWALL_TRUSTED].code != 0:
        return warn("running; what it trusts is not shown to this user", "run `yard doctor` as root")
    trusted = box.out(FIREWALL_TRUSTED).split()
    absent = [network for network in (PODS, SERVICES) if network not in trusted]
    permanent = "sudo firewall-cmd --permanent"
    if absent:
        return fail(
            f"running, and does not trust {' and '.join(absent)}: pods would not reach each other",
            *(f"{permanent} --zone=trusted --add-source={network}" for network in absent),
            "sudo firewall-cmd --reload",
        )
    if "6443/tcp" not in box.out(FIREWALL_PORTS).split():
        return warn(
            "running, and 6443/tcp is closed: only this machine reaches the Kubernetes API",
            f"{permanent} --add-port=6443/tcp && sudo firewall-cmd --reload, if others shall",
        )
    return ok(f"running, trusts {PODS} and {SERVICES}")


def iptables(box: Box) -> Verdict:
    if box.missing(IPTABLES):
        return ok("none: k3s uses its own")
    found = re.search(r"v(\d{1,4})\.(\d{1,4})\.(\d{1,4})", box.out(IPTABLES))
    if found is None:
        return unknown(box, IPTABLES)
    version = tuple(int(part) for part in found.groups())
    bundle = (
        "sudo mkdir -p /etc/rancher/k3s",
        "echo 'prefer-bundled-bin: true' | sudo tee -a /etc/rancher/k3s/config.yaml",
    )
    if box.out(CONFIGURED_BUNDLE):
        return ok(f"{found[0]}, but k3s will use its own")
    if (1, 8, 0) <= version <= (1, 8, 4):
        return fail(f"{found[0]}: 1.8.0 to 1.8.4 pile up duplicate rules", *bundle)
    if version <= (1, 6, 1):
        return warn(f"{found[0]}: 1.6.1 and older have known trouble", *bundle)
    return ok(found[0])


def nfs(box: Box) -> Verdict:
    if box.missing(NFS):
        return fail("no NFS client: volumes from NFS (csi-driver-nfs) may not mount", "sudo dnf install -y nfs-utils")
    found = re.search(r"nfs-utils (\d[\w.-]*)", box.outputs[NFS].out + box.outputs[NFS].err)
    if found is None:
        return unknown(box, NFS)
    if not box.missing(NFS_MODULE) and box.outputs[NFS_MODULE].code != 0:
        return fail(
            f"{found[0]}, but the running kernel has no module nfs",
            "sudo reboot, if the kernel was updated since the last one; else install the kernel's modules",
        )
    return ok(found[0])


def time(box: Box) -> Verdict:
    clock, chrony = box.out(CLOCK), box.out(CHRONY)
    if clock == "NTPSynchronized=yes" or re.search(r"^Leap status\s*: (Normal|Insert|Delete)", chrony, re.MULTILINE):
        return ok("synchronised")
    if clock == "NTPSynchronized=no" or "Not synchronised" in chrony:
        return fail(
            "not synchronised: certificates and tokens of a wrong clock are refused",
            "sudo dnf install -y chrony && sudo systemctl enable --now chronyd",
            "if it runs already: name a server that this machine reaches in /etc/chrony.conf",
        )
    return unknown(box, CHRONY if box.missing(CLOCK) and not box.missing(CHRONY) else CLOCK)


def ports(box: Box) -> Verdict:
    if box.out(K3S_ACTIVE) == "active":
        return ok("k3s itself listens: it runs already")
    lines = box.out(PORTS).splitlines()
    listening = {
        (found[1], int(found[2]))
        for line in lines
        if (found := re.match(r"(tcp|udp)\s+\S+\s+\d+\s+\d+\s+\S+:(\d{1,5})\s", line))
    }
    if box.outputs[PORTS].code != 0 or (lines and not listening):
        return unknown(box, PORTS)

    def taken(kind: str, wanted: dict[int, str]) -> list[str]:
        return [f"{port}/{kind} ({use})" for port, use in wanted.items() if (kind, port) in listening]

    look = "sudo ss -lntup shows the program: stop it, or give it another port"
    if needed := [*taken("tcp", TCP), *taken("udp", UDP)]:
        return fail(f"in use: {', '.join(needed)}", look)
    if web := taken("tcp", WEB):
        return warn(f"in use: {', '.join(web)}; k3s takes their visitors", look)
    return ok("free")


def disk(box: Box) -> Verdict:
    # /var/lib/rancher may be a file system of its own, or not exist yet
    found = re.findall(r"^\s*(\d{1,18})\s+(\d{1,18})\s+(/\S*)$", box.outputs[DISK].out, re.MULTILINE)
    if not found or not int(found[-1][0]):
        return unknown(box, DISK)
    size, free, where = int(found[-1][0]), int(found[-1][1]), found[-1][2]
    told = f"{free / GB:.0f} GB free of {size / GB:.0f} GB at {where}"
    room = "make room, or mount a larger disk at /var/lib/rancher, where k3s keeps images and volumes"
    if free < HARBOR_DISK:
        return fail(f"{told}; Harbor alone wants {HARBOR_DISK // GB} GB", room)
    if free < size * IMAGES_DELETED:
        return warn(f"{told}: fuller than 85 %, where Kubernetes begins to delete images", room)
    return ok(told)


def memory(box: Box) -> Verdict:
    found = re.search(r"^MemTotal:\s+(\d{1,15}) kB$", box.out(MEMORY), re.MULTILINE)
    if found is None:
        return unknown(box, MEMORY)
    total, least = int(found[1]) * 1024, K3S_MEMORY + HARBOR_MEMORY
    told = f"{total / GB:.1f} GB"
    if total < least:
        return fail(f"{told}; k3s and Harbor want {least / GB:.0f} GB", "give the machine 12 GiB or more")
    if total < least + BUILD_MEMORY:
        return warn(
            f"{told}; with the largest step beside them, k3s and Harbor want {(least + BUILD_MEMORY) / GB:.1f} GB",
            "give the machine 12 GiB or more, or expect builds to be killed",
        )
    return ok(told)


def route(box: Box) -> Verdict:
    lines = box.out(ROUTES).splitlines()
    if not lines or not lines[0].startswith("Iface"):
        return unknown(box, ROUTES)
    for line in lines[1:]:
        match line.split():
            case [interface, "00000000", _, flags, _, _, _, "00000000", *_] if re.fullmatch(
                r"[0-9A-F]*[13579BDF]", flags
            ):
                return ok(f"through {interface}")  # odd flags: the route is up
    return fail(
        "no default route: k3s does not find its address",
        "if this machine shall have no way out, give it a route that leads nowhere:",
        "sudo ip link add dummy0 type dummy && sudo ip link set dummy0 up",
        "sudo ip addr add 203.0.113.254/31 dev dummy0",
        "sudo ip route add default via 203.0.113.255 dev dummy0 metric 1000",
    )


def k3s(box: Box) -> Verdict:
    right = re.compile(rf"{re.escape(box.k3s)}(?![0-9])")
    wanted = box.out(WANTED)
    install = f"install k3s with INSTALL_K3S_VERSION=… of {box.k3s}"
    if wanted and not right.match(wanted):
        return fail(
            f"INSTALL_K3S_VERSION is {wanted[:40]}, versions.yaml pins {box.k3s}",
            f"export INSTALL_K3S_VERSION=… of {box.k3s}",
        )
    versions: dict[str, str] = {}
    for command in (K3S_OF_PACKAGE, K3S_OF_INSTALLER):
        found = re.search(r"k3s version (v\d\S*)", box.out(command))
        if found is None and not box.missing(command):
            return unknown(box, command)
        if found:
            versions[command] = found[1]
    packaged, installed = versions.get(K3S_OF_PACKAGE, ""), versions.get(K3S_OF_INSTALLER, "")
    if packaged and not right.match(packaged):
        return fail(
            f"/usr/bin/k3s is {packaged}, a distribution's; versions.yaml pins {box.k3s}",
            "sudo dnf remove k3s",
            install,
        )
    if installed and not right.match(installed):
        return warn(
            f"/usr/local/bin/k3s is {installed}; versions.yaml pins {box.k3s}",
            "if nothing there is needed: sudo /usr/local/bin/k3s-uninstall.sh",
            "else upgrade it one minor version at a time, as Kubernetes wants",
        )
    return ok(f"{packaged or installed} is installed" if versions else f"none yet; {box.k3s} is to be installed")


CHECKS = (
    Check("system", (SYSTEM,), "openEuler 24.03 LTS, and not its SP1", system),
    Check("cgroup", (CGROUP,), "v2: from Kubernetes 1.35 on the kubelet refuses to start on v1", cgroup),
    Check(
        "selinux",
        (SELINUX, SELINUX_RPM, SELINUX_REPO, POLICIES, SKIP),
        "no k3s-selinux: k3s' installer takes openEuler for RHEL 9 unless INSTALL_K3S_SKIP_SELINUX_RPM=true",
        selinux,
    ),
    Check(
        "firewalld",
        (FIREWALL, FIREWALL_TRUSTED, FIREWALL_PORTS),
        f"off, or trusting {PODS} and {SERVICES}, with 6443/tcp open (k3s' requirements)",
        firewalld,
    ),
    Check(
        "iptables",
        (IPTABLES, CONFIGURED_BUNDLE),
        "not 1.8.0 to 1.8.4, which duplicate rules, unless k3s uses its own (k3s' known issues)",
        iptables,
    ),
    Check("nfs", (NFS, NFS_MODULE), "nfs-utils and the kernel's module, for volumes of csi-driver-nfs", nfs),
    Check("time", (CLOCK, CHRONY), "synchronised: certificates and tokens have dates", time),
    Check(
        "ports",
        (PORTS, K3S_ACTIVE),
        f"free: TCP {', '.join(map(str, TCP))}; UDP {', '.join(map(str, UDP))} (k3s' requirements); "
        f"better also {' and '.join(map(str, WEB))} (Traefik)",
        ports,
    ),
    Check(
        "disk",
        (DISK,),
        f"{HARBOR_DISK // GB} GB free (Harbor's minimum); better also {IMAGES_DELETED:.0%} of the disk, "
        "where the kubelet begins to delete images",
        disk,
    ),
    Check(
        "memory",
        (MEMORY,),
        f"{(K3S_MEMORY + HARBOR_MEMORY) // GB} GB: the minimum of k3s ({K3S_MEMORY // GB}) and of Harbor "
        f"({HARBOR_MEMORY // GB}); better {(K3S_MEMORY + HARBOR_MEMORY + BUILD_MEMORY) / GB:.1f} GB, for the largest "
        "step beside them",
        memory,
    ),
    Check("route", (ROUTES,), "a default route, even one that leads nowhere (k3s' air-gap installation)", route),
    Check(
        "k3s",
        (K3S_OF_PACKAGE, K3S_OF_INSTALLER, WANTED),
        "none yet, or the version that versions.yaml pins; none of a distribution's package with another",
        k3s,
    ),
)


def doctor(record: Path | None, source: Path | None) -> Exit:
    """Judge this machine, or the recording `source`; returns INVALID if a check failed.

    Raises YardError(INVALID) for a recording that is none, NOT_FOUND without versions.yaml, USAGE for both options.
    """
    if record and source:
        raise YardError("--record and --from exclude each other", todo="yard doctor --help", code=Exit.USAGE)
    pinned = pinned_k3s()
    recording = load(source) if source else gather()
    if record:
        try:
            record.write_text(recording.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise YardError(
                f"cannot be written: {error.strerror}", where=str(record), todo="another --record"
            ) from None
    verdicts = evaluate(recording, pinned)
    for name, verdict in verdicts.items():
        print(f"{MARKS[verdict.state]} {name:<9} {verdict.found}")
        for line in verdict.todo:
            print(f"{'':12}→ {line}")
    failed = [name for name, verdict in verdicts.items() if verdict.state == "fail"]
    if not failed:
        return Exit.OK
    print(f"failed: {', '.join(failed)}")
    return Exit.INVALID


def evaluate(recording: Recording, pinned: str) -> dict[str, Verdict]:
    """Check → verdict. An older recording may lack what a newer check looks at: then nobody knows."""
    box = Box(recording.outputs, pinned)
    absent = warn("not in this recording", "record it anew: yard doctor --record FILE")
    return {
        check.name: check.judge(box) if all(command in box.outputs for command in check.commands) else absent
        for check in CHECKS
    }


def gather() -> Recording:
    """Run every command; whatever becomes of it is an answer."""
    commands = dict.fromkeys(command for check in CHECKS for command in check.commands)
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    environment = {**os.environ, "LC_ALL": "C", "PATH": path}
    return Recording(outputs={command: _ask(command, environment) for command in commands})


def _ask(command: str, environment: dict[str, str]) -> Answer:
    try:
        done = subprocess.run(
            shlex.split(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(code=TIMED_OUT)
    except FileNotFoundError:
        return Answer(code=MISSING)
    except OSError as error:
        return Answer(code=126, err=error.strerror or "")
    return Answer(code=done.returncode, out=done.stdout, err=done.stderr)


def load(path: Path) -> Recording:
    """A file that `--record` wrote. Raises YardError(INVALID, or NOT_FOUND) for any other."""
    try:
        return Recording.model_validate_json(path.read_bytes())
    except OSError as error:
        raise YardError(
            f"cannot be read: {error.strerror}", where=str(path), todo="yard doctor --record FILE", code=Exit.NOT_FOUND
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"not a recording: {field}: {first['msg']}" if field else f"not a recording: {first['msg']}"
        raise YardError(what, where=str(path), todo="write one on the machine: yard doctor --record FILE") from None


def pinned_k3s() -> str:
    """The k3s of versions.yaml, as in v1.36. Raises YardError(NOT_FOUND) outside a checkout."""
    path = checkout() / "versions.yaml"
    try:
        return str(yaml.safe_load(path.read_text())["components"]["k3s"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise YardError(
            "no version of k3s", where=str(path), todo="run it in a checkout of the platform", code=Exit.NOT_FOUND
        ) from None
