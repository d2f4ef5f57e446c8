"""The Kubernetes API, as much of it as `yard` changes: Secrets and namespaces, by server-side apply.

Where: KUBERNETES_URL (`kubectl proxy`) with KUBERNETES_TOKEN, else a kubeconfig, as kubectl finds it.
"""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml

from pipelines.errors import Exit, YardError

MANAGER = "yard"  # who owns the keys that it applies; those of others stay theirs
K3S = Path("/etc/rancher/k3s/k3s.yaml")
MISTAKES = {400: Exit.INVALID, 401: Exit.INVALID, 403: Exit.INVALID, 404: Exit.NOT_FOUND, 409: Exit.CONFLICT}
PROXY = "or `kubectl proxy`, and KUBERNETES_URL=http://127.0.0.1:8001"

Object = dict[str, Any]


class Kubernetes:
    """Methods raise YardError: UNAVAILABLE if nothing answers, else as the server says; values are in no message."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.url = str(client.base_url).rstrip("/")

    def secret(self, namespace: str, name: str) -> Object | None:
        return self._get(f"/api/v1/namespaces/{quote(namespace)}/secrets/{quote(name)}")

    def namespace(self, name: str) -> Object | None:
        return self._get(f"/api/v1/namespaces/{quote(name)}")

    def apply(self, obj: Object) -> None:
        """Server-side apply of a Secret or a Namespace; what another manager put there before is taken over."""
        meta = obj["metadata"]
        where = (
            f"/api/v1/namespaces/{quote(meta['namespace'])}/secrets" if "namespace" in meta else "/api/v1/namespaces"
        )
        path = f"{where}/{quote(meta['name'])}"
        query = {"fieldManager": MANAGER, "force": "true"}
        kind = {"Content-Type": "application/apply-patch+yaml"}
        answer = self._ask("PATCH", path, params=query, json=obj, headers=kind)
        if answer.is_error:
            raise self._told(answer, path, obj)

    def _get(self, path: str) -> Object | None:
        answer = self._ask("GET", path)
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise self._told(answer, path)
        found: Object = answer.json()
        return found

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **given)
        except httpx.HTTPError as error:
            todo = "is the cluster up, and is the address right?"
            raise YardError(f"does not answer: {error}", where=self.url, todo=todo, code=Exit.UNAVAILABLE) from None

    def _told(self, answer: httpx.Response, path: str, sent: Object | None = None) -> YardError:
        try:
            message = str(answer.json()["message"])
        except (ValueError, LookupError, TypeError):
            message = answer.reason_phrase
        for value in filter(None, (sent or {}).get("data", {}).values()):
            message = message.replace(value, "…").replace(base64.b64decode(value).decode(errors="replace"), "…")
        status = answer.status_code
        todo = "may this user write Secrets there?" if status in (401, 403) else ""
        if sent and "field is immutable" in message:
            meta = sent["metadata"]
            todo = f"kubectl -n {meta['namespace']} delete secret {meta['name']}, and apply again: a type never changes"
        code = MISTAKES.get(status, Exit.INVALID if status == 422 else Exit.UNAVAILABLE)
        return YardError(f"HTTP {status}: {message[:300]}", where=f"{self.url}{path}", todo=todo, code=code)


def connect() -> Kubernetes:
    """Raises YardError: UNAVAILABLE without a kubeconfig, INVALID for one that is not understood."""
    url = os.environ.get("KUBERNETES_URL", "")
    if url:
        token = os.environ.get("KUBERNETES_TOKEN", "")
        return _client(url, True, {"Authorization": f"Bearer {token}"} if token else {})
    named = [Path(name) for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    path = next((path for path in (*named, Path.home() / ".kube/config", K3S) if path.is_file()), None)
    if path is None:
        todo = f"KUBECONFIG=FILE (k3s: {K3S}), {PROXY}"
        raise YardError("no cluster is named", todo=todo, code=Exit.UNAVAILABLE)
    try:
        return _of(yaml.safe_load(path.read_text()), path.parent)
    except OSError as error:
        raise YardError(f"cannot be read: {error.strerror}", where=str(path), todo="try sudo") from None
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, StopIteration, ssl.SSLError) as error:
        what = f"a kubeconfig that is not understood: {type(error).__name__}"
        raise YardError(
            what, where=str(path), todo=f"`kubectl config view` says how kubectl reads it; {PROXY}"
        ) from None


def _of(config: Any, folder: Path) -> Kubernetes:
    """The current context's cluster. Its user has a token or a certificate; programs (`exec`) are not run."""

    def named(kind: str, name: str) -> Any:
        return next(entry[kind.removesuffix("s")] for entry in config[kind] if entry["name"] == name)

    context = named("contexts", config["current-context"])
    cluster, user = named("clusters", context["cluster"]), named("users", context["user"]) or {}
    authority = _bytes(cluster, "certificate-authority", folder)
    verify = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        verify.check_hostname, verify.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_bytes(user, f"client-{part}", folder) for part in ("certificate", "key"))
    if certificate and key:
        _load(verify, certificate, key)
    token = user.get("token") or (_read(user["tokenFile"], folder).decode().strip() if "tokenFile" in user else "")
    if not token and not certificate:
        raise ValueError("neither token nor certificate")
    return _client(cluster["server"], verify, {"Authorization": f"Bearer {token}"} if token else {})


def _bytes(entry: Any, key: str, folder: Path) -> bytes:
    """What stands in `KEY-data`, or in the file that `KEY` names."""
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    return _read(entry[key], folder) if key in entry else b""


def _read(name: str, folder: Path) -> bytes:
    return (folder / name).read_bytes()


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python reads certificates from files only; this one is in memory."""
    handle = os.memfd_create("certificate")
    try:
        os.write(handle, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _client(url: str, verify: ssl.SSLContext | bool, headers: dict[str, str]) -> Kubernetes:
    return Kubernetes(httpx.Client(base_url=url, verify=verify, headers=headers, timeout=20))
