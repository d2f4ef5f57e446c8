"""What is committed is what the templates say, and the Sensors fit the templates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipelines import platform
from pipelines.templates import ci, ct, events, release, render, verify
from pipelines.templates._parts import Images

IMAGES = Images("p:1", "s:1", "o:1", "k:1")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def templates():
    return {t.name: t for t in (module.template(IMAGES) for module in (ci, ct, release, verify))}


def test_committed_files_are_what_would_be_written():
    assert render.main(["--check"]) == 0, "make render"


def test_a_stale_or_changed_file_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(render, "ROOT", tmp_path)
    for name, text in render.render(ROOT).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("platform.yaml", "versions.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(render, "render", lambda root=tmp_path, real=render.render: real(tmp_path))
    assert render.main(["--check"]) == 0
    (tmp_path / "mlops/stale.yaml").write_text("")
    (tmp_path / "mlops/templates/ci.yaml").write_text("")
    assert render.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "mlops/stale.yaml" in told
    assert "mlops/templates/ci.yaml" in told
    assert render.main([]) == 0
    assert render.main(["--check"]) == 0


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


def test_no_template_names_an_image_without_a_version(templates):
    for path in sorted((ROOT / "mlops").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for image in re.findall(r"'image': '([^']+)'", str(document)):
                assert image.startswith("{{") or re.search(r"[:@][\w.-]+$", image), (path, image)
                assert not image.endswith(":latest")
