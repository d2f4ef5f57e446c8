"""The platform's own images hold what their programs import, in the versions that the tests ran with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
IMAGES = ("pipelines", "serving", "storage")
IMPORTED = """
import importlib, importlib.metadata, json, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name not in before}
distributions = sorted(
    found.name for found in importlib.metadata.distributions()
    if any(str(found.locate_file(file)) in files for file in found.files or [])
)
own = sorted(name for name in sys.modules if name.partition(".")[0] in ("pipelines", "solo"))
print(json.dumps([distributions, own]))
"""
# but pipelines.templates, which only `make render` needs, and the program of the steps, which runs when imported
EVERYTHING = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "pipelines").rglob("*.py"))
    if ROOT / "pipelines/templates" not in path.parents and path.name != "__main__.py"
]


def pins(image):
    """Distribution → all that the file says of it: versions, markers, hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / f"requirements/{image}.txt").read_text().strip()):
        found.setdefault(entry.partition("==")[0], set()).add(entry)
    return found


def imported(*modules):
    done = subprocess.run([sys.executable, "-c", IMPORTED, *modules], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_versions_that_were_tested(image):
    tested = {
        name: {(re.split(r"[ ;\\]", e)[0], *re.findall(r"sha256:\w+", e)) for e in entries}
        for name, entries in pins("dev").items()
    }
    for name, entries in pins(image).items():
        assert {(re.split(r"[ ;\\]", e)[0], *re.findall(r"sha256:\w+", e)) for e in entries} == tested[name], (
            "make lock"
        )


@pytest.mark.parametrize(
    ("image", "modules", "own"),
    [
        ("serving", ["pipelines.serving.__main__"], r"pipelines|pipelines\.errors|pipelines\.serving(\..*)?"),
        ("storage", ["solo.storage.__main__"], r"solo|solo\.storage(\..*)?"),
        ("pipelines", EVERYTHING, r"pipelines(?!\.templates)(\..*)?"),
    ],
)
def test_an_image_has_what_its_program_imports(image, modules, own):
    distributions, ours = imported(*modules)
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} - {"trainyard"}
    assert normal <= pins(image).keys()
    assert [name for name in ours if not re.fullmatch(own, name)] == []
    assert set(modules) <= set(ours)


@pytest.mark.parametrize("step", ["claim", "source", "emit", "fetch"])
def test_a_step_that_does_little_starts_with_the_standard_library_alone(step):
    distributions, _ = imported(f"pipelines.steps.{step}")
    assert distributions == []


def test_the_store_of_a_cluster_runs_with_least_rights():
    documents = list(yaml.safe_load_all((ROOT / "applications/storage/storage.yaml").read_text()))
    kinds = {document["kind"]: document for document in documents}
    assert "Secret" not in kinds  # tokens are never in Git
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert kinds["NetworkPolicy"]["spec"]["podSelector"] == kinds["Deployment"]["spec"]["selector"]
    # every namespace with pipelines or a service is let in by the label that says what it is for
    (rule,) = kinds["NetworkPolicy"]["spec"]["ingress"]
    purposes = {"key": "trainyard/purpose", "operator": "In", "values": ["pipelines", "service"]}
    assert [peer["namespaceSelector"] for peer in rule["from"]] == [
        {"matchExpressions": [purposes]},
        {"matchLabels": {"kubernetes.io/metadata.name": "argo"}},  # reads what steps printed
    ]
    for path in (
        "mlops/config/mlops.yaml",
        "mlops/config/mlops-build.yaml",
        "mlops/config/mlops-release.yaml",
        "applications/services/digits-dev/namespace.yaml",
    ):
        namespace = next(iter(yaml.safe_load_all((ROOT / path).read_text())))
        assert namespace["metadata"]["labels"]["trainyard/purpose"] in purposes["values"]
