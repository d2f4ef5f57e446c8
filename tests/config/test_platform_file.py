"""platform.yaml: the committed one is valid, and mistakes in it are told as those in mlops.yaml are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import YardError
from pipelines.platform import load

COMMITTED = Path(__file__).parents[2] / "platform.yaml"

VALID = """\
apiVersion: trainyard/v1
services:
  - {repo: acme/digits, name: digits}
releases: acme/releases
endpoints:
  GIT_URL: https://github.com
"""


def test_the_committed_file_is_valid_and_gives_every_pod_its_addresses():
    platform = load(COMMITTED)
    addresses = platform.endpoints.as_dict()
    assert {"GIT_URL", "REGISTRY_BUCKET", "EVENTS_URL", "SERVING_URL"} <= set(addresses)
    assert all(isinstance(value, str) for value in addresses.values())


def test_a_registry_answers_at_its_own_name_unless_told_otherwise():
    def url(endpoint):
        return load(VALID.replace("GIT_URL: https://github.com", endpoint)).endpoints.as_dict()["REGISTRY_URL"]

    assert url("REGISTRY: hub.example.com:5000/x") == "https://hub.example.com:5000"
    assert url("REGISTRY_URL: http://10.0.0.1:5000") == "http://10.0.0.1:5000"


def test_a_service_is_on_main_and_goes_to_dev_unless_it_says_otherwise():
    (service,) = load(VALID).services
    assert (service.branch, service.environments) == ("main", ["dev"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "acme/digits",
            "https://github.com/acme/digits",
            "platform.yaml:3: services[0].repo: 'https://github.com/acme/digits' is not a repository\n"
            "  → write owner/name",
        ),
        (
            "name: digits}",
            "name: digits, brunch: dev}",
            "platform.yaml:3: services[0].brunch: unknown key\n  → did you mean 'branch'?",
        ),
        (
            "name: digits}",
            "name: digits, branch: refs heads}",
            "platform.yaml:3: services[0].branch: 'refs heads' is not a branch\n  → write its name without refs/heads/",
        ),
        (
            "name: digits}",
            "name: digits, environments: []}",
            "platform.yaml:3: services[0].environments: must have at least 1 entries\n  → change the value",
        ),
        (
            "releases: acme/releases",
            "releases: acme/digits",
            "platform.yaml:2: services: the repository 'acme/digits' is used twice\n  → every service has its own",
        ),
        (
            "GIT_URL: https://github.com",
            "GIT_URL: github.com",
            "platform.yaml:6: endpoints.GIT_URL: 'github.com' is not an address\n"
            "  → write http://… or https://…, without a / at the end",
        ),
        (
            "GIT_URL: https://github.com",
            "GIT_URI: https://github.com",
            "platform.yaml:6: endpoints.GIT_URI: unknown key\n  → did you mean 'GIT_URL'?",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_BUCKET: gs://models",
            "platform.yaml:6: endpoints.REGISTRY_BUCKET: 'gs://models' is not a bucket\n"
            "  → write its name, without gs://",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY: https://harbor.example.com/x",
            "platform.yaml:6: endpoints.REGISTRY: 'https://harbor.example.com/x' is not where images go\n"
            "  → write HOST/PROJECT, without http:// and without a tag",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_URL: harbor.example.com",
            "platform.yaml:6: endpoints.REGISTRY_URL: 'harbor.example.com' is not an address\n"
            "  → write http://… or https://…, without a / at the end",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_MIRROR: https://mirror.example.com",
            "platform.yaml:6: endpoints.REGISTRY_MIRROR: 'https://mirror.example.com' is not a registry\n"
            "  → write HOST, HOST:PORT or HOST/PATH, without http://",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_next_step(old, new, message):
    with pytest.raises(YardError) as caught:
        load(VALID.replace(old, new))
    assert str(caught.value) == message
