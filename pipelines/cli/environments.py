"""`yard env diff`: two environments of each service, by what its mlops.yaml asks for and what is released to them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines import config, platform
from pipelines.cli.addresses import endpoints, settings
from pipelines.cli.show import table
from pipelines.documents import suggest
from pipelines.errors import Exit, YardError
from pipelines.steps._releases import BRANCH, parse

NONE = "-"
Read = Callable[[str], str]  # path → text of the file, "" if there is none
Facts = dict[str, str]


class Difference(NamedTuple):
    """`of`: the file that says so, or `release`."""

    service: str
    of: str
    what: str
    first: str
    second: str


def diff(server: str, first: str, second: str, service: str) -> int:
    """Print what differs; FAILED if anything does.

    Raises YardError: USAGE or NOT_FOUND for a wrong word, INVALID for an mlops.yaml or a release that cannot be read,
    UNAVAILABLE if Git does not answer.
    """
    services, releases = _known(first, second, service)
    git_url = endpoints(server)["GIT_URL"]
    found: list[Difference] = []
    notes: list[str] = []
    with _repository(f"{git_url}/{releases}.git", BRANCH) as released:
        for one in services:
            found += _platform(one, first, second)
            with _repository(f"{git_url}/{one.repo}.git", one.branch) as read:
                text = read(config.FILE)
            if text:
                found += _asked(one.name, config.load(text, f"{one.repo}: {config.FILE}"), first, second)
            else:
                notes.append(f"{one.name}: there is no {config.FILE} on {one.branch} of {one.repo}")
            of_first, of_second = (_released(released, one.name, name) for name in (first, second))
            missing = [name for name, facts in ((first, of_first), (second, of_second)) if not facts]
            notes += [f"{one.name}: nothing is released to {name}" for name in missing]
            if of_first and of_second:
                found += _rows(one.name, "release", of_first, of_second)
            elif missing != [first, second]:
                found.append(
                    Difference(one.name, "release", "model", *(f.get("model", NONE) for f in (of_first, of_second)))
                )
    if found:
        table(("SERVICE", "OF", "WHAT", first.upper(), second.upper()), found)
    for note in notes:
        print(note)
    if not found:
        print(f"{first} and {second} are the same" + (" in all that both have" if notes else ""))
    return Exit.FAILED if found else Exit.OK


def _known(first: str, second: str, service: str) -> tuple[list[platform.Service], str]:
    for name in (first, second):
        if name not in config.ENVIRONMENTS:
            todo = suggest(name, config.ENVIRONMENTS)
            raise YardError(f"no environment {name!r}", todo=todo, code=Exit.NOT_FOUND)
    if first == second:
        raise YardError(f"{first} twice", todo="name two environments", code=Exit.USAGE)
    known = settings()
    if known is None:
        todo = "run it in a checkout of the platform, or set TRAINYARD_PLATFORM"
        raise YardError("there is no such file", where=platform.FILE, todo=todo, code=Exit.NOT_FOUND)
    services = [entry for entry in known.services if service in ("", entry.name)]
    if not services:
        todo = suggest(service, [entry.name for entry in known.services])
        raise YardError(f"no service {service!r}", where=platform.FILE, todo=todo, code=Exit.NOT_FOUND)
    return services, known.releases


def _rows(service: str, of: str, first: Facts, second: Facts) -> Iterator[Difference]:
    for what in dict.fromkeys((*first, *second)):
        one, other = (facts.get(what, NONE) for facts in (first, second))
        if one != other:
            yield Difference(service, of, what, one, other)


def _platform(service: platform.Service, first: str, second: str) -> Iterator[Difference]:
    """Argo CD follows an environment that is listed there, and no other."""
    sets = ({"environments": "listed"} if name in service.environments else {} for name in (first, second))
    return _rows(service.name, platform.FILE, *sets)


def _asked(service: str, contract: config.Config, first: str, second: str) -> Iterator[Difference]:
    knobs = {str(name): deploy for name, deploy in contract.deploy.items()}
    if first in knobs and second in knobs:
        return _rows(service, config.FILE, _knobs(knobs[first]), _knobs(knobs[second]))
    sets = ({"deploy": "given"} if name in knobs else {} for name in (first, second))
    return _rows(service, config.FILE, *sets)


def _knobs(deploy: config.Deploy) -> Facts:
    scale = deploy.scale
    return {
        "replicas": f"{scale.min} to {scale.max}, at {scale.cpu} % CPU" if scale else str(deploy.replicas),
        **{key: str(getattr(deploy, key)) for key in ("max_surge", "max_unavailable", "spread")},
        **{f"resources.{key}": value for key, value in deploy.resources.model_dump().items()},
        **{f"env.{name}": value for name, value in sorted(deploy.env.items())},
        **{f"secrets.{name}": "named" for name in sorted(deploy.secrets)},
    }


def _released(read: Read, service: str, environment: str) -> Facts:
    """What the releases repository says of an environment; {} if nothing is released there."""
    folder = f"services/{service}/{environment}"
    text = read(f"{folder}/release.yaml")
    if not text:
        return {}
    record = parse(text, f"{folder}/release.yaml")
    try:
        versions: Mapping[str, str] = yaml.safe_load(record["versions"])
        deployment = yaml.safe_load(read(f"{folder}/deployment.yaml"))
        scaler = yaml.safe_load(read(f"{folder}/hpa.yaml")) or {}
        variables = (yaml.safe_load(read(f"{folder}/env.yaml")) or {}).get("data", {})
        return {
            "commit": record["sha"][:12],
            **{axis: versions[axis] for axis in ("data", "feature", "model", "app")},
            "image": record["image"],
            "lock": record["lock"],
            **_pods(deployment, scaler),
            **{f"env.{name}": str(value) for name, value in sorted(variables.items())},
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration):
        todo = "repair it, or remove the folder, in the releases repository"
        raise YardError("not what a release writes", where=folder, todo=todo) from None


def _pods(deployment: Any, scaler: Any) -> Facts:
    spec = deployment["spec"]["template"]["spec"]
    serving = next(container for container in spec["containers"] if container["name"] == "serving")
    sources = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in serving.get("env", [])}
    facts = {"replicas": str(deployment["spec"].get("replicas", 1)), "serving": serving["image"]}
    if scaler:
        metric = scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
        facts["replicas"] = f"{scaler['spec']['minReplicas']} to {scaler['spec']['maxReplicas']}, at {metric} % CPU"
    facts |= {f"resources.{key}": value for key, value in serving["resources"]["requests"].items()}
    return facts | {f"secrets.{name}": "named" for name, source in sorted(sources.items()) if source}


@contextmanager
def _repository(url: str, branch: str) -> Iterator[Read]:
    """Reads files of a branch as they are now; none, if the branch does not exist yet."""
    # without GIT_*: in a hook they point at another repository
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # its words are looked into below

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *args], env=environment, capture_output=True, text=True, check=False)

    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "clone"
        done = git("clone", "--quiet", "--bare", "--depth=1", "--single-branch", f"--branch={branch}", url, str(clone))
        if done.returncode and "Remote branch" not in done.stderr:
            todo = "is it there, and may you read it?"
            raise YardError(f"git: {done.stderr.strip()[:300]}", where=url, todo=todo, code=Exit.UNAVAILABLE)
        yield lambda path: git("-C", str(clone), "show", f"HEAD:{path}").stdout if clone.exists() else ""
