"""`platform.yaml`, the one file of this repository that a user edits: what is served, where things are, what is on.

Every option says here what it means, for editors (`docs/platform.schema.json`) and readers (`docs/platform.md`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipelines.config import DnsLabel, Environment
from pipelines.documents import Strict, mistake, read

FILE = "platform.yaml"


def load(source: Path | str, name: str | None = None) -> Platform:
    """Raises YardError: INVALID with file, line, field and what to do next; NOT_FOUND for a missing file."""
    return read(source, Platform, name or (source.name if isinstance(source, Path) else FILE))


def schema() -> dict[str, Any]:
    """The JSON Schema of `platform.yaml`, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Platform.model_json_schema()}


def markdown() -> str:
    """Every option of `platform.yaml` as tables: `docs/platform.md`."""
    whole = Platform.model_json_schema()
    title = "# platform.yaml\n\nThe one file that a user edits. Made by `make render` from `pipelines/platform.py`.\n"
    text, todo = [title], [("", "", whole)]
    while todo:
        field, meaning, body = todo.pop(0)
        if field:
            text.append(f"\n## `{field}`\n\n{meaning}\n")
        text.append("\n| option | meaning | default | example |\n| --- | --- | --- | --- |\n")
        for name, option in body["properties"].items():
            inner = _inner(option, whole)
            if inner:
                todo.append((f"{field}.{name}".strip("."), inner["description"], inner))
            if inner and "description" not in option:
                text.append(f"| `{name}` | [below](#{name}) | | |\n")
                continue
            default = "required" if name in body.get("required", []) else f"`{json.dumps(option.get('default', []))}`"
            (example,) = option["examples"]
            text.append(f"| `{name}` | {option['description']} | {default} | `{json.dumps(example)}` |\n")
    return "".join(text)


def _inner(option: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any] | None:
    """The model that an option holds: itself, in a list, or instead of null."""
    for part in (option, option.get("items", {}), *option.get("anyOf", [])):
        if "$ref" in part:
            found: dict[str, Any] = whole["$defs"][part["$ref"].rpartition("/")[2]]
            return found
    return None


def _domain(text: str) -> str:
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(rf"{label}(\.{label})+", text) or len(text) > 200:
        raise mistake(f"{text!r} is not a domain", "write it in small letters, without http://, like ml.example.com")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", text):
        raise mistake(f"{text!r} is not a host", "write its name in small letters, or its address")
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
        raise mistake(f"{text!r} is not a mail address", "write name@host")
    return text


def _path(text: str) -> str:
    if not re.fullmatch(r"(/[\w.-]+)+", text):
        raise mistake(f"{text!r} is not an absolute path", "write for example /exports/models")
    return text


def _schedule(text: str) -> str:
    if not re.fullmatch(r"[\d*/,-]+( [\d*/,-]+){4}", text):
        raise mistake(f"{text!r} is not a schedule", 'write five fields as cron has them, like "0 3 * * *"')
    return text


def _repository(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", text) or ".." in text:
        raise mistake(f"{text!r} is not a repository", "write owner/name")
    return text


def _branch(text: str) -> str:
    # what git itself refuses in a ref (git-check-ref-format), and what has a meaning to a shell
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", text) or re.search(r"\.\.|//|/\.|/$|\.lock$|\.$", text):
        raise mistake(f"{text!r} is not a branch", "write its name without refs/heads/")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text) or text.endswith("/"):
        raise mistake(f"{text!r} is not an address", "write http://… or https://…, without a / at the end")
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]", text):
        raise mistake(f"{text!r} is not a bucket", "write its name, without gs://")
    return text


