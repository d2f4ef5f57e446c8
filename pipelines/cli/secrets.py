"""`yard secrets`: the values of pipelines/secret_values.py, from `secrets.enc.yaml` and out of nothing into a cluster.

The file comes before the cluster, and the cluster before a new value: what is made is made once. Nothing here prints
a value, and no program gets one as an argument.
"""

from __future__ import annotations

import base64
import getpass
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pipelines.cli.addresses import checkout, settings
from pipelines.cli.kubernetes import Kubernetes, Object, connect
from pipelines.documents import suggest
from pipelines.errors import Exit, YardError
from pipelines.platform import FILE as PLATFORM
from pipelines.platform import Platform
from pipelines.secret_values import Given, Made, Name, Place, Value, needed, read
from pipelines.sops import FILE, Sops

LABELS = {"app.kubernetes.io/managed-by": "trainyard"}
UNSUPPLIED = "optional, not supplied"
SHARED = {"argocd-secret"}  # Argo CD's own: of it only the keys in the table are ours


class Wanted(NamedTuple):
    """A value that the cluster shall have: the text, and where it comes from."""

    text: str
    origin: str


class Cluster:
    """The Secrets of a cluster, each asked for once."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self.kubernetes = kubernetes
        self._seen: dict[tuple[str, str], Object | None] = {}

    def secret(self, namespace: str, name: str) -> Object | None:
        where = namespace, name
        if where not in self._seen:
            self._seen[where] = self.kubernetes.secret(namespace, name)
        return self._seen[where]

    def text(self, place: Place) -> str | None:
        data = (self.secret(place.namespace, place.secret) or {}).get("data") or {}
        return base64.b64decode(data[place.key]).decode(errors="replace") if place.key in data else None

    def found(self, value: Value, platform: Platform) -> dict[Place, str]:
        texts = ((place, self.text(place)) for place in value.places(platform))
        return {place: text for place, text in texts if text is not None}

    def labelled(self, namespace: str, name: str, labels: Mapping[str, str]) -> bool:
        found = (self.secret(namespace, name) or {}).get("metadata", {}).get("labels") or {}
        return labels.items() <= found.items()

    def write(self, obj: Object) -> bool:
        """Apply a Secret; True if its namespace had to be made as well."""
        name = obj["metadata"]["namespace"]
        new = self.kubernetes.namespace(name) is None
        if new:
            self.kubernetes.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.kubernetes.apply(obj)
        return new


# ---- the commands


def show() -> None:
    """Print each value that the settings ask for, who makes it, and where it is; if it is nowhere, how to get it."""
    platform = _platform()
    kept = _names(Sops(checkout()), platform)
    values = needed(platform, kept)
    try:
        cluster = Cluster(connect())
        states = {value.name: _state(value, platform, kept, cluster) for value in values}
    except YardError as error:
        states = {value.name: _state(value, platform, kept, None) for value in values}
        print(f"the cluster was not asked: {error.what}\n")
    width = max(len(" ".join(value.name)) for value in values)
    for value in values:
        who = "supplied" if isinstance(value.source, Given) else "made"
        print(f"{' '.join(value.name):<{width}}  {who:<8}  {states[value.name]}")
        if isinstance(value.source, Given) and states[value.name] in ("missing", UNSUPPLIED):
            print(*([f"    {value.purpose}"] if value.optional else []), *_how(value, platform), sep="\n")


def set_value(secret: str, key: str, source: Path | None) -> None:
    """Read a value from `source`, the standard input or a prompt, and put it into the file, encrypted."""
    platform = _platform()
    value = _find(secret, key, platform)
    sops = Sops(checkout())
    sops.recipients()  # before anybody types anything
    try:
        if source:
            text = source.read_text()
        else:
            text = getpass.getpass(f"{' '.join(value.name)}: ") if sys.stdin.isatty() else sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
        raise YardError(what, where=str(source or "the standard input")) from None
    sops.write(value.name, _read(value, platform, text))
    print(f"{FILE}: {' '.join(value.name)} is set\n  → commit it, then `yard secrets apply`")
    if source:
        print(f"  → delete {source}, if it is the only plain copy")


def apply() -> None:
    """Bring the cluster to what the file and the table say, and print what was done. Again, it does nothing.

    Raises YardError: NOT_FOUND only for what a person still has to supply (all else is applied then); CONFLICT if a
    made value is not the same everywhere (nothing is changed then); others as the file, sops and the cluster say.
    """
    platform = _platform()
    given = _given(Sops(checkout()), platform)
    cluster = Cluster(connect())
    wanted, missing = _wanted(platform, cluster, given)
    _write(platform, cluster, wanted)
    if missing:
        names = ", ".join(" ".join(value.name) for value in missing)
        raise YardError(f"a person has to supply: {names}", todo="yard secrets list says how", code=Exit.NOT_FOUND)


def rotate(secret: str, key: str) -> None:
    """Make a value anew, in every namespace alike, and what is made of it."""
    platform = _platform()
    value = _find(secret, key, platform)
    if isinstance(value.source, Given):
        steps = "\n".join(_how(value, platform))
        raise YardError(f"only a person can make {secret} anew:\n{steps}", todo="yard secrets apply", code=Exit.USAGE)
    if value.source.of is not None:
        raise YardError(f"{secret} is made {value.source.words}", todo=value.rotate, code=Exit.USAGE)
    if value.fixed:
        raise YardError(f"{' '.join(value.name)} stays as it is", todo=value.rotate, code=Exit.REFUSED)
    sops = Sops(checkout())
    given = _given(sops, platform)
    cluster = Cluster(connect())
    touched = {value.name}
    for other in needed(platform):
        parts = other.source.of or () if isinstance(other.source, Made) else ()
        if value.name in parts:
            touched |= {other.name, *parts}
    fresh = value.source.make(platform, {})
    wanted, _ = _wanted(platform, cluster, given | {value.name: fresh}, touched)
    wanted[value.name] = Wanted(fresh, "made anew")
    if value.name in given:  # else the next `apply` would bring the old one back
        sops.write(value.name, fresh)
        print(f"{FILE}: {' '.join(value.name)} is set\n  → commit it")
    _write(platform, cluster, {name: text for name, text in wanted.items() if name in touched})
    print(f"  → {value.rotate}")


def check() -> None:
    """Whether the file is encrypted, whole, for the keys of `.sops.yaml`, and has only what is asked for."""
    sops = Sops(checkout())
    if not sops.file.is_file():
        print(f"{FILE}: there is none: nobody has supplied a value yet")
        return
    names = _names(sops, _platform())
    print(f"{FILE}: {len(names)} values, all encrypted, for {len(sops.recipients())} age keys")


def init() -> None:
    """Make what is not there yet: this person's age key, and `.sops.yaml`."""
    path, public, named = Sops(checkout()).init()
    print(f"age key     {path}  → keep a copy elsewhere: without it {FILE} cannot be read")
    print(f"public part {public}")
    if not named:
        print("not in .sops.yaml yet\n  → somebody whose key is there adds it, and runs `sops updatekeys " + FILE + "`")


