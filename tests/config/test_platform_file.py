"""platform.yaml: the committed one is valid, and mistakes in it are told as those in mlops.yaml are."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml
from jsonschema import Draft202012Validator

from pipelines.errors import YardError
from pipelines.platform import Platform, load, schema
from pipelines.templates.render import ROOT, render

COMMITTED = ROOT / "platform.yaml"

VALID = """\
apiVersion: trainyard/v1
domain: ml.example.org
repository: acme/platform
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
            "platform.yaml:5: services[0].repo: 'https://github.com/acme/digits' is not a repository\n"
            "  → write owner/name",
        ),
        (
            "name: digits}",
            "name: digits, brunch: dev}",
            "platform.yaml:5: services[0].brunch: unknown key\n  → did you mean 'branch'?",
        ),
        (
            "name: digits}",
            "name: digits, branch: refs heads}",
            "platform.yaml:5: services[0].branch: 'refs heads' is not a branch\n  → write its name without refs/heads/",
        ),
        (
            "name: digits}",
            "name: digits, environments: []}",
            "platform.yaml:5: services[0].environments: must have at least 1 entries\n  → change the value",
        ),
        (
            "releases: acme/releases",
            "releases: acme/digits",
            "platform.yaml:4: services: the repository 'acme/digits' is used twice\n  → every service has its own",
        ),
        (
            "GIT_URL: https://github.com",
            "GIT_URL: github.com",
            "platform.yaml:8: endpoints.GIT_URL: 'github.com' is not an address\n"
            "  → write http://… or https://…, without a / at the end",
        ),
        (
            "GIT_URL: https://github.com",
            "GIT_URI: https://github.com",
            "platform.yaml:8: endpoints.GIT_URI: unknown key\n  → did you mean 'GIT_URL'?",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_BUCKET: gs://models",
            "platform.yaml:8: endpoints.REGISTRY_BUCKET: 'gs://models' is not a bucket\n"
            "  → write its name, without gs://",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY: https://harbor.example.com/x",
            "platform.yaml:8: endpoints.REGISTRY: 'https://harbor.example.com/x' is not where images go\n"
            "  → write HOST/PROJECT, without http:// and without a tag",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_URL: harbor.example.com",
            "platform.yaml:8: endpoints.REGISTRY_URL: 'harbor.example.com' is not an address\n"
            "  → write http://… or https://…, without a / at the end",
        ),
        (
            "GIT_URL: https://github.com",
            "REGISTRY_MIRROR: https://mirror.example.com",
            "platform.yaml:8: endpoints.REGISTRY_MIRROR: 'https://mirror.example.com' is not a registry\n"
            "  → write HOST, HOST:PORT or HOST/PATH, without http://",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_next_step(old, new, message):
    with pytest.raises(YardError) as caught:
        load(VALID.replace(old, new))
    assert str(caught.value) == message


EVERYTHING = """\
apiVersion: trainyard/v1
domain: ml.elsewhere.test
repository: other/platform-x
branch: trunk
releases: other/out
services:
  - {repo: other/plums, name: plums, branch: trunk, environments: [dev, stage, prod]}
git: {provider: gitlab}
endpoints: {REGISTRY_BUCKET: other-registry, SCRATCH_BUCKET: other-scratch, GIT_URL: "https://git.elsewhere.test"}
tls: {issuer: letsencrypt, email: ops@elsewhere.test}
nodes: [{name: a}, {name: b, roles: [serve]}, {name: c, roles: [train], gpu: true}]
login: {issuer: "https://id.elsewhere.test", admin: [ops]}
addons:
  harbor: true
  postgresql: true
  nfs: {server: nas.elsewhere.test, path: /exports}
  gpu: true
  monitoring: true
  storage: true
  tunnel: true
  backup: {bucket: other-backup}
mirror: {git: "https://mirror.elsewhere.test", charts: "https://charts.elsewhere.test", images: "hub.elsewhere.test"}
bot: {name: other, email: bot@elsewhere.test}
"""
# what platform.yaml says and no other file may say; examples/ and docs/ show a user's own files and words
OWN_WORDS = ("example.com", "acme/", "trainyard-registry", "trainyard-scratch")


def test_no_other_file_carries_a_domain_an_owner_a_repository_or_a_bucket(tmp_path):
    file = tmp_path / "platform.yaml"
    file.write_text(EVERYTHING)
    rendered = {name: text for name, text in render(file).items() if not name.startswith("docs/")}
    assert "elsewhere.test" in "".join(rendered.values())
    found = [(name, word) for name, text in rendered.items() for word in OWN_WORDS if word in text]
    assert found == []


def test_no_file_that_is_written_by_hand_carries_one_either():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = ("argocd/", "argo-workflows/", "argo-events/", "cert-manager/", "applications/", "mlops/")
    made = render()
    written = [name for name in tracked if name.startswith(folders) and name not in made]
    found = [(name, word) for name in written for word in OWN_WORDS if word in (ROOT / name).read_text()]
    assert found == []


def test_the_schema_for_editors_takes_what_the_platform_takes_and_every_option_is_explained():
    Draft202012Validator.check_schema(schema())
    editor = Draft202012Validator(json.loads((ROOT / "docs/platform.schema.json").read_text()))
    editor.validate(yaml.safe_load(EVERYTHING))
    editor.validate(yaml.safe_load(COMMITTED.read_text()))
    assert not editor.is_valid(yaml.safe_load(EVERYTHING) | {"domian": "x.org"})
    whole = Platform.model_json_schema()
    parts = {"": whole, **whole["$defs"]}
    options = [(model, name, body) for model, part in parts.items() for name, body in part["properties"].items()]
    said = [body for _, _, body in options if "$ref" in body or (body.get("description") and body.get("examples"))]
    unsaid = [(model, name) for model, name, body in options if body not in said]
    assert unsaid == []


def test_addresses_that_are_left_out_follow_from_the_rest():
    endpoints = load(EVERYTHING).endpoints
    assert endpoints.REGISTRY == "harbor.ml.elsewhere.test/trainyard"
    assert endpoints.ARGO_URL == "https://argo.ml.elsewhere.test"
    assert endpoints.STORAGE_URL == "http://storage.storage.svc:4443"
    assert endpoints.GIT_API_URL == "https://gitlab.com/api/v4"
    assert endpoints.GIT_URL == "https://git.elsewhere.test"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("domain: ml.elsewhere.test", "domian: x", "platform.yaml:2: domian: unknown key\n  → did you mean 'domain'?"),
        (
            "domain: ml.elsewhere.test",
            "domain: https://x.org",
            "platform.yaml:2: domain: 'https://x.org' is not a domain",
        ),
        (", email: ops@elsewhere.test", "", "platform.yaml:10: tls.issuer: Let's Encrypt wants a mail address"),
        ("name: b,", "name: a,", "platform.yaml:11: nodes: the node 'a' is used twice"),
        ("postgresql: true", "postgresql: false", "platform.yaml:14: addons.harbor: harbor needs a database"),
        ("path: /exports", "path: exports", "platform.yaml:16: addons.nfs.path: 'exports' is not an absolute path"),
        (
            "{bucket: other-backup}",
            "{bucket: x1y, schedule: daily}",
            "addons.backup.schedule: 'daily' is not a schedule",
        ),
        ("[{name: a}, {name: b, roles: [serve]}, ", "[", "nodes: no node may serve"),
        ("repository: other/platform-x", "repository: other/out", "the repository 'other/out' is used twice"),
        ("letsencrypt,", "lets-encrypt,", "tls.issuer: "),
        (
            "issuer: letsencrypt, email: ops@elsewhere.test",
            "issuer: none",
            "tls.issuer: harbor has a certificate of its own",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_line_that_names_the_key(old, new, message):
    assert old in EVERYTHING
    with pytest.raises(YardError) as caught:
        load(EVERYTHING.replace(old, new))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
