"""What `deploy:` of mlops.yaml gives to the process that serves, on solo."""

from __future__ import annotations

import psutil
import pytest
from push_harness import CONTRACT, service, until

pytestmark = pytest.mark.slow

GIVEN = CONTRACT.replace("{replicas: 2}", "{env: {THREADS: '2', GREETING: %s}, secrets: [TOKEN], scale: {max: 3}}")


def served(platform):
    """The environments of the processes that serve, by process."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if "pipelines.serving" in (process.info["cmdline"] or []):
            environment = process.environ()
            if str(platform.home) in environment.get("HOME", ""):
                found[process.pid] = environment
    return found


def test_settings_and_secrets_reach_the_process_and_a_change_starts_another(platform, work):
    first = work.commit(service(GIVEN % "hello"))
    work.push()
    assert platform.ended(pipeline="release", sha=first)["status"]["phase"] == "Succeeded"
    (one,) = until(lambda: served(platform), "a process that serves").items()
    pid, environment = one
    assert (environment["THREADS"], environment["GREETING"]) == ("2", "hello")
    assert len(environment["TOKEN"]) > 30  # made by solo, as every Secret that nobody put there

    second = work.commit(service(GIVEN % "bye"))
    work.push()
    assert platform.ended(pipeline="release", sha=second)["status"]["phase"] == "Succeeded"
    until(lambda: served(platform).keys() - {pid} and pid not in served(platform), "the old process to go")
    (environment_now,) = served(platform).values()
    assert environment_now["GREETING"] == "bye"
    assert environment_now["TOKEN"] == environment["TOKEN"]

    told = platform.yard("env", "diff", "dev", "prod", check=False)
    assert told.returncode == 9, told.stderr
    assert "digits: nothing is released to prod" in told.stdout
    assert "digits/v1" in told.stdout