# ---- what shall be


def _wanted(
    platform: Platform, cluster: Cluster, given: Mapping[Name, str], only: set[Name] | None = None
) -> tuple[dict[Name, Wanted], list[Value]]:
    """Name → the value that the cluster shall have; and what a person has to supply.

    With `only`, what is said of other values does not matter.
    """
    wanted: dict[Name, Wanted] = {}
    missing = []
    for value in needed(platform, given):
        if only is not None and value.name not in only:
            continue
        found = cluster.found(value, platform)
        if value.name in given:
            wanted[value.name] = Wanted(_read(value, platform, given[value.name]), f"from {FILE}")
        elif isinstance(value.source, Given):
            if len(found) < len(value.places(platform)) and not value.optional:
                missing.append(value)
        elif value.source.of is not None:
            if all(part in wanted for part in value.source.of):
                parts = {part: wanted[part].text for part in value.source.of}
                wanted[value.name] = Wanted(value.source.make(platform, parts), f"made {value.source.words}")
        elif len(set(found.values())) > 1:
            places = ", ".join(place.namespace for place in found)
            todo = f"yard secrets rotate {' '.join(value.name)}"
            what = f"{' '.join(value.name)} is not the same in {places}"
            raise YardError(what, todo=todo, code=Exit.CONFLICT)
        elif found:
            wanted[value.name] = Wanted(next(iter(found.values())), "as elsewhere")
        else:
            wanted[value.name] = Wanted(value.source.make(platform, {}), "made")
    return wanted, missing


def _write(platform: Platform, cluster: Cluster, wanted: Mapping[Name, Wanted]) -> None:
    """Apply each Secret that is not as it shall be, whole: server-side apply drops keys that it had and has no more."""
    unchanged = changed = 0
    for (namespace, name), keys in _secrets(platform, wanted).items():
        touched = {place.key: wanted[v.name] for place, v in keys.items() if v.name in wanted}
        old = {place.key: cluster.text(place) for place in keys}
        told = {key: want.origin for key, want in touched.items() if old[key] != want.text}
        first = next(iter(keys.values()))
        if not told and (not touched or cluster.labelled(namespace, name, dict(first.labels))):
            unchanged += bool(touched)
            continue
        texts = {key: text for key, text in old.items() if text is not None}
        texts |= {key: want.text for key, want in touched.items()}
        if cluster.write(_object(namespace, name, first, texts)):
            print(f"namespace {namespace}: made")
        if not told:
            print(f"{namespace}/{name}: labels")
        for key, origin in told.items():
            print(f"{namespace}/{name}: {key}: {origin}")
        changed += 1
    print(f"{changed} Secrets changed, {unchanged} were right")


