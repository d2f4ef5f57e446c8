"""From a Pod object to a directory that is ready and a plan that a shim can run without asking anybody.

What cannot be had yet (a ConfigMap or Secret that is not there) raises NotReadyError and is tried again when it
appears; what can never be had raises RefusedError.
"""

from __future__ import annotations

import base64
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from solo.builder.errors import ImageError
from solo.builder.images import Image
from solo.pods.artifacts import InputError, ObjectStore, load_inputs
from solo.pods.directory import UID_VARIABLE, PodDirectory
from solo.pods.exits import EXECUTOR_ERROR, exit_message
from solo.pods.paths import SHARED, PathMap, clean, inside, is_system
from solo.store import Object

GRACE_SECONDS = 30
REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")
LABEL = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
FIELDS: dict[str, Callable[[Object], str]] = {
    "metadata.name": lambda pod: str(pod["metadata"]["name"]),
    "metadata.namespace": lambda pod: str(pod["metadata"].get("namespace", "")),
    "metadata.uid": lambda pod: str(pod["metadata"]["uid"]),
    "status.podIP": lambda pod: "127.0.0.1",
}
SCRIPTS = "/argo/staging/"
VOLUMES = ("emptyDir", "configMap", "secret")

Find = Callable[[str, str, str], Object | None]  # kind, namespace, name


class Images(Protocol):
    def resolve(self, reference: str) -> Image: ...

    def check_command(self, reference: str, image: Image, argv: list[str]) -> None: ...


class NotReadyError(Exception):
    """Something that the pod needs is not there yet; `str()` says it as Kubernetes does."""


class RefusedError(Exception):
    """The pod can never run here; `str()` says what, where and what to do."""


def prepare(
    pod: Object,
    directory: PodDirectory,
    *,
    find: Find,
    images: Images,
    objects: ObjectStore,
    ports: Mapping[int, int],
    bell: Path,
    started: float,
) -> None:
    """Fill the pod's directory and write `plan.json`, last. Blocking. Raises NotReadyError, RefusedError."""
    spec = pod["spec"]
    directory.clear()
    volumes = _volumes(pod, directory, find)
    wired = {"init": spec.get("initContainers") or [], "containers": spec["containers"]}
    plan: dict[str, Any] = {
        "uid": pod["metadata"]["uid"],
        "bell": str(bell),
        "restart": restart_policy(pod),
        "grace": float(spec.get("terminationGracePeriodSeconds", GRACE_SECONDS)),
        "deadline": started + float(seconds) if (seconds := spec.get("activeDeadlineSeconds")) is not None else None,
    }
    for group, containers in wired.items():
        plan[group] = []
        for index, container in enumerate(containers):
            main = group == "containers" and index == 0
            try:
                found = _container(pod, container, directory, volumes, find, images, ports, main=main)
            except ValueError as problem:  # a path that is not absolute, a Secret's bytes that are no text
                raise RefusedError(f"container {container['name']}: {problem}") from problem
            plan[group].append(found)
    if inputs := (pod.get("solo") or {}).get("inputs", {}).get("artifacts"):
        try:
            load_inputs(_scripts(inputs, plan), locator(plan), objects, directory.staging)
        except InputError as problem:
            # argoexec's container "init" fetches inputs and ends with 64
            raise RefusedError(f"init: {exit_message(EXECUTOR_ERROR, detail=str(problem))}") from problem
    directory.write("plan.json", plan)


def outputs(pod: Object) -> dict[str, Any]:
    found: dict[str, Any] = (pod.get("solo") or {}).get("outputs") or {}
    return found


def locator(plan: dict[str, Any]) -> Callable[[str], Path]:
    """Where a container path of the first container lies on the host."""
    paths = PathMap({path: Path(host) for path, host in plan["containers"][0]["paths"].items()})

    def locate(path: str) -> Path:
        found = paths.host(path)
        assert found is not None, f"{path} was named by the manifest, so it is mapped"
        return found

    return locate


def restart_policy(pod: Object) -> str:
    owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences") or []}
    if "Workflow" in owners:
        return "Never"
    return "Always" if "ReplicaSet" in owners else str(pod["spec"].get("restartPolicy", "Always"))


def declared_ports(pod: Object) -> list[int]:
    return [
        int(port["containerPort"]) for container in pod["spec"]["containers"] for port in container.get("ports") or []
    ]