def _registry(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+(:\d+)?(/[a-z0-9._-]+)+", text):
        raise mistake(f"{text!r} is not where images go", "write HOST/PROJECT, without http:// and without a tag")
    return text


def _mirror(text: str) -> str:
    if not re.fullmatch(r"([\w.-]+(:\d+)?(/[\w.-]+)*)?", text):
        raise mistake(f"{text!r} is not a registry", "write HOST, HOST:PORT or HOST/PATH, without http://")
    return text


Repository = Annotated[str, AfterValidator(_repository)]
Branch = Annotated[str, AfterValidator(_branch)]
Address = Annotated[str, AfterValidator(_address)]
AddressOrNone = Annotated[str, AfterValidator(lambda text: text and _address(text))]
Bucket = Annotated[str, AfterValidator(_bucket)]
Host = Annotated[str, AfterValidator(_host)]
Email = Annotated[str, AfterValidator(_email)]
Role = Literal["train", "serve"]


def _option(meaning: str, example: Any, default: Any = ...) -> Any:
    """A field as all are documented: what it means, an example, and its default unless it is required."""
    if isinstance(default, type):
        return Field(default_factory=default, description=meaning, examples=[example])
    return Field(default, description=meaning, examples=[example])


class Service(Strict):
    """One model application: the repository that it is pushed to, and the environments that it is released to."""

    repo: Repository = _option("the repository that the model is pushed to", "acme/digits")
    name: DnsLabel = _option("what it is called everywhere", "digits")
    branch: Branch = _option("the branch whose pushes count", "main", "main")
    environments: list[Environment] = Field(
        default=["dev"], min_length=1, description="where it is released to", examples=[["dev", "prod"]]
    )


class Git(Strict):
    """The Git host that sends webhooks."""

    provider: Literal["github", "gitlab"] = _option("whose webhooks and commit statuses it speaks", "gitlab", "github")


class Endpoints(Strict):
    """Addresses as the cluster's pods see them. Left out, they follow from `domain`, `git` and `addons`."""

    GIT_URL: Address = _option("`$GIT_URL/<owner>/<repo>.git`", "https://github.com", "https://github.com")
    GIT_API_URL: Address = _option("commit statuses", "https://api.github.com", "https://api.github.com")
    REGISTRY: Annotated[str, AfterValidator(_registry)] = _option(
        "what images' names begin with; `harbor.<domain>/trainyard`",
        "harbor.example.com/ml",
        "harbor.invalid/trainyard",
    )
    REGISTRY_URL: AddressOrNone = _option(
        "the registry's HTTP API; `https://` and the host of `REGISTRY`", "http://10.0.0.2:5000", ""
    )
    REGISTRY_MIRROR: Annotated[str, AfterValidator(_mirror)] = _option(
        "where builds look for base images first; empty for none", "mirror.example.com/hub", ""
    )
    STORAGE_URL: AddressOrNone = _option(
        "the object store's JSON API; empty for Google Cloud Storage", "http://storage.storage.svc:4443", ""
    )
    REGISTRY_BUCKET: Bucket = _option("the bucket of versions and models", "acme-registry", "trainyard-registry")
    SCRATCH_BUCKET: Bucket = _option(
        "the bucket of artifacts and logs, with an expiry", "acme-tmp", "trainyard-scratch"
    )
    EVENTS_URL: Address = _option(
        "EventSource `stages`", "http://events.example.com", "http://stages-eventsource-svc.argo-events:12001"
    )
    ARGO_URL: Address = _option(
        "the Argo UI, for links; `https://argo.<domain>`", "https://argo.x.org", "http://argo.invalid"
    )
    KUBERNETES_URL: Address = _option("to read Applications", "https://10.0.0.1:6443", "https://kubernetes.default.svc")
    SERVING_URL: Address = _option(
        "a deployed service; the two words are replaced",
        "https://{service}.example.com",
        "http://{service}.{namespace}.svc:8080",
    )

    def as_dict(self) -> dict[str, str]:
        """As ConfigMap `endpoints` holds them."""
        url = self.REGISTRY_URL or f"https://{self.REGISTRY.partition('/')[0]}"
        return {**self.model_dump(), "REGISTRY_URL": url}


class Tls(Strict):
    """Who signs the certificates of the addresses under `domain`."""

    issuer: Literal["self-signed", "letsencrypt-staging", "letsencrypt", "none"] = _option(
        "the cluster's own CA, Let's Encrypt by DNS-01 at Cloudflare, or none: TLS ends in front of the cluster",
        "letsencrypt",
        "self-signed",
    )
    email: Email | None = _option("where Let's Encrypt writes to; required for it", "ops@example.com", None)

    @model_validator(mode="after")
    def _reachable(self) -> Tls:
        if self.issuer.startswith("letsencrypt") and self.email is None:
            raise mistake("Let's Encrypt wants a mail address", "add email: name@host", "issuer")
        return self


class Node(Strict):
    """One machine of the cluster."""

    name: Host = _option("as `kubectl get nodes` calls it", "box")
    roles: list[Role] = Field(
        default=["train", "serve"], min_length=1, description="what may run there", examples=[["train"]]
    )
    gpu: bool = _option("it has an NVIDIA GPU", True, False)


class Login(Strict):
    """Single sign-on for the Argo UI and Argo CD, by OpenID Connect. Groups are the provider's."""

    issuer: Address = _option("the provider", "https://accounts.example.com")
    client: str = Field(default="trainyard", min_length=1, description="this platform's client id", examples=["ml"])
    viewer: list[str] = _option("groups that see everything", ["everyone"], list)
    trainer: list[str] = _option("groups that also start, stop and repeat runs", ["ml"], list)
    approver: list[str] = _option("groups that also sync and roll back services", ["leads"], list)
    admin: list[str] = _option("groups that may do all", ["ops"], list)


class Nfs(Strict):
    """A share for volumes that several nodes write to."""

    server: Host = _option("the NFS server", "nas.example.com")
    path: Annotated[str, AfterValidator(_path)] = _option("the exported folder", "/exports/models")


class Backup(Strict):
    """Copies of the databases."""

    bucket: Bucket = _option("where copies go", "acme-backup")
    schedule: Annotated[str, AfterValidator(_schedule)] = _option("when, in UTC", "0 1 * * *", "0 3 * * *")


class Addons(Strict):
    """What may run beside the core. What is off leaves no object in the cluster."""

    harbor: bool = _option("a container registry at `harbor.<domain>`; needs `postgresql`", True, False)
    postgresql: bool = _option("databases by CloudNativePG: Harbor's, and the archive of runs", True, False)
    nfs: Nfs | None = _option("volumes on an NFS server", {"server": "nas.example.com", "path": "/exports"}, None)
    gpu: bool = _option("NVIDIA's device plugin, on nodes with `gpu: true`", True, False)
    monitoring: bool = _option("Prometheus, rules and dashboards", True, False)
    storage: bool = _option("an object store in the cluster, for development", True, False)
    tunnel: bool = _option("webhooks through a Cloudflare tunnel, for a box without a public address", True, False)
    backup: Backup | None = _option(
        "copies of the databases, on a schedule; needs `postgresql`", {"bucket": "acme-backup"}, None
    )

    def on(self) -> list[str]:
        """The names of those that are on."""
        return [name for name, value in self if value]

    @model_validator(mode="after")
    def _needs(self) -> Addons:
        if self.harbor and not self.postgresql:
            raise mistake("harbor needs a database", "add postgresql: true", "harbor")
        if self.backup and not self.postgresql:
            raise mistake("there is no database to copy", "add postgresql: true, or remove backup", "backup")
        return self


class Mirror(Strict):
    """Where a site without internet has what others fetch from outside."""

    git: Address = _option("upstream's repositories: `<git>/argoproj/argo-cd`", "http://git.lan", "https://github.com")
    charts: str = _option("one chart repository for all; empty for each chart's own", "https://charts.lan", "")
    images: Annotated[str, AfterValidator(_mirror)] = _option(
        "one registry for all images, told to k3s; empty for each image's own", "registry.lan:5000", ""
    )
    files: str = _option("an address or a folder that has k3s; empty for its release page", "/srv/k3s", "")


class Bot(Strict):
    """Who commits releases."""

    name: str = Field(default="trainyard", min_length=1, description="the commits' author", examples=["release-bot"])
    email: Email = _option("its address", "bot@example.com", "trainyard@localhost")


class Platform(Strict):
    """`platform.yaml` as a whole."""

    apiVersion: Literal["trainyard/v1"] = _option("the format of this file", "trainyard/v1")
    domain: Annotated[str, AfterValidator(_domain)] = _option(
        "the platform answers at `argo.`, `argocd.`, `hooks.`, `harbor.` and `grafana.` of it", "ml.example.com"
    )
    repository: Repository = _option(
        "this repository, which Argo CD reads and the pipeline cannot write", "acme/platform"
    )
    branch: Branch = _option("the branch of this repository that is installed", "main", "main")
    releases: Repository = _option(
        "the repository that Argo CD deploys from, and that only the pipeline writes", "acme/releases"
    )
    services: list[Service] = Field(
        min_length=1, description="the models", examples=[[{"repo": "acme/digits", "name": "digits"}]]
    )
    git: Git = Git()
    endpoints: Endpoints = Endpoints()
    tls: Tls = Tls()
    nodes: list[Node] = Field(
        default=[Node(name="box")], min_length=1, description="the cluster's machines", examples=[[{"name": "box"}]]
    )
    login: Login | None = _option(
        "single sign-on; without it people log in with tokens",
        {"issuer": "https://id.example.com", "admin": ["ops"]},
        None,
    )
    addons: Addons = Addons()
    mirror: Mirror = Mirror()
    bot: Bot = Bot()

    @model_validator(mode="after")
    def _distinct(self) -> Platform:
        names = [service.name for service in self.services]
        # one repository is one service: events carry the repository, nothing else tells services apart
        repositories = [*(service.repo.lower() for service in self.services), self.releases.lower()]
        repositories.append(self.repository.lower())
        nodes = [node.name for node in self.nodes]
        for what, values, at in (
            ("name", names, "services"),
            ("repository", repositories, "services"),
            ("node", nodes, "nodes"),
        ):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice:
                raise mistake(f"the {what} {twice!r} is used twice", f"every {at[:-1]} has its own", at)
        if self.addons.gpu and not any(node.gpu for node in self.nodes):
            raise mistake("no node has a GPU", "add gpu: true to one, or remove addons.gpu", "nodes")
        for name in ("harbor", "monitoring"):
            if self.tls.issuer == "none" and name in self.addons.on():
                raise mistake(
                    f"{name} has a certificate of its own", "set tls.issuer, or remove the add-on", "tls", "issuer"
                )
        for role in ("train", "serve"):
            if not any(role in node.roles for node in self.nodes):
                raise mistake(f"no node may {role}", f"add {role} to the roles of one", "nodes")
        return self

    @model_validator(mode="after")
    def _addresses(self) -> Platform:
        """Addresses that were left out follow from the rest."""
        follow = {
            "REGISTRY": f"harbor.{self.domain}/trainyard",
            "ARGO_URL": f"https://argo.{self.domain}",
        }
        if self.addons.storage:
            follow["STORAGE_URL"] = "http://storage.storage.svc:4443"
        if self.git.provider == "gitlab":
            follow |= {"GIT_URL": "https://gitlab.com", "GIT_API_URL": "https://gitlab.com/api/v4"}
        given = self.endpoints.model_dump(exclude_unset=True)
        object.__setattr__(self, "endpoints", Endpoints(**(follow | given)))  # frozen for everybody else
        return self

    def node_labels(self) -> dict[str, dict[str, str]]:
        """Node → its labels, from which its pods follow; "" is a label that it must not have.

        A node with a GPU serves only if no other node may: it is for training.
        """
        serving = [node for node in self.nodes if "serve" in node.roles]
        spared = [node for node in serving if not node.gpu] or serving
        return {
            node.name: {
                "trainyard/train": "" if "train" in node.roles else "false",
                "trainyard/serve": "" if node in spared else "false",
                "nvidia.com/gpu.present": "true" if node.gpu else "",
            }
            for node in self.nodes
        }

    @property
    def own_registry_ca(self) -> bool:
        """Whether the cluster's own CA signs the registry's certificate: who calls it must be given that CA."""
        return self.addons.harbor and self.tls.issuer == "self-signed"

    def host(self, name: str) -> str:
        """The name under the domain at which a part of the platform answers."""
        return f"{name}.{self.domain}"