def _secrets(platform: Platform, named: Iterable[Name]) -> dict[tuple[str, str], dict[Place, Value]]:
    """(namespace, Secret) → its keys, in the order of the table."""
    found: dict[tuple[str, str], dict[Place, Value]] = {}
    for value in needed(platform, named):
        for place in value.places(platform):
            found.setdefault((place.namespace, place.secret), {})[place] = value
    return found


def _object(namespace: str, name: str, value: Value, texts: Mapping[str, str]) -> Object:
    """The Secret, of the type and with the labels of any of its values."""
    meta: Object = {"name": name, "namespace": namespace}
    body: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
    if name not in SHARED:
        meta["labels"] = LABELS | dict(value.labels)
        body["type"] = value.type
    return {**body, "data": {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}}


def _state(value: Value, platform: Platform, kept: set[Name], cluster: Cluster | None) -> str:
    found, places = (cluster.found(value, platform) if cluster else {}), value.places(platform)
    told = ["in the file"] if value.name in kept else []
    if cluster:
        if len(set(found.values())) > 1:
            told.append("not the same in all namespaces")
        elif len(found) == len(places):
            told.append("in the cluster")
        elif found:
            told.append(f"in {len(found)} of {len(places)} places in the cluster")
    if told:
        return ", ".join(told)
    if value.optional:
        return UNSUPPLIED
    if isinstance(value.source, Made):
        return "not made yet" if cluster else "made by apply"
    return "missing"


# ---- small parts


def _platform() -> Platform:
    found = settings()
    if found is None:
        todo = "run it in a checkout of the platform"
        raise YardError("there is no such file", where=PLATFORM, todo=todo, code=Exit.NOT_FOUND)
    return found


def _find(secret: str, key: str, platform: Platform) -> Value:
    """The value of this name; without a key, the only one of its Secret that is not made of others."""
    found = [v for v in needed(platform, [(secret, key)]) if v.secret == secret and key in ("", v.key)]
    if len(found) > 1:
        found = [v for v in found if isinstance(v.source, Given) or v.source.of is None]
    if len(found) == 1:
        return found[0]
    if found:
        todo = f"name one: {', '.join(value.key for value in found)}"
        raise YardError(f"{secret} has several keys", todo=todo, code=Exit.USAGE)
    keys = [value.key for value in needed(platform) if value.secret == secret]
    if keys:  # the word is not repeated: it may be a value that somebody gave as an argument
        todo = f"its key is {' or '.join(keys)}; the value is not an argument"
        raise YardError(f"{secret} has no such key", todo=todo, code=Exit.NOT_FOUND)
    todo = suggest(secret, {value.secret for value in needed(platform)})
    if "/" in secret:
        todo = "a service's own are <service>-<environment>/<service>-secrets, with a variable as key"
    raise YardError(f"{PLATFORM} asks for no Secret {secret}", todo=todo, code=Exit.NOT_FOUND)


def _names(sops: Sops, platform: Platform) -> set[Name]:
    """What the file has. Raises YardError(INVALID) for what the settings do not ask for: none would apply it."""
    names = sops.names()
    known = {value.name: value.source for value in needed(platform, names)}
    for name in names:
        unset = f'take it out: sops unset {FILE} \'["{name[0]}"]["{name[1]}"]\''
        source = known.get(name)
        if source is None:
            words = suggest(" ".join(name), (" ".join(other) for other in known))
            raise YardError(f"{PLATFORM} asks for no {' '.join(name)}", where=FILE, todo=f"{words}, or {unset}")
        if isinstance(source, Made) and source.of is not None:
            raise YardError(f"{' '.join(name)} is made {source.words}: nobody gives it", where=FILE, todo=unset)
    return set(names)


def _given(sops: Sops, platform: Platform) -> dict[Name, str]:
    _names(sops, platform)
    return sops.read()


def _read(value: Value, platform: Platform, text: str) -> str:
    try:
        return read(value, platform, text)
    except ValueError as error:
        todo = f"yard secrets set {' '.join(value.name)}"
        raise YardError(str(error), where=" ".join(value.name), todo=todo) from None


def _how(value: Value, platform: Platform) -> list[str]:
    """The steps for these settings, the last of which is `yard secrets set`."""
    steps = value.source.steps if isinstance(value.source, Given) else ()
    other = {"github": "GitLab", "gitlab": "GitHub"}[platform.git.provider]
    buckets = {name: str(value) for name, value in platform.endpoints if name.endswith("_BUCKET")}
    told = [step for step in steps if not step.startswith(other)]
    if platform.addons.backup:
        buckets["BACKUP_BUCKET"] = platform.addons.backup.bucket
    for name, bucket in buckets.items():
        told = [step.replace(name, bucket) for step in told]
    told.append(f"`yard secrets set {' '.join(value.name)}`, with --from-file FILE if it is a file")
    return [f"    {number}. {step}" for number, step in enumerate(told, 1)]
