"""`platform.yaml`, the one file of this repository that a user edits: which services there are, where things are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipelines.config import DnsLabel
from pipelines.documents import Strict, mistake, read

FILE = "platform.yaml"


def load(source: Path | str, name: str | None = None) -> Platform:
    """Raises YardError: INVALID with file, line, field and what to do next; NOT_FOUND for a missing file."""
    return read(source, Platform, name or (source.name if isinstance(source, Path) else FILE))


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
Address = Annotated[str, AfterValidator(_address)]
Bucket = Annotated[str, AfterValidator(_bucket)]


class Service(Strict):
    """One model application: the repository that it is pushed to, and the environments that it is released to."""

    repo: Repository
    name: DnsLabel
    branch: Annotated[str, AfterValidator(_branch)] = "main"
    environments: list[Literal["dev", "stage", "prod"]] = Field(default=["dev"], min_length=1)


class Endpoints(Strict):
    """Addresses as the cluster's pods see them; docs/architecture.md says what each is for."""

    GIT_URL: Address = "https://github.com"
    GIT_API_URL: Address = "https://api.github.com"
    REGISTRY: Annotated[str, AfterValidator(_registry)] = "harbor.example.com/trainyard"
    REGISTRY_URL: Annotated[str, AfterValidator(lambda text: text and _address(text))] = ""
    REGISTRY_MIRROR: Annotated[str, AfterValidator(_mirror)] = ""
    STORAGE_URL: Annotated[str, AfterValidator(lambda text: text and _address(text))] = ""
    REGISTRY_BUCKET: Bucket = "trainyard-registry"
    SCRATCH_BUCKET: Bucket = "trainyard-scratch"
    EVENTS_URL: Address = "http://stages-eventsource-svc.argo-events:12001"
    ARGO_URL: Address = "https://argo.example.com"
    KUBERNETES_URL: Address = "https://kubernetes.default.svc"
    SERVING_URL: Address = "http://{service}.{namespace}.svc:8080"

    def as_dict(self) -> dict[str, str]:
        """As ConfigMap `endpoints` holds them."""
        url = self.REGISTRY_URL or f"https://{self.REGISTRY.partition('/')[0]}"
        return {**self.model_dump(), "REGISTRY_URL": url}


class Bot(Strict):
    """Who commits releases."""

    name: str = Field(default="trainyard", min_length=1)
    email: str = Field(default="trainyard@localhost", min_length=3)


class Platform(Strict):
    """`platform.yaml` as a whole."""

    apiVersion: Literal["trainyard/v1"]
    services: list[Service] = Field(min_length=1)
    releases: Repository
    endpoints: Endpoints = Endpoints()
    bot: Bot = Bot()

    @model_validator(mode="after")
    def _distinct(self) -> Platform:
        names = [service.name for service in self.services]
        # one repository is one service: events carry the repository, nothing else tells services apart
        repositories = [*(service.repo.lower() for service in self.services), self.releases.lower()]
        for what, values in (("name", names), ("repository", repositories)):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice:
                raise mistake(f"the {what} {twice!r} is used twice", "every service has its own", "services")
        return self
