"""`make render`: writes everything that is generated. `--check` writes nothing and fails where a file differs.

A folder in OWNED belongs to this program: a file there that it did not write is stale. `--platform FILE`,
`--versions FILE` and `--into FOLDER` write what other settings say to another place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hera.workflows import WorkflowTemplate

from pipelines import __version__, secret_values
from pipelines import platform as settings
from pipelines.templates import (
    addons,
    applications,
    argocd,
    certificates,
    ci,
    cluster,
    ct,
    events,
    hello,
    installs,
    namespaces,
    network,
    people,
    reconcile,
    release,
    verify,
)
from pipelines.templates._parts import Images
from pipelines.templates.base import guarded

ROOT = Path(__file__).parents[2]
VERSIONS = "versions.yaml"
OWNED = (
    "mlops",
    "namespaces",
    "argo-workflows",
    "argo-events",
    "argocd",
    "cert-manager",
    "applications/services",
    *addons.OWNED,
)
HEADER = "# Generated from pipelines/templates and platform.yaml: change those, then `make render`.\n"


def render(file: Path = ROOT / settings.FILE, versions: Path = ROOT / VERSIONS) -> dict[str, str]:
    """Path → text of every generated file, from a `platform.yaml` and a `versions.yaml`."""
    platform = settings.load(file)
    pins = yaml.safe_load(versions.read_text())
    images = Images(**{name: pins["images"][name] for name in Images._fields})
    components = {name: str(pin) for part in ("components", "charts") for name, pin in pins.get(part, {}).items()}
    templates = {body.name: body for body in templates_of(images, platform)}
    files: dict[str, list[Any]] = {
        f"mlops/templates/{name}.yaml": [t.to_dict()] for name, t in templates.items() if name
    }
    files["mlops/templates/reconcile.yaml"] = [reconcile.template(images).to_dict(), reconcile.clock().to_dict()]
    places = network.places(body[0] for body in files.values())
    digest = hashlib.sha256("".join(_text(body) for body in files.values()).encode()).hexdigest()
    named = {str(name): body for name, body in templates.items()}
    for sensor in events.sensors(platform, named):
        files[f"mlops/sensors/{sensor['metadata']['name']}.yaml"] = [sensor]
    for where in namespaces.RUNS:
        files[f"mlops/config/{where}.yaml"] = [
            *namespaces.manifests(where),
            cluster.endpoints(platform, where),
            cluster.platform_config(platform, images, __version__, f"sha256:{digest}", where),
        ]
        if platform.own_registry_ca and where in certificates.REGISTRY_CALLERS:
            files[f"mlops/config/{where}.yaml"].append(certificates.registry_ca(where))
        files[f"mlops/network/{where}.yaml"] = network.runs(platform, where, places[where])
    for where in namespaces.INSTALLED:
        files[f"namespaces/{where}.yaml"] = namespaces.manifests(where)
    files["namespaces/argo-events.yaml"] = [
        *namespaces.manifests("argo-events"),
        *network.events(platform, events.ports(platform)),
    ]
    files["namespaces/argo.yaml"] += network.argo(platform)
    files["namespaces/cert-manager.yaml"] += network.cert_manager()
    for name, objects in installs.workflows(platform, components["argo-workflows"]).items():
        files[f"argo-workflows/{name}"] = objects
    for name, objects in installs.events(platform, components["argo-events"]).items():
        files[f"argo-events/{name}"] = objects
    for name, objects in cluster.accounts().items():
        # the bus and the sources start in an earlier wave than the pipelines
        folder = "argo-events/sources" if name.startswith("argo-events") else "mlops/accounts"
        files[f"{folder}/{name}.yaml"] = objects
    files["mlops/accounts/people.yaml"] = people.manifests(platform)
    files["argo-events/sources/eventbus.yaml"] = [events.event_bus(platform)]
    files[f"argo-events/sources/{platform.git.provider}.yaml"] = [events.hooks_source(platform)]
    files["argo-events/sources/stages.yaml"] = [events.stages_source()]
    files["argocd/projects/services.yaml"] = [cluster.project(platform)]
    files |= addons.files(platform, images, addons.Pins.of(pins))
    for service in platform.services:
        for environment in service.environments:
            where = f"{service.name}-{environment}"
            files[f"applications/services/{where}/namespace.yaml"] = [
                *namespaces.manifests(where),
                cluster.endpoints(platform, where),
            ]
            files[f"applications/services/{where}/network.yaml"] = network.service(platform, where)
            files[f"applications/services/{where}/application.yaml"] = [
                cluster.application(platform, service.name, environment)
            ]
    files |= argocd.install(platform, components)
    if platform.tls.issuer != "none":
        files["cert-manager/issuers/issuers.yaml"] = certificates.issuers(platform)
    files = {name: guarded(objects) for name, objects in files.items()}
    files["argocd/projects/platform.yaml"] = [applications.project(platform, files)]
    files |= applications.applications(platform, components, files)
    texts = {name: HEADER + _text(objects) for name, objects in files.items()}
    texts["docs/secrets.md"] = secret_values.markdown()
    texts["docs/waves.md"] = applications.markdown(files)
    texts["docs/addons.md"] = addons.markdown(addons.Pins.of(pins))
    texts["docs/platform.md"] = settings.markdown()
    texts["docs/platform.schema.json"] = json.dumps(settings.schema(), indent=1) + "\n"
    return texts


def templates_of(images: Images, platform: settings.Platform) -> list[WorkflowTemplate]:
    return [ci.template(images, platform), *(module.template(images) for module in (ct, release, verify, hello))]


def main(argv: list[str]) -> int:
    """Exit code 1 with `--check` if a file on disk differs from what would be written, and says which."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.templates.render")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--platform", type=Path, default=ROOT / settings.FILE)
    parser.add_argument("--versions", type=Path, default=ROOT / VERSIONS)
    parser.add_argument("--into", type=Path, default=ROOT)
    given = parser.parse_args(argv)
    files = render(given.platform, given.versions)
    there = {path for owned in OWNED for path in (given.into / owned).rglob("*.yaml")}
    stale = sorted(there - {given.into / name for name in files})
    differing = [name for name, text in files.items() if not _same(given.into / name, text)]
    if given.check:
        for name in [*differing, *(path.relative_to(given.into).as_posix() for path in stale)]:
            print(
                f"{name}: differs from what pipelines/templates and platform.yaml say\n  → make render", file=sys.stderr
            )
        return 1 if differing or stale else 0
    for path in stale:
        path.unlink()
    for name in differing:
        (given.into / name).parent.mkdir(parents=True, exist_ok=True)
        (given.into / name).write_text(files[name])
    print(f"{len(files)} files, {len(differing)} written, {len(stale)} removed")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _text(objects: Iterable[Any]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False, width=120, explicit_start=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
