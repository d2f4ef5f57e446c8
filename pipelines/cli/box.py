"""`yard up` and `yard down`: from a bare machine to a platform that Argo CD keeps, and back.

`up` installs k3s, then Argo CD, the secrets and the root Application; Argo CD does the rest. Each step first looks
whether it is done already, so a second run changes nothing, and a run that was killed is completed by the next.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

import yaml

from pipelines.cli import doctor, health, k3s
from pipelines.cli.addresses import checkout, settings
from pipelines.cli.health import Row
from pipelines.cli.k3s import Machine
from pipelines.cli.kubectl import Kubectl, Object, find, manifests
from pipelines.errors import Exit, YardError
from pipelines.platform import FILE, Platform

VERSIONS = "versions.yaml"
NAMESPACES, INSTALL, PROJECTS, ROOT = "namespaces", "argocd/install", "argocd/projects", "argocd/root.yaml"
FINALIZER = "resources-finalizer.argocd.argoproj.io"
ROLLOUT, PATIENCE = 600, 1800.0  # seconds for Argo CD's own pods; for all Applications, whose images are pulled then
PAUSE = 5.0
CURES = {  # what `yard doctor` would object to, and `yard up` sees to itself
    doctor.CONFIGURED_BUNDLE: "prefer-bundled-bin: true",
    doctor.SKIP: "true",
}


def up(*, cluster: bool, skip_checks: bool, join: str, machine: Machine | None = None) -> Exit:
    """With `cluster`, into the cluster that KUBECONFIG names; with `join`, this machine becomes a node of a server.

    Returns UNAVAILABLE if an Application is not well at the end. Raises YardError for what stops it before.
    """
    platform = _platform()
    changed: list[str] = []
    if cluster:
        kubectl = find()
    else:
        machine = machine or Machine()
        _may_install(machine, join)
        if not skip_checks:
            _check()
        for line in k3s.install(machine, platform, k3s.pins(checkout() / VERSIONS), join):
            changed.append(line)
            print(line)
        if join:
            print(f"{_nothing(changed)}the node joins {join}; on that machine, `yard up` gives it its labels")
            return Exit.OK
        kubectl = Kubectl(machine.kubectl, machine.kubeconfig)
        _node_ready(kubectl, k3s.node_name(machine, platform))
    changed += _label(kubectl, platform)
    changed += _argocd(kubectl)
    _secrets(kubectl)
    changed += _applications(kubectl)
    well = _wait(kubectl)
    changed += [] if cluster or machine is None else _trust(kubectl, machine, platform)
    print(_nothing(changed), end="")
    _addresses(platform)
    return Exit.OK if well else Exit.UNAVAILABLE


def down(*, cluster: bool, yes: bool, machine: Machine | None = None) -> None:
    """Ask, then remove k3s with everything in it; with `cluster`, what Argo CD deployed. Buckets and Git stay.

    Raises YardError: USAGE without an answer, CONFLICT for a k3s that `up` did not install.
    """
    platform, machine = _platform(), machine or Machine()
    if not cluster:
        if os.geteuid() and machine.root == Path("/"):
            raise YardError("only root removes k3s", todo="sudo make down", code=Exit.USAGE)
        if not machine.installed_by_us:
            todo = "yard down --cluster removes what Argo CD deployed, and leaves k3s alone"
            raise YardError("`yard up` did not install k3s here", todo=todo, code=Exit.CONFLICT)
    what = "everything that Argo CD deployed" if cluster else "k3s, every pod, and all volumes on this machine"
    print(f"This deletes {what}:\n  services, runs, Argo CD's state, Harbor's images, databases (make a backup first)")
    print("What stays:\n  " + "\n  ".join(_stays(platform, cluster)))
    _ask(platform.domain, yes)
    if cluster:
        _undeploy(find())
    else:
        k3s.uninstall(machine)
    print("done")


# ---- before


def _platform() -> Platform:
    found = settings()
    if found is None:
        raise YardError("there is none", where=FILE, todo="run it in a checkout of the platform", code=Exit.NOT_FOUND)
    return found


def _may_install(machine: Machine, join: str) -> None:
    if os.geteuid() and machine.root == Path("/"):
        todo = "sudo make up (or `yard up --cluster`, into the cluster that KUBECONFIG names)"
        raise YardError("only root installs k3s", todo=todo, code=Exit.USAGE)
    token = machine.at(f"{k3s.ETC}/token")
    if join and not token.is_file():
        todo = f"copy the server's {k3s.DATA}/server/node-token to it, for root only"
        raise YardError("there is no token to join with", where=str(token), todo=todo, code=Exit.NOT_FOUND)


def _check() -> None:
    """`yard doctor`, but for what is cured here."""
    recording = doctor.gather()
    recording.outputs.update({command: doctor.Answer(code=0, out=out) for command, out in CURES.items()})
    verdicts = doctor.evaluate(recording, doctor.pinned_k3s())
    for name, verdict in verdicts.items():
        # an older k3s of ours is what is upgraded now; one of others is refused
        if verdict.state == "fail" or (verdict.state == "warn" and name != "k3s"):
            print(f"{doctor.MARKS[verdict.state]} {name}: {verdict.found}", *verdict.todo, sep="\n  → ")
    failed = [name for name, verdict in verdicts.items() if verdict.state == "fail"]
    if failed:
        todo = "do what stands there, then yard up; --skip-checks, if you know better"
        raise YardError(f"this machine is not fit: {', '.join(failed)}", todo=todo)


# ---- the cluster


def _node_ready(kubectl: Kubectl, name: str) -> None:
    for state, patience in (("create", 120), ("condition=Ready", 300)):
        done = kubectl.ask("wait", f"--for={state}", f"node/{name}", f"--timeout={patience}s")
        if done.returncode:
            todo = "journalctl -u k3s -n 100, and kubectl describe node say why; then once more: yard up"
            raise YardError(f"not Ready after {patience} s", where=f"node {name}", todo=todo, code=Exit.UNAVAILABLE)


def _label(kubectl: Kubectl, platform: Platform) -> list[str]:
    """Give each node of `platform.yaml` that is there its labels; of the others, say so."""
    changed = []
    there = {node["metadata"]["name"]: node["metadata"].get("labels", {}) for node in kubectl.list("nodes")}
    for name, labels in platform.node_labels().items():
        if name not in there:
            print(f"node {name} is in {FILE}, and not in the cluster: docs/operations.md, Add a node")
            continue
        wrong = {key: value for key, value in labels.items() if there[name].get(key, "") != value}
        if wrong:
            pairs = (f"{key}={value}" if value else f"{key}-" for key, value in wrong.items())
            kubectl.run("label", "--overwrite", f"node/{name}", *pairs)
            changed.append(f"node {name} has its labels")
            print(changed[-1])
    return changed


def _argocd(kubectl: Kubectl) -> list[str]:
    """Argo CD itself; it comes from upstream's repository, or from mirror.git."""
    print("Argo CD …")
    places = manifests(sorted((checkout() / NAMESPACES).glob("*.yaml")))
    if not any([kubectl.converge(places), kubectl.converge(kubectl.run("kustomize", str(checkout() / INSTALL)))]):
        changed = []
    else:
        changed = ["Argo CD was applied"]
        print(changed[0])
    kinds = ("applications", "appprojects")
    kubectl.run("wait", "--for=condition=Established", *(f"crd/{kind}.argoproj.io" for kind in kinds), "--timeout=60s")
    for name in kubectl.run("-n", "argocd", "get", "deployments,statefulsets", "-o", "name").split():
        done = kubectl.ask("-n", "argocd", "rollout", "status", name, f"--timeout={ROLLOUT}s")
        if done.returncode:
            rows = [row.why for row in health.workloads(kubectl) if row.component == "argocd" and not row.well]
            todo = "can this machine pull its image? mirror.images in platform.yaml names a mirror; then yard up"
            raise YardError("; ".join(rows) or f"{name} is not ready", where="argocd", todo=todo, code=Exit.UNAVAILABLE)
    return changed


