"""A machine that is a folder. `systemctl` and the k3s that is installed are programs of the test, which note how they
were called: neither can run here. Files, checksums, servers and processes are real.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from pipelines.cli.k3s import Machine

ROOT = Path(__file__).parents[2]
VERSION = "v1.36.3+k3s1"
IMAGES = "k3s-airgap-images-amd64.tar.zst"

# upstream's writes the unit and the script that undoes everything, and so does this
INSTALLER = """\
set -e
kept="skip=$INSTALL_K3S_SKIP_DOWNLOAD,$INSTALL_K3S_SKIP_SELINUX_RPM token=$K3S_TOKEN"
echo "installer $1 $INSTALL_K3S_VERSION $kept" >>"{world}/log"
if test -e "{world}/die-in-installer"; then rm "{world}/die-in-installer"; kill -9 $PPID; exit 1; fi
test -x "$INSTALL_K3S_BIN_DIR/k3s"
name=k3s; test "$1" = server || name=k3s-$1
unit="$INSTALL_K3S_SYSTEMD_DIR/$name.service" undo="$INSTALL_K3S_BIN_DIR/$name-uninstall.sh"
echo "[Service]" >"$unit"
printf '#!/bin/sh\\necho uninstalled >>"{world}/log"\\nrm -rf "%s" "%s"\\n' "$INSTALL_K3S_BIN_DIR/k3s" "$unit" >"$undo"
chmod 755 "$undo"
"""

SYSTEMCTL = """\
#!/bin/sh
echo "systemctl $*" >>"{world}/log"
if test "$1" = is-active; then test -e "{world}/active"; exit; fi
if test -e "{world}/die-in-restart"; then rm "{world}/die-in-restart"; kill -9 $PPID; exit 1; fi
if test -e "{world}/broken"; then echo "Job for k3s.service failed" >&2; exit 1; fi
touch "{world}/active"
if test -e "{world}/die-after-restart"; then rm "{world}/die-after-restart"; kill -9 $PPID; fi
"""

# `k3s kubectl`: a cluster that is a file, as far as `yard up` and `yard down` ask
K3S = """\
#!{python}
import json, sys
from pathlib import Path
from typing import NamedTuple
world = Path("{world}")
words = sys.argv[2:]
with (world / "log").open("a") as log:
    log.write("kubectl " + " ".join(words) + "\\n")
state = json.loads((world / "cluster.json").read_text())
def get(kind):
    return {{"items": state.get(kind.partition(".")[0], [])}}
match words:
    case ["kustomize", folder]:
        print((Path(folder) / "kustomization.yaml").read_text())
    case ["diff", *_]:
        sys.exit(0 if sys.stdin.read() in state["applied"] else 1)
    case ["apply", *_]:
        state["applied"].append(sys.stdin.read())
    case ["label", "--overwrite", node, *pairs]:
        for item in state["nodes"]:
            if "node/" + item["metadata"]["name"] == node:
                for pair in pairs:
                    key, equals, value = pair.partition("=")
                    item["metadata"]["labels"].pop(key.removesuffix("-"), None)
                    if equals:
                        item["metadata"]["labels"][key] = value
    case ["get", "-n", _, "secret", name, *_]:
        print(json.dumps(state["secrets"][name]) if name in state["secrets"] else "", end="")
    case ["get", kind, *_]:
        print(json.dumps(get(kind)))
    case ["-n", _, "get", "deployments,statefulsets", "-o", "name"]:
        print("deployment.apps/argocd-server")
    case ["-n", _, "rollout", *_] if state.get("stuck"):
        sys.exit("error: timed out waiting for the condition")
(world / "cluster.json").write_text(json.dumps(state))
"""

INSTALLATION = """
import sys
from pathlib import Path
from typing import NamedTuple
from pipelines import platform
from pipelines.cli import k3s
from pipelines.errors import YardError
checkout, root, join = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
try:
    given, pins = platform.load(checkout / "platform.yaml"), k3s.pins(checkout / "versions.yaml")
    print("\\n".join(k3s.install(k3s.Machine(root, "amd64", "box"), given, pins, join)))
except YardError as error:
    sys.exit(str(error))
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class World:
    """A machine, a folder with k3s' files, and a checkout whose versions.yaml pins them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.checkout = folder, folder / "files", folder / "checkout"
        self.machine = Machine(folder / "root", "amd64", "box")
        for path in (self.machine.root, self.files, self.checkout, folder / "bin"):
            path.mkdir()
        self._program(folder / "bin/systemctl", SYSTEMCTL)
        self._program(self.files / "k3s", K3S)
        self._program(self.files / "install.sh", INSTALLER)
        (self.files / IMAGES).write_bytes(b"images")
        self.pin(*(path.name for path in self.files.iterdir()))
        self.platform(mirror={"files": str(self.files)})
        for name, body in {
            "namespaces/argocd.yaml": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}},
            "argocd/install/kustomization.yaml": {"kind": "Kustomization", "resources": ["https://git.test/argo-cd"]},
            "argocd/projects/platform.yaml": {"kind": "AppProject"},
            "argocd/root.yaml": {"kind": "Application", "metadata": {"name": "root", "namespace": "argocd"}},
            "cert-manager/issuers/issuers.yaml": {
                "apiVersion": "cert-manager.io/v1",
                "kind": "Certificate",
                "metadata": {"name": "ca", "namespace": "cert-manager"},
                "spec": {"isCA": True, "secretName": "trainyard-ca"},
            },
        }.items():
            path = self.checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(body))
        self.cluster(applied=[], nodes=[self.node("box")], applications=[self.app("root")], secrets={})

    def _program(self, path: Path, text: str) -> None:
        path.write_text(text.format(world=self.folder, python=sys.executable))
        path.chmod(0o755)

    def pin(self, *names: str, version: str = VERSION) -> None:
        """Write a versions.yaml with the checksums of these files as they are now."""
        digests = {name: hashlib.sha256((self.files / name).read_bytes()).hexdigest() for name in names}
        files = {name: f"{'' if name == 'install.sh' else version}@sha256:{hex}" for name, hex in digests.items()}
        body = {"components": {"k3s": version}, "k3s": files}
        (self.checkout / "versions.yaml").write_text(yaml.safe_dump(body))

    def platform(self, **options) -> None:
        body = yaml.safe_load((ROOT / "platform.yaml").read_text()) | {"domain": "ml.example.com"} | options
        (self.checkout / "platform.yaml").write_text(yaml.safe_dump(body))

    def cluster(self, **state) -> None:
        path = self.folder / "cluster.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | state))

    def node(self, name: str) -> dict:
        return {"metadata": {"name": name, "labels": {}}, "status": {}}

    def app(self, name: str, sync="Synced", health="Healthy", **more) -> dict:
        status = {"sync": {"status": sync}, "health": {"status": health}, **more}
        return {"metadata": {"name": name}, "spec": {"project": "platform", "destination": {}}, "status": status}

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        (self.folder / "log").unlink(missing_ok=True)

    def start(self, join: str = "") -> subprocess.Popen[str]:
        """The installation in a process of its own, which a test or a program of it may kill."""
        words = [sys.executable, "-c", INSTALLATION, str(self.checkout), str(self.machine.root), join]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def install(self, join: str = "") -> Done:
        process = self.start(join)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def tree(self) -> dict[str, tuple[int, bytes]]:
        """Path → mode and bytes of everything on the machine."""
        return {
            path.relative_to(self.machine.root).as_posix(): (path.stat().st_mode & 0o777, path.read_bytes())
            for path in self.machine.root.rglob("*")
            if path.is_file()
        }
