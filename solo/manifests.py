"""Reads committed manifests with the file and line of every field, and puts the two things of solo in their place:
addresses and Secrets.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from solo.store import Object, Store

Field = tuple[str | int, ...]


class ManifestError(Exception):
    """Manifests that solo will not run. `problems` are lines "file:line: field: why"."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Manifest(NamedTuple):
    """One YAML document: the object, its file, and the line of each field."""

    object: Object
    path: Path
    lines: Mapping[Field, int]

    def where(self, field: Field) -> str:
        """ "file:line" of a field, or of the nearest one around it."""
        while field and field not in self.lines:
            field = field[:-1]
        return f"{self.path}:{self.lines.get(field, 1)}"


def load(root: Path, folders: Sequence[str]) -> list[Manifest]:
    """Every document of every .yaml file below the folders. Raises ManifestError for one that is not an object, or is
    there twice.
    """
    found = [
        manifest
        for folder in folders
        for path in sorted((root / folder).rglob("*.yaml"))
        for manifest in parse(path.read_text(), path.relative_to(root))
    ]
    seen: dict[tuple[str, str, str], Manifest] = {}
    for manifest in found:
        meta = manifest.object["metadata"]
        key = (manifest.object["kind"], meta.get("namespace", ""), meta["name"])
        if key in seen:
            raise ManifestError([f"{manifest.where(())}: {' '.join(key)} is in {seen[key].where(())} too"])
        seen[key] = manifest
    if not found:
        raise ManifestError(
            [f"{root}: no manifests in {', '.join(folders)}\n  → run this in a checkout of the platform"]
        )
    return found


def parse(text: str, path: Path) -> Iterator[Manifest]:
    """Raises ManifestError with file and line for text that is not YAML, or not Kubernetes objects."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            lines: dict[Field, int] = {}
            _lines(node, (), lines)
            body = loader.construct_document(node)
            if body is None:
                continue
            if not isinstance(body, dict) or not {"apiVersion", "kind", "metadata"} <= set(body):
                raise ManifestError(
                    [f"{path}:{node.start_mark.line + 1}: not a Kubernetes object (apiVersion, kind, metadata)"]
                )
            yield Manifest(body, path, lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError([f"{path}:{line}: {error.problem}"]) from None
    finally:
        loader.dispose()


def _lines(node: yaml.Node, field: Field, lines: dict[Field, int]) -> None:
    lines[field] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _lines(value, (*field, key.value), lines)
            lines[(*field, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _lines(value, (*field, index), lines)


def field_of(name: str) -> Field:
    """`spec.templates[2].name` as a path; good enough to find its line (keys with dots end the search early)."""
    return tuple(int(index) if index else key for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", name))


def readdress(objects: Sequence[Object], endpoints: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Put solo's addresses into every ConfigMap `endpoints`; returns key → (committed, solo's)."""
    changed = {}
    for obj in objects:
        if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == "endpoints":
            for key, committed in obj["data"].items():
                if endpoints.get(key, committed) != committed:
                    changed[key] = (committed, endpoints[key])
                    obj["data"][key] = endpoints[key]
    return changed


def make_secrets(store: Store, objects: Sequence[Object], *, but: Collection[str] = ()) -> None:
    """Create the Secrets that the objects mention and nobody defines: random, once, one value for one (Secret, key)
    everywhere.

    A mention without a key (a whole Secret as a volume) gets the key `credentials`. A key named `….pem` is an EC P-256
    private key. Optional mentions are left out, and Secrets named in `but`.
    """
    for namespace, name, key in sorted(set(_mentions(objects))):
        if name not in but:
            _put(store, namespace, name, key, secret_value(store, name, key))


def secret_names(objects: Sequence[Object]) -> set[str]:
    """The Secrets that the objects mention, also those that they can do without."""
    return {name for _, name, _ in _mentions(objects, optional=True)}


def make_registry_login(store: Store, objects: Sequence[Object], host: str) -> tuple[str, str]:
    """Create the optional Secret `registry-push` wherever an object mentions it, for the registry at `host`; returns
    its login and its content, a Docker config.json.
    """
    login = f"trainyard:{secret_value(store, REGISTRY_PUSH, 'password')}"
    text = json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}})
    _put_where_mentioned(store, objects, REGISTRY_PUSH, ".dockerconfigjson", text)
    return login, text


def make_status_token(store: Store, objects: Sequence[Object]) -> str:
    """Create the optional Secret `git-status` wherever an object mentions it; returns the token that our own Git host
    wants for a commit status.
    """
    token = secret_value(store, GIT_STATUS, "token")
    _put_where_mentioned(store, objects, GIT_STATUS, "token", token)
    return token


def _put_where_mentioned(store: Store, objects: Sequence[Object], name: str, key: str, value: str) -> None:
    for namespace in sorted({there for there, found, _ in _mentions(objects, optional=True) if found == name}):
        _put(store, namespace, name, key, value)


def public_key(store: Store, name: str, key: str) -> str:
    """The public half of a made `….pem` key."""
    private = load_pem_private_key(secret_value(store, name, key).encode(), None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _put(store: Store, namespace: str, name: str, key: str, value: str) -> None:
    body = store.find("Secret", namespace, name) or {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {},
    }
    body["data"][key] = base64.b64encode(value.encode()).decode()
    store.apply(body)


def secret_value(store: Store, name: str, key: str) -> str:
    """The value of a made Secret, made now if it is new. Kept in the store only (its file is the user's alone)."""
    keeper = store.find("Secret", "", name) or {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "data": {},
    }
    if key not in keeper["data"]:
        keeper["data"][key] = base64.b64encode(_made(key).encode()).decode()
        store.apply(keeper)
    return base64.b64decode(keeper["data"][key]).decode()


def _made(key: str) -> str:
    if not key.endswith(".pem"):
        return secrets.token_urlsafe(32)
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


KEYS = {"stages-token": "token", "signing": "key.pem"}
REGISTRY_PUSH, GIT_STATUS = "registry-push", "git-status"
EVENT_SECRETS = ("webhookSecret", "authSecret")


def _mentions(objects: Sequence[Object], *, optional: bool = False) -> Iterator[tuple[str, str, str]]:
    """Namespace, Secret, key; of the optional ones only if asked for."""
    for obj in objects:
        namespace = obj["metadata"].get("namespace", "")
        for entry in _dicts(obj):
            volume = entry.get("secret")
            if isinstance(volume, dict) and "secretName" in volume and (optional or not volume.get("optional")):
                yield namespace, volume["secretName"], KEYS.get(volume["secretName"], "credentials")
            for field in (*EVENT_SECRETS, "secretKeyRef"):
                ref = entry.get(field)
                if isinstance(ref, dict) and (optional or not ref.get("optional")):
                    yield namespace, ref["name"], ref["key"]


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _dicts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dicts(item)
