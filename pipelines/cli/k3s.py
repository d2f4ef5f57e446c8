"""k3s on this machine: pinned by version and checksum, installed by its own install.sh, set up from `platform.yaml`.

Everything is compared before it is written. What k3s was last started with is noted in a file that is written last:
so a run that was killed anywhere is completed by the next, and one that finds everything in place restarts nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform as host
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

import yaml

from pipelines.errors import Exit, YardError
from pipelines.platform import Platform

RELEASES = "https://github.com/k3s-io/k3s/releases/download/{tag}/{name}"
INSTALLER_AT = "https://raw.githubusercontent.com/k3s-io/k3s/{tag}/install.sh"  # not a file of the release
INSTALLER = "install.sh"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
HEADER = "# Written by `yard up` from platform.yaml, which is the place to change.\n"
TIMEOUT = 60  # seconds without a byte

# below the machine's root
BIN = "usr/local/bin"
ETC = "etc/rancher/k3s"
DATA = "var/lib/rancher/k3s"
UNITS = "etc/systemd/system"
OURS = f"{DATA}/trainyard"  # install.sh, and what k3s was started with
CA = f"{ETC}/platform-ca.crt"  # the CA of the cluster's own addresses, for the node's image pulls
READ_TIMEOUT = "3600s"  # Traefik ends a request whose body takes longer than 60 s, as an image's layer may


class Pins(NamedTuple):
    """k3s' version, and sha256 of its files by name."""

    version: str
    files: dict[str, str]


class Machine(NamedTuple):
    """Where k3s goes. `root` is / but for tests."""

    root: Path = Path("/")
    arch: str = ARCHITECTURES.get(host.machine(), "")
    name: str = socket.gethostname()

    def at(self, path: str) -> Path:
        return self.root / path

    @property
    def kubectl(self) -> list[str]:
        """sudo's PATH often lacks /usr/local/bin, so by its whole name."""
        return [str(self.at(f"{BIN}/k3s")), "kubectl"]

    @property
    def kubeconfig(self) -> Path:
        return self.at(f"{ETC}/k3s.yaml")

    @property
    def installed_by_us(self) -> bool:
        return self.at(OURS).is_dir()


def pins(versions: Path) -> Pins:
    """Of versions.yaml. Raises YardError(INVALID) if its files are of another version than its component."""
    body = yaml.safe_load(versions.read_text())
    version, files = str(body["components"]["k3s"]), {}
    for name, pin in body["k3s"].items():
        of, _, digest = str(pin).rpartition("@sha256:")
        if of not in ("", version) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            what = f"k3s.{name} is {pin}, and components.k3s is {version}"
            raise YardError(what, where=versions.name, todo=f"write {version}@sha256:…, as its release has it")
        files[name] = digest
    return Pins(version, files)


def install(machine: Machine, platform: Platform, pinned: Pins, join: str = "") -> Iterator[str]:
    """Bring k3s to what is wanted, and start it; yields in words what was changed, once it is.

    With `join`, as an agent of the server at that address. Raises YardError: INVALID for a checksum or a node's name,
    CONFLICT for what somebody else installed, UNAVAILABLE for what cannot be fetched.
    """
    if not machine.arch:
        raise YardError(f"no k3s for {host.machine()}", todo="use a machine with amd64 or arm64")
    unit, other = ("k3s-agent", "k3s") if join else ("k3s", "k3s-agent")
    _not_of_others(machine, other)
    yield from _files(machine, platform, pinned)
    yield from _settings(machine, platform, join)
    wanted, noted = _digest(machine, platform, pinned, join), machine.at(f"{OURS}/started-with")
    if not noted.exists() or noted.read_text() != wanted:
        noted.unlink(missing_ok=True)
        _run_installer(machine, pinned.version, unit)
        _systemctl("restart", unit)
        _write(noted, wanted, 0o600)
        yield f"{unit} {pinned.version} was started"
    elif subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode:
        _systemctl("start", unit)
        yield f"{unit} was not running, and was started"