def _container(
    pod: Object,
    container: Object,
    directory: PodDirectory,
    volumes: Mapping[str, Path],
    find: Find,
    images: Images,
    ports: Mapping[int, int],
    *,
    main: bool,
) -> dict[str, Any]:
    """One container's part of the plan."""
    name, reference = container["name"], container.get("image", "")
    try:
        image = images.resolve(reference)
        declared = _environment(pod, container, find)
        argv = [_expand(word, declared) for word in _command(container, image)]
        images.check_command(reference, image, argv)
    except ImageError as problem:
        raise RefusedError(f"{name}: {problem}") from problem
    workdir = clean(container.get("workingDir") or image.workdir)
    root = directory.path / "fs" / name
    named = [workdir, *(_named_paths(pod) if main else ())]
    paths = PathMap(_table(container, image, root, named, volumes), kept=(directory.path.parents[1], Path(sys.prefix)))
    for mount in container.get("volumeMounts") or []:
        _link(clean(mount["mountPath"]), paths, root)
    cwd = paths.host(workdir) or root
    for needed in {root / "tmp", cwd}:
        needed.mkdir(parents=True, exist_ok=True)
    # an entry that is exactly a declared containerPort means that port, and this pod was given another
    assigned = {str(port): str(host) for port, host in ports.items()}
    env = {
        "LANG": "C.UTF-8",
        # only an image with a tree speaks of container paths; the others' environment is this host's
        **{key: paths.rewrite(value) if image.kind == "built" else value for key, value in image.env.items()},
        "HOSTNAME": pod["metadata"]["name"],
        "HOME": str(root),
        "TMPDIR": str(root / "tmp"),
        **{key: assigned.get(value) or paths.rewrite(value) for key, value in declared.items()},
        UID_VARIABLE: pod["metadata"]["uid"],
    }
    return {
        "name": name,
        "argv": _program([*image.commands.get(argv[0], (paths.rewrite(argv[0]),))], paths)
        + [paths.rewrite(word) for word in argv[1:]],
        "env": env,
        "cwd": str(cwd),
        "result": main and bool(outputs(pod).get("result")),
        "paths": {path: str(host) for path, host in paths.table.items()},
    }


def _command(container: Object, image: Image) -> list[str]:
    """As Kubernetes: `command` replaces the entrypoint and with it the image's arguments, `args` only these."""
    command, args = container.get("command") or [], container.get("args") or []
    if command:
        return [*command, *args]
    return [*image.entrypoint, *(args or image.cmd)]


def _program(argv: list[str], paths: PathMap) -> list[str]:
    """A script whose first line names the image's interpreter (`#!/usr/local/bin/python`) is given to that one."""
    script = Path(argv[0])
    if script.is_absolute() and script.is_file():
        with script.open("rb") as file:
            first = file.readline(256)
        if first.startswith(b"#!/"):
            interpreter, *options = first[2:].decode(errors="replace").split()
            found = paths.host(interpreter)
            if found is not None and found.exists():
                return [str(found), *options, *argv]
    return argv


def _table(
    container: Object, image: Image, root: Path, named: Iterable[str], volumes: Mapping[str, Path]
) -> dict[str, Path]:
    """What each container path is here: the image's tree, `/tmp`, the paths that the manifest names, the mounts."""
    table = {"/tmp": root / "tmp"}  # noqa: S108 - a container's
    for path in image.paths:
        assert image.root is not None
        if path == "/usr/local":
            table[path] = image.root / "usr/local"  # Python and its packages: read, and shared by all pods
        else:
            table[path] = root / path[1:]  # the image's own files: a pod may write to them, so each has its copy
            shutil.copytree(image.root / path[1:], table[path], symlinks=True)
    mounts = {}
    for mount in container.get("volumeMounts") or []:
        if mount["name"] not in volumes:
            raise RefusedError(f"container {container['name']}: volumeMount {mount['name']} names no volume of the pod")
        mounts[clean(mount["mountPath"])] = _sub_path(volumes[mount["name"]], mount, container["name"])
    for path in map(clean, named):
        parent = posixpath.dirname(path)
        # the directory as well, so that `mkdir /job` and `/job/out` mean one place; not the host's own directories
        own = parent not in SHARED and not is_system(parent)
        for candidate in (parent, path) if own else (path,):
            if candidate != "/" and not any(inside(candidate, top) for top in (*table, *mounts)):
                table[candidate] = root / candidate[1:]
    return {**table, **mounts}


def _named_paths(pod: Object) -> list[str]:
    """Absolute paths that the inputs and outputs name."""
    solo = pod.get("solo") or {}
    listed = [
        *((solo.get("inputs") or {}).get("artifacts") or []),
        *(outputs(pod).get("parameters") or []),
        *(outputs(pod).get("artifacts") or []),
    ]
    return [entry["path"] for entry in listed if entry.get("path")]


def _sub_path(volume: Path, mount: Object, container: str) -> Path:
    sub = str(mount.get("subPath", ""))
    if sub.startswith("/") or ".." in sub.split("/"):
        raise RefusedError(f"container {container}: subPath {sub!r} of volumeMount {mount['name']} leaves the volume")
    path = volume / sub
    if not path.exists():
        path.mkdir(parents=True)
    return path


