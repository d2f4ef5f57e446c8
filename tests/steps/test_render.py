"""What is committed is what the templates say, and the Sensors fit the templates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipelines import platform
from pipelines.templates import controller, events, namespaces, reconcile, render
from pipelines.templates._parts import Images
from solo.expressions.tags import substitute

IMAGES = Images("p:1", "s:1", "o:1", "k:1")
PLATFORM = {
    "domain": "a.example",
    "repository": "me/platform",
    "apiVersion": "trainyard/v1",
    "services": [{"repo": "acme/digits", "name": "digits"}],
    "releases": "acme/releases",
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def templates():
    return {t.name: t for t in render.templates_of(IMAGES, platform.load(ROOT / "platform.yaml"))}


def test_committed_files_are_what_would_be_written():
    assert render.main(["--check"]) == 0, "make render"


def test_a_stale_or_changed_file_is_found(tmp_path, capsys):
    into = ["--into", str(tmp_path)]
    assert render.main(into) == 0
    assert render.main([*into, "--check"]) == 0
    (tmp_path / "mlops/stale.yaml").write_text("")
    (tmp_path / "mlops/templates/ci.yaml").write_text("")
    assert render.main([*into, "--check"]) == 1
    told = capsys.readouterr().err
    assert "mlops/stale.yaml" in told
    assert "mlops/templates/ci.yaml" in told
    assert render.main(into) == 0
    assert render.main([*into, "--check"]) == 0


def settings(**endpoints: str):
    found = platform.load(ROOT / "platform.yaml")
    return found.model_copy(update={"endpoints": found.endpoints.model_copy(update=endpoints)})


def test_the_executor_reaches_google_with_a_key_and_an_emulator_without():
    google = controller.config_map(settings())["data"]
    assert yaml.safe_load(google["artifactRepository"])["gcs"]["serviceAccountKeySecret"] == {
        "name": "scratch",
        "key": "credentials",
    }
    assert "env" not in yaml.safe_load(google["executor"])
    emulator = controller.config_map(settings(STORAGE_URL="http://storage.storage.svc:4443"))["data"]
    assert "serviceAccountKeySecret" not in yaml.safe_load(emulator["artifactRepository"])["gcs"]
    assert yaml.safe_load(emulator["executor"])["env"] == [
        {"name": "STORAGE_EMULATOR_HOST", "value": "http://storage.storage.svc:4443"}
    ]


def test_every_pod_that_runs_the_users_command_is_labelled_for_its_policy(templates):
    for body in templates.values():
        for template in body.to_dict()["spec"]["templates"]:
            container = template.get("container", {})
            label = template.get("metadata", {}).get("labels", {}).get("trainyard/code")
            assert (container.get("image") == "{{inputs.parameters.image}}") == (label == "user"), template["name"]


def test_each_argument_that_a_sensor_gives_is_one_that_the_template_takes(templates):
    found = platform.load(ROOT / "platform.yaml")
    for sensor in events.sensors(found, templates):
        for trigger in sensor["spec"]["triggers"]:
            k8s = trigger["template"]["k8s"]
            resource = k8s["source"]["resource"]
            declared = templates[resource["spec"]["workflowTemplateRef"]["name"]].to_dict()["spec"]["arguments"]
            names = {entry["name"] for entry in declared["parameters"]}
            given = {entry["name"] for entry in resource["spec"]["arguments"]["parameters"]}
            assert given <= names
            addressed = {m[1] for p in k8s["parameters"] if (m := re.search(r'name=="(\w+)"', p["dest"]))}
            assert addressed <= given


def test_a_sensor_that_forgets_an_argument_cannot_be_made(templates):
    sensor = events._Sensor(templates["release"])
    with pytest.raises(ValueError, match="lock"):
        sensor.add("t", {"name": "d"}, "n", {}, "body.sha", "body.delivery", {"service": "x"}, {})
    with pytest.raises(ValueError, match="lokc"):
        sensor.add("t", {"name": "d"}, "n", {}, "body.sha", "body.delivery", {"lokc": "x"}, {})


def test_user_code_gets_no_token_no_secret_and_no_root(templates):
    for workflow in templates.values():
        spec = workflow.to_dict()["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
    spec = templates["ct"].to_dict()["spec"]
    own = [t for t in spec["templates"] if t.get("container", {}).get("image") == "{{inputs.parameters.image}}"]
    assert {t["name"] for t in own} == {"ingest", "process", "train-cpu", "train-gpu"}
    for template in own:
        assert "volumes" not in template
        assert "envFrom" not in template["container"]
        assert template["container"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_pod_security_follows_the_kubernetes_that_is_pinned():
    k3s = yaml.safe_load((ROOT / "versions.yaml").read_text())["components"]["k3s"]
    assert re.match(r"v\d+\.\d+", k3s)[0] == namespaces.POD_SECURITY_VERSION


def test_code_that_takes_its_pod_apart_has_a_namespace_of_its_own(templates):
    """The only pod that is root is Kaniko's, and no other pipeline is where it is."""
    for name, workflow in templates.items():
        root = [t["name"] for t in workflow.to_dict()["spec"]["templates"] if '"runAsUser": 0' in str(t)]
        assert root == (["build"] if name == "ci" else [])
        assert (workflow.namespace == "mlops-build") == (name == "ci")