def _secrets(kubectl: Kubectl) -> None:
    """By its own command. A value that a person still has to supply is not the end: what needs it will say so."""
    from pipelines.cli.app import run

    os.environ.update({key: kubectl.environment[key] for key in ("KUBECONFIG",) if key in kubectl.environment})
    try:
        code = run(["secrets", "apply"])
    except YardError as error:
        if error.code != Exit.NOT_FOUND:
            raise
        print(error)
        return
    if code != Exit.OK:
        raise YardError("failed, as it says above", where="yard secrets apply", todo="then yard up", code=Exit.INVALID)


def _applications(kubectl: Kubectl) -> list[str]:
    """Projects first: an Application of a project that is not there is refused."""
    changed = []
    for what, paths in (
        ("projects", sorted((checkout() / PROJECTS).glob("*.yaml"))),
        ("root Application", [checkout() / ROOT]),
    ):
        if kubectl.converge(manifests(path for path in paths if path.name != "kustomization.yaml")):
            changed.append(f"{what}: applied")
            print(changed[-1])
    return changed


def _wait(kubectl: Kubectl) -> bool:
    """Until Argo CD has deployed everything; prints each Application when its state changes, and at the end why not."""
    print("Applications …")
    ends = time.monotonic() + PATIENCE
    known: dict[str, Row] = {}
    while True:
        rows = {row.component: row for row in health.applications(kubectl)}
        for name, row in rows.items():
            before = known.get(name)
            if row.well and (before is None or before.state != row.state):
                print(f"  {name.removeprefix('application ')}: {row.state}")
        known = rows
        bad = [row for row in rows.values() if not row.well]
        if not bad:
            return True
        if time.monotonic() > ends:
            break
        time.sleep(PAUSE)
    print("not healthy:\n" + "\n".join(f"  {row.component}: {row.why}" for row in bad))
    print("  → Argo CD goes on trying; yard verify looks again")
    return False


