"""`yard parity` on real controllers: solo against itself, so everything must be equal, and what is not is found."""

from __future__ import annotations

import pytest
from push_harness import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compare(shared):
    platform, _ = shared
    server = platform.endpoints["ARGO_URL"]
    return lambda *words: platform.yard("parity", *words, "--server", server, check=False)


def left(platform):
    return [
        item["metadata"]["name"]
        for kind in ("workflows", "workflow-templates")
        for item in platform.get(f"/api/v1/{kind}/mlops")["items"]
        if item["metadata"]["name"].startswith("parity-")
    ]


def test_solo_is_equal_to_itself_in_all_that_our_templates_rely_on(shared, compare):
    folder = ROOT / "tests/e2e/parity"
    done = compare(str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = done.stdout.split("\n\n")
    verdicts = {line.split()[0]: line.split()[-1] for line in summary.splitlines()[1:]}
    assert verdicts == {path.stem: "equal" for path in folder.glob("*.yaml")}
    assert left(shared[0]) == []


def test_what_differs_between_two_runs_is_found(shared, compare, tmp_path):
    text = (ROOT / "tests/e2e/parity/patch.yaml").read_text()
    changed = text.replace('printf "$PATCHED"', "cat /proc/sys/kernel/random/uuid")
    assert changed != text
    (tmp_path / "random.yaml").write_text(changed)
    done = compare(str(tmp_path / "random.yaml"))
    assert done.returncode == 9
    _, differences = done.stdout.split("\n\n")
    differing = [line.split()[1:3] for line in differences.splitlines()[1:]]
    assert differing == [["<workflow>.patched", "outputs.parameters.patched"]]
    assert left(shared[0]) == []


def test_a_field_that_solo_does_not_do_is_named(shared, compare, tmp_path):
    text = (ROOT / "tests/e2e/parity/mutex.yaml").read_text().replace("  onExit", "")
    (tmp_path / "odd.yaml").write_text(text.replace("entrypoint: main", "entrypoint: main\n  hostNetwork: true"))
    done = compare(str(tmp_path / "odd.yaml"))
    assert done.returncode == 9
    assert "spec.hostNetwork: solo does not support this field" in done.stdout
    assert left(shared[0]) == []