def test_what_starts_by_itself_only_names_its_template():
    """The cluster's controller refuses the rest: `templateReferencing: Strict`."""
    clock = reconcile.clock().to_dict()["spec"]["workflowSpec"]
    assert clock == {"workflowTemplateRef": {"name": reconcile.template(IMAGES).name}}
    for path in (ROOT / "mlops/sensors").glob("*.yaml"):
        for sensor in yaml.safe_load_all(path.read_text()):
            for trigger in sensor["spec"]["triggers"]:
                spec = trigger["template"]["k8s"]["source"]["resource"]["spec"]
                assert set(spec) <= {"workflowTemplateRef", "arguments"}, path


@pytest.mark.parametrize(
    ("endpoints", "flags"),
    [
        ({}, []),
        ({"REGISTRY": "h:5000/x", "REGISTRY_URL": "https://h:5000"}, []),
        (
            {"REGISTRY": "h:5000/x", "REGISTRY_URL": "http://10.0.0.1:5000"},
            ["--insecure", "--insecure-pull", "--insecure-registry=h:5000"],
        ),
        ({"REGISTRY_MIRROR": "mirror.example.com:5000"}, ["--registry-mirror=mirror.example.com:5000"]),
    ],
)
def test_kaniko_is_told_of_a_registry_without_tls_and_of_a_mirror(endpoints, flags):
    text = yaml.safe_dump({"endpoints": endpoints, **PLATFORM})
    (found,) = [t for t in render.templates_of(IMAGES, platform.load(text)) if t.name == "ci"]
    (build,) = [t for t in found.to_dict()["spec"]["templates"] if t["name"] == "build"]
    assert [flag for flag in build["container"]["args"] if "insecure" in flag or "mirror" in flag] == flags


def test_an_owner_in_capitals_has_images_in_lower_case_as_registries_want(templates):
    (build,) = [t for t in templates["ci"].to_dict()["spec"]["templates"] if t["name"] == "build"]
    names = [arg for arg in build["container"]["args"] if arg.startswith(("--destination=", "--cache-repo="))]
    given = {"inputs.parameters.repo": "AcmeCorp/Digits", "inputs.parameters.sha": "abc"}
    assert [substitute(name, given).partition("$(REGISTRY)/")[2] for name in names] == [
        "acmecorp/digits:abc",
        "cache/acmecorp/digits",
    ]


def test_of_what_was_released_only_what_is_left_is_asked_and_kept(templates):
    (main,) = [t for t in templates["verify"].to_dict()["spec"]["templates"] if t["name"] == "main"]
    targets = {
        task["name"]: entry["value"]
        for task in main["dag"]["tasks"]
        for entry in task["arguments"]["parameters"]
        if entry["name"] == "targets"
    }
    left, all_of_them = (f"{{{{tasks.{name}.outputs.parameters.targets}}}}" for name in ("wait", "inspect"))
    assert targets == {"wait": all_of_them, "smoke": left, "keep": left, "revert": all_of_them}


def test_the_signing_key_is_where_no_code_of_a_user_runs(templates):
    for name, workflow in templates.items():
        spec = workflow.to_dict()["spec"]
        holders = [t["name"] for t in spec["templates"] if "signing" in str(t.get("volumes"))]
        assert holders == (["sign"] if name == "release" else [])
    assert templates["release"].namespace == "mlops-release"


def test_no_template_names_an_image_without_a_version(templates):
    for path in sorted((ROOT / "mlops").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for image in re.findall(r"'image': '([^']+)'", str(document)):
                assert image.startswith("{{") or re.search(r"[:@][\w.-]+$", image), (path, image)
                assert not image.endswith(":latest")