def _trust(kubectl: Kubectl, machine: Machine, platform: Platform) -> list[str]:
    """Give this node the CA that signed the cluster's own addresses: without it, it cannot pull from Harbor."""
    path = machine.at(k3s.CA)
    if platform.tls.issuer != "self-signed":
        return []
    for body in health.committed(checkout()):
        if body["kind"] == "Certificate" and body["spec"].get("isCA"):
            found = kubectl.get("-n", body["metadata"]["namespace"], "secret", body["spec"]["secretName"])
            text = base64.b64decode((found or {}).get("data", {}).get("tls.crt", "")).decode()
            if text and not (path.exists() and path.read_text() == text):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                return [f"{path} is new"]
            return []
    return []


def _nothing(changed: list[str]) -> str:
    return "" if changed else "nothing had to be changed\n"


def _addresses(platform: Platform) -> None:
    argo, argocd = platform.host("argo"), platform.host("argocd")
    print(f"\nArgo Workflows  https://{argo}")
    if platform.login:
        print("                log in by SSO")
    else:
        print('                token: echo "Bearer $(kubectl -n argo create token admin --duration=12h)"')
    print(f"Argo CD         https://{argocd}")
    if platform.login:
        print("                log in by SSO")
    else:
        kept = "secret argocd-initial-admin-secret -o jsonpath='{.data.password}'"
        print(f"                user admin, password: kubectl -n argocd get {kept} | base64 -d")
    print(f"webhooks        https://{platform.host('hooks')}  (docs/install-openeuler.md: Webhooks)")
    if platform.tls.issuer == "self-signed":
        print(f"their CA        /{k3s.CA} on the box; give it to browsers, git and docker")
    if not platform.addons.harbor and platform.endpoints.REGISTRY.startswith(f"{platform.host('harbor')}/"):
        print(f"no registry     builds push to {platform.endpoints.REGISTRY}: addons.harbor, or endpoints.REGISTRY")
    print("next            yard verify")


# ---- the end


def _stays(platform: Platform, cluster: bool) -> list[str]:
    ends = platform.endpoints
    store = (
        "the in-cluster store's volume goes"
        if platform.addons.storage
        else f"gs://{ends.REGISTRY_BUCKET}, gs://{ends.SCRATCH_BUCKET}"
    )
    lines = [
        f"buckets: {store}",
        f"Git: {platform.repository}, {platform.releases}, and the services' repositories",
        "here: this checkout, secrets.enc.yaml and your age key; firewalld's rules; DNS records; webhooks",
    ]
    if platform.addons.nfs:
        lines.append(f"NFS: {platform.addons.nfs.server}:{platform.addons.nfs.path}")
    if cluster:
        lines.append("in the cluster: Argo CD, its CRDs, the namespaces, what was made by hand, the Secrets")
    return lines


def _ask(domain: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise YardError("nobody is there to ask", todo="yard down --yes", code=Exit.USAGE)
    if input(f"type the domain to go on ({domain}): ").strip() != domain:
        raise YardError("that is another domain: nothing was done", code=Exit.USAGE)


def _undeploy(kubectl: Kubectl) -> None:
    """The root goes last of all: Argo CD deletes what a root Application with the finalizer made, before it itself."""
    root = yaml.safe_load((checkout() / ROOT).read_text())["metadata"]
    where = ("-n", root["namespace"], "applications.argoproj.io")
    if kubectl.get(*where, root["name"]) is None:
        print("there is no root Application")
        return
    patch: Object = {"metadata": {"finalizers": [FINALIZER]}}
    kubectl.run("patch", *where, root["name"], "--type=merge", "-p", yaml.safe_dump(patch, default_flow_style=True))
    kubectl.run("delete", *where, root["name"], f"--timeout={int(PATIENCE)}s")
