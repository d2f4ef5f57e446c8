"""renovate.json: every pin is matched once, as what it is; what is not matched is never updated, and nobody notices."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = json.loads((ROOT / "renovate.json").read_text())
VERSIONS = (ROOT / "versions.yaml").read_text()
# a file that holds pins → the manager that reads it; None: somebody else's, or made from others. The last one counts
MANAGERS = {
    r"(^|/)Dockerfile$": "dockerfile",
    r"(^|/)go\.mod$": "gomod",
    r"^pyproject\.toml$": "pep621",
    r"^versions\.yaml$": "custom.regex",
    r"^requirements/.*\.txt$": None,  # made by `make lock`
    r"^examples/": None,  # application repositories
}
PINS = re.compile(
    r"(^|/)(Dockerfile|go\.mod|pyproject\.toml|versions\.yaml|requirements[^/]*|package\.json|Chart\.yaml)"
)


def rules():
    """Renovate's regular expressions, as Python writes them, with their templates."""
    for manager in CONFIG["customManagers"]:
        for text in manager["matchStrings"]:
            yield re.compile(text.replace("(?<", "(?P<")), manager


def matches(text):
    """Line number → what Renovate would extract there."""
    found = {}
    for rule, manager in rules():
        for match in rule.finditer(text):
            line = text.count("\n", 0, match.start("currentValue")) + 1
            extracted = {key: value for key, value in match.groupdict().items() if value}
            if "datasourceTemplate" in manager:
                extracted["datasource"] = manager["datasourceTemplate"]
            found.setdefault(line, []).append(extracted)
    return found


def pins(text):
    """Line number → (section, name, value) of every pin; a bare checksum is none."""
    found = {}
    for section, body in yaml.compose(text).value:
        for name, value in body.value:
            if not value.value.startswith("@sha256:"):
                found[value.start_mark.line + 1] = (section.value, name.value, value.value)
    return found


def problems(text):
    """What Renovate would not update, or not rightly."""
    extracted = matches(text)
    for line, (section, name, value) in pins(text).items():
        found = extracted.pop(line, [])
        if len(found) != 1:
            yield f"{section}.{name}: matched {len(found)} times"
            continue
        (one,) = found
        digest = f"@sha256:{one['currentDigest'].removeprefix('sha256:')}" if "currentDigest" in one else ""
        said = f"{one['depName']}:" if one["datasource"] == "docker" and "depName" in one else ""
        if said + one["currentValue"] + digest != value:
            yield f"{section}.{name}: {one} is not {value}"
        if section == "images" and one["datasource"] != "docker":
            yield f"{section}.{name}: an image is no {one['datasource']}"
        if section != "images" and "packageName" not in one:
            yield f"{section}.{name}: of no package"
    yield from (f"line {line}: not a pin: {found}" for line, found in extracted.items())


def test_every_pin_of_versions_yaml_is_matched_once_as_what_it_is():
    assert len(pins(VERSIONS)) > 8
    assert list(problems(VERSIONS)) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("components:\n  new: 1.2.3\n", "components.new: matched 0 times"),
        ("components:\n  new: 1.2.3 # newest first\n", "components.new: matched 0 times"),
        ("components:\n  new: 1.2.3 # pypi new\n", "components.new: matched 0 times"),
        ("images:\n  new: busybox:1.2\n", "images.new: matched 0 times"),
        ("images:\n  new: docker.io/library/busybox:1.2 # newest\n", ""),
        ("charts:\n  new: 1.2.3 # helm new https://charts.example.com\n", ""),
        ("components:\n  new: 1.2.3 # go example.com/new\n", ""),
        ('components:\n  new: "1.2.3" # go example.com/new\n', "components.new: matched 0 times"),
    ],
)
def test_a_pin_that_is_not_matched_is_told(line, why):
    found = list(problems(f"# versions\n{line}"))
    assert found == ([why] if why else [])


def test_checksums_of_k3s_move_with_its_version():
    lines = [one for found in matches(VERSIONS).values() for one in found if one.get("packageName") == "k3s-io/k3s"]
    assert len({one["currentValue"] for one in lines}) == 1
    assert {one["datasource"] for one in lines} == {"github-releases", "github-release-attachments"}
    (rule,) = [rule for rule in CONFIG["packageRules"] if rule.get("matchPackageNames") == ["k3s-io/k3s"]]
    versioning = rule["versioning"].removeprefix("regex:").replace("(?<", "(?P<")
    assert re.fullmatch(versioning, lines[0]["currentValue"])
    assert rule["groupName"]


def test_every_other_file_with_pins_has_a_manager_that_is_on():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in filter(PINS.search, files):
        if name.startswith("tests/"):
            continue
        managers = [found for pattern, found in MANAGERS.items() if re.search(pattern, name)]
        manager = managers[-1] if managers else "none"
        assert manager is None or manager in CONFIG["enabledManagers"], name


def unlooked(go_mod, rules):
    """Modules that a go.mod's tools are, and that Renovate would leave alone as indirect."""
    tools = re.findall(r"^(?:tool )?\t?([\w.-]+\.\w+/\S+)$", go_mod, re.MULTILINE)
    indirect = re.findall(r"^\t(\S+) v\S+ // indirect$", go_mod, re.MULTILINE)
    known = {name for rule in rules if rule.get("matchDepTypes") == ["indirect"] for name in rule["matchPackageNames"]}
    return {name for name in indirect for tool in tools if f"{tool}/".startswith(f"{name}/")} - known


def test_the_modules_of_tools_are_looked_at_though_go_calls_them_indirect():
    for path in (ROOT / "tools").glob("*/go.mod"):
        assert unlooked(path.read_text(), CONFIG["packageRules"]) == set(), path
    go_mod = "tool (\n\texample.com/new/cmd/new\n)\n\nrequire (\n\texample.com/new v1.0.0 // indirect\n)\n"
    assert unlooked(go_mod, CONFIG["packageRules"]) == {"example.com/new"}
    assert unlooked(go_mod.replace("example.com/new", "filippo.io/age"), CONFIG["packageRules"]) == set()