def _not_of_others(machine: Machine, other: str) -> None:
    binary, unit = machine.at(f"{BIN}/k3s"), machine.at(f"{UNITS}/{other}.service")
    if binary.exists() and not machine.installed_by_us:
        todo = "k3s-uninstall.sh, if nothing there is needed; else yard up --cluster, into that k3s"
        raise YardError("is there already, and not by `yard up`", where=str(binary), todo=todo, code=Exit.CONFLICT)
    if unit.exists():
        what = "this machine is a node of another server" if other == "k3s-agent" else "this machine is a server itself"
        todo = f"{BIN}/{other}-uninstall.sh first, if it shall be something else"
        raise YardError(what, where=str(unit), todo=f"/{todo}", code=Exit.CONFLICT)


def uninstall(machine: Machine) -> None:
    """What install.sh left for it: stops every pod, deletes k3s with all data of its volumes on this machine."""
    for name in ("k3s-uninstall.sh", "k3s-agent-uninstall.sh"):
        script = machine.at(f"{BIN}/{name}")
        if script.exists():
            done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise YardError(_last(done.stderr), where=str(script), todo="run it yourself", code=Exit.UNAVAILABLE)
    shutil.rmtree(machine.at(DATA), ignore_errors=True)


def node_name(machine: Machine, platform: Platform) -> str:
    """What this machine is called in `nodes`: its own name, or the only one there."""
    names = [node.name for node in platform.nodes]
    own = (machine.name.lower(), machine.name.lower().partition(".")[0])
    found = next((name for name in own if name in names), names[0] if len(names) == 1 else "")
    if not found:
        todo = f"add it to nodes: - {{name: {own[1]}}}"
        raise YardError(f"this machine, {own[0]}, is not among {', '.join(names)}", where="platform.yaml", todo=todo)
    return found


# ---- files


def _files(machine: Machine, platform: Platform, pinned: Pins) -> Iterator[str]:
    suffix = "" if machine.arch == "amd64" else f"-{machine.arch}"
    images = f"k3s-airgap-images-{machine.arch}.tar.zst"
    for name, target, mode in (
        (INSTALLER, f"{OURS}/{INSTALLER}", 0o755),  # first: its folder says that this k3s is ours
        (f"k3s{suffix}", f"{BIN}/k3s", 0o755),
        (images, f"{DATA}/agent/images/{images}", 0o644),
    ):
        if name == images and not _offered(platform.mirror.files, name):
            continue  # k3s then pulls its images, from the mirror if there is one
        if name not in pinned.files:
            raise _unpinned(platform, pinned, name, machine.arch)
        path = machine.at(target)
        if path.exists() and _sha256(path) == pinned.files[name]:
            path.chmod(mode)
            continue
        _fetch(platform, pinned, name, path, mode)
        yield f"{path} is new"


def _offered(files: str, name: str) -> bool:
    """Whether the mirror has a file that need not be there."""
    if "://" not in files:
        return bool(files) and (Path(files) / name).is_file()
    try:
        with _open(f"{files}/{name}"):
            return True
    except YardError as error:
        if error.code == Exit.NOT_FOUND:
            return False
        raise


def _address(platform: Platform, pinned: Pins, name: str) -> str:
    files = platform.mirror.files.rstrip("/")
    if files:
        return f"{files}/{name}"
    return (INSTALLER_AT if name == INSTALLER else RELEASES).format(tag=quote(pinned.version), name=name)