def _link(mount: str, paths: PathMap, root: Path) -> None:
    """A relative path from the working directory must find the mount, too: leave a link to it where it would be."""
    others = PathMap({path: host for path, host in paths.table.items() if path != mount and path != "/usr/local"})
    place = others.host(mount) or root / mount[1:]
    target = paths.table[mount]
    if place == target or inside(mount, "/usr/local"):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place):
        place.unlink()
    place.symlink_to(target)


def _environment(pod: Object, container: Object, find: Find) -> dict[str, str]:
    """`envFrom`, then `env`, with $(NAME) of what stands before."""
    env: dict[str, str] = {}
    for entry in container.get("envFrom") or []:
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if reference := entry.get(field):
                data = _data(pod, kind, reference, find) or {}
                env |= {entry.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for entry in container.get("env") or []:
        if source := entry.get("valueFrom"):
            value = _value_from(pod, source, f"container {container['name']}: env {entry['name']}", find)
            if value is not None:
                env[entry["name"]] = value
        else:
            env[entry["name"]] = _expand(str(entry.get("value", "")), env)
    return env


def _value_from(pod: Object, source: Object, where: str, find: Find) -> str | None:
    for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
        if reference := source.get(field):
            data = _data(pod, kind, reference, find)
            if data is not None and reference["key"] in data:
                return data[reference["key"]].decode()
            if reference.get("optional"):
                return None
            namespace = pod["metadata"].get("namespace", "")
            raise NotReadyError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    if path in FIELDS:
        return FIELDS[path](pod)
    if match := LABEL.fullmatch(path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    raise RefusedError(
        f"{where}: solo cannot give a value from {path or ', '.join(source)}; it has configMapKeyRef, secretKeyRef, "
        f"and fieldRef to {', '.join(FIELDS)}, metadata.labels['x'], metadata.annotations['x']"
    )


def _data(pod: Object, kind: str, reference: Object, find: Find) -> dict[str, bytes] | None:
    """The contents of a ConfigMap or Secret; None if it is optional and not there."""
    found = find(kind, pod["metadata"].get("namespace", ""), reference["name"])
    if found is None:
        if reference.get("optional"):
            return None
        raise NotReadyError(f'{kind.lower()} "{reference["name"]}" not found')
    plain, encoded = ("data", "binaryData") if kind == "ConfigMap" else ("stringData", "data")
    return {
        **{key: base64.b64decode(value) for key, value in (found.get(encoded) or {}).items()},
        **{key: str(value).encode() for key, value in (found.get(plain) or {}).items()},
    }


def _expand(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) as Kubernetes has it: unknown names stay, `$$(NAME)` is `$(NAME)`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else env.get(match[2], match[0])

    return REFERENCE.sub(value, text)


def _volumes(pod: Object, directory: PodDirectory, find: Find) -> dict[str, Path]:
    """Make the pod's volumes, each a directory."""
    made = {}
    for volume in pod["spec"].get("volumes") or []:
        name = volume["name"]
        path = made[name] = directory.path / "volumes" / name
        kinds = [key for key in volume if key != "name"] or ["emptyDir"]
        if kinds[0] not in VOLUMES:
            raise RefusedError(f"volume {name}: solo has no {kinds[0]}; it has {', '.join(VOLUMES)}")
        path.mkdir(mode=0o700, parents=True)
        if kinds[0] == "configMap":
            _fill(path, pod, "ConfigMap", volume["configMap"], 0o644, find)
        elif kinds[0] == "secret":
            secret = volume["secret"]
            # 0600 whatever the manifest allows: on a host there are other users
            _fill(path, pod, "Secret", {**secret, "name": secret["secretName"]}, 0o600, find)
    return made


def _fill(path: Path, pod: Object, kind: str, source: Object, mode: int, find: Find) -> None:
    data = _data(pod, kind, source, find)
    if data is None:
        return
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    for item in items:
        if item["key"] not in data:
            if source.get("optional"):
                continue
            raise NotReadyError(f"references non-existent {kind.lower()} key: {item['key']}")
        if item["path"].startswith("/") or ".." in item["path"].split("/"):
            raise RefusedError(f"volume of {kind} {source['name']}: path {item['path']!r} leaves the volume")
        file = path / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as out:
            out.write(data[item["key"]])


def _scripts(inputs: list[Object], plan: dict[str, Any]) -> list[Object]:
    """A script template's source comes as a raw artifact in Argo's own directory; its paths are led here like a
    command's.
    """
    paths = PathMap({path: Path(host) for path, host in plan["containers"][0]["paths"].items()})
    return [
        {**entry, "source": {"raw": {"data": paths.rewrite(entry["source"]["raw"]["data"])}}}
        if entry["path"].startswith(SCRIPTS) and "raw" in (entry.get("source") or {})
        else entry
        for entry in inputs
    ]