def _fetch(platform: Platform, pinned: Pins, name: str, path: Path, mode: int) -> None:
    """Nothing is at `path` before it has the right checksum, whenever this program dies."""
    address = _address(platform, pinned, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _open(address) as source, part.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
    found = _sha256(part)
    if found != pinned.files[name]:
        part.unlink()
        raise YardError(
            f"its sha256 is {found}, and versions.yaml says {pinned.files[name]}",
            where=address,
            todo=f"if this is k3s {pinned.version}, ask who changed it; nothing was installed",
        )
    part.chmod(mode)
    part.rename(path)


def _open(address: str) -> IO[bytes]:
    """A file or an address. Raises YardError: NOT_FOUND, or UNAVAILABLE."""
    todo = "set mirror.files in platform.yaml to a folder or an address that has it"
    try:
        if "://" not in address:
            return Path(address).open("rb")
        return urllib.request.urlopen(address, timeout=TIMEOUT)  # type: ignore[no-any-return]  # noqa: S310
    except FileNotFoundError:
        raise YardError("there is no such file", where=address, todo=todo, code=Exit.NOT_FOUND) from None
    except urllib.error.HTTPError as error:
        code = Exit.NOT_FOUND if error.code == 404 else Exit.UNAVAILABLE
        raise YardError(f"HTTP {error.code}", where=address, todo=todo, code=code) from None
    except (OSError, ValueError) as error:
        raise YardError(f"does not answer: {error}", where=address, todo=todo, code=Exit.UNAVAILABLE) from None


def _unpinned(platform: Platform, pinned: Pins, name: str, arch: str) -> YardError:
    """What the release itself says of the file: for a person to compare and write down, never to believe at once."""
    at = _address(platform, pinned, f"sha256sum-{arch}.txt")
    said = ""
    if name == INSTALLER:
        with _open(_address(platform, pinned, name)) as file:
            said = hashlib.sha256(file.read()).hexdigest()
        at = _address(platform, pinned, name)
    else:
        with _open(at) as file:
            found = re.search(rf"^([0-9a-f]{{64}})\s+{re.escape(name)}$", file.read().decode(), re.MULTILINE)
        said = found[1] if found else ""
    if not said:
        return YardError(f"k3s {pinned.version} has no {name}", where=at, todo="is that version right?")
    of = "" if name == INSTALLER else f"{pinned.version}@"
    return YardError(
        f"versions.yaml has no checksum of k3s' {name}",
        where=at,
        todo=f"compare with another source, then add below k3s: in versions.yaml\n      {name}: {of}sha256:{said}"
        if of
        else f"read it, then add below k3s: in versions.yaml\n      {name}: '@sha256:{said}'",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- settings


def _settings(machine: Machine, platform: Platform, join: str) -> Iterator[str]:
    """Write what differs; a file of somebody else is not touched."""
    registries = machine.at(f"{ETC}/registries.yaml")
    wanted: dict[Path, tuple[dict[str, Any] | None, int]] = {
        machine.at(f"{ETC}/config.yaml"): (config(machine, platform, join), 0o600),
        registries: (mirrors(platform) or None, 0o600),
    }
    if not join:
        wanted[machine.at(f"{DATA}/server/manifests/trainyard-traefik.yaml")] = (traefik(), 0o600)
    for path, (body, mode) in wanted.items():
        there = path.read_text() if path.exists() else None
        if body is None:
            if there is not None and there.startswith(HEADER):
                path.unlink()
                yield f"{path} is gone"
            continue
        text = HEADER + yaml.safe_dump(body, sort_keys=False)
        if there == text:
            continue
        if there is not None and not there.startswith(HEADER) and not _within(there, body):
            todo = f"move what you need from it to {path.parent}/{path.name}.d/own.yaml, and delete it"
            if path == registries:
                todo = "move it away; mirror.images in platform.yaml says where images are"
            raise YardError("was not written by `yard up`", where=str(path), todo=todo, code=Exit.CONFLICT)
        _write(path, text, mode)
        yield f"{path} is {'new' if there is None else 'changed'}"


def config(machine: Machine, platform: Platform, join: str = "") -> dict[str, Any]:
    """k3s' own configuration file. Nodes' labels are no part of it: k3s sets them only when a node is new."""
    common: dict[str, Any] = {
        "node-name": node_name(machine, platform),
        "prefer-bundled-bin": True,  # iptables 1.8.0 to 1.8.4 pile up rules
    }
    if platform.mirror.images:
        common["disable-default-registry-endpoint"] = True
    if join:
        return {"server": join, "token-file": str(machine.at(f"{ETC}/token")), **common}
    return common | {
        "write-kubeconfig-mode": "0600",
        "secrets-encryption": True,
        "tls-san": [platform.domain],
    }


def mirrors(platform: Platform) -> dict[str, Any]:
    """k3s' registries.yaml: everything from the mirror but what this platform builds."""
    own = urlsplit(platform.endpoints.REGISTRY_URL or f"https://{platform.endpoints.REGISTRY.partition('/')[0]}")
    host = own.netloc
    found: dict[str, Any] = {}
    if platform.mirror.images:
        name, _, path = platform.mirror.images.partition("/")
        found["*"] = {"endpoint": [f"https://{name}/v2/{path}" if path else f"https://{name}"]}
        if own.port is None:
            host = f"{own.netloc}:{443 if own.scheme == 'https' else 80}"  # k3s ignores what is the default anyway
    if platform.mirror.images or own.scheme == "http":
        found[own.netloc] = {"endpoint": [f"{own.scheme}://{host}"]}
    body: dict[str, Any] = {"mirrors": found} if found else {}
    if platform.own_registry_ca:
        body["configs"] = {name: {"tls": {"ca_file": f"/{CA}"}} for name in dict.fromkeys((own.netloc, host))}
    return body


def traefik() -> dict[str, Any]:
    """k3s applies what is in its folder of manifests, and its Traefik takes these values."""
    timeouts = {"transport": {"respondingTimeouts": {"readTimeout": READ_TIMEOUT}}}
    values = {"ports": {"web": timeouts, "websecure": timeouts}}
    return {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChartConfig",
        "metadata": {"name": "traefik", "namespace": "kube-system"},
        "spec": {"valuesContent": json.dumps(values)},
    }


def _within(text: str, body: dict[str, Any]) -> bool:
    """Whether a file says nothing that ours does not say: `yard doctor` has people write a line of it."""
    try:
        there = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        return False
    return isinstance(there, dict) and there.items() <= body.items()


def _digest(machine: Machine, platform: Platform, pinned: Pins, join: str) -> str:
    """Of all that k3s reads when it starts."""
    parts = [pinned.version, sorted(pinned.files.items()), config(machine, platform, join), mirrors(platform)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest() + "\n"


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(mode)
    part.rename(path)


# ---- programs


def _run_installer(machine: Machine, version: str, unit: str) -> None:
    """Writes the unit and the scripts that undo it. A proxy of this environment goes to k3s; nothing else does."""
    kept = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy") or key == "PATH"}
    environment = {
        **kept,
        "HOME": os.environ.get("HOME", "/root"),
        "INSTALL_K3S_VERSION": version,
        "INSTALL_K3S_SKIP_DOWNLOAD": "true",
        "INSTALL_K3S_SKIP_SELINUX_RPM": "true",  # it would take openEuler for RHEL 9
        "INSTALL_K3S_SKIP_START": "true",
        "INSTALL_K3S_BIN_DIR": str(machine.at(BIN)),
        "INSTALL_K3S_SYSTEMD_DIR": str(machine.at(UNITS)),
    }
    script = machine.at(f"{OURS}/{INSTALLER}")
    machine.at(UNITS).mkdir(parents=True, exist_ok=True)
    role = unit.removeprefix("k3s-") if unit != "k3s" else "server"
    done = subprocess.run(["sh", str(script), role], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise YardError(_last(done.stderr), where=str(script), todo="then once more: yard up", code=Exit.UNAVAILABLE)


def _systemctl(verb: str, unit: str) -> None:
    done = subprocess.run(["systemctl", verb, unit], capture_output=True, text=True, check=False)
    if done.returncode:
        todo = f"journalctl -u {unit} -n 50 says why"
        raise YardError(_last(done.stderr), where=f"systemctl {verb} {unit}", todo=todo, code=Exit.UNAVAILABLE)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it failed, and said nothing"])[-1]
