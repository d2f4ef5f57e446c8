"""Retries: which failures are tried again, how often and when."""

import json
from pathlib import Path

import pytest
import yaml
from workflow_world import World

from solo.workflows import times


def retried(strategy: str, container: str = "command: [run]") -> World:
    return World(f"""
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {{tasks: [{{name: a, template: step}}]}}
  - name: step
    retryStrategy: {{{strategy}}}
    container: {{image: x, {container}}}
    outputs: {{parameters: [{{name: n, valueFrom: {{path: /n}}}}]}}
""")


def test_until_it_works() -> None:
    world = retried("limit: 3")
    assert (world.node("a")["type"], world.running()) == ("Retry", ["a(0)"])
    world.report("a(0)", "Failed", code=2)
    assert world.node("a(0)")["nodeFlag"] == {"retried": True}
    world.report("a(1)", parameters={"n": "7"})
    assert world.phase == "Succeeded"
    assert world.node("a")["outputs"] == world.node("a(1)")["outputs"]
    assert world.node("a")["children"] == [world.node("a(0)")["id"], world.node("a(1)")["id"]]


def test_until_the_limit() -> None:
    world = retried('limit: "1"')
    world.report("a(0)", "Failed").report("a(1)", "Failed", code=5)
    assert (world.phase, world.node("a")["message"]) == ("Failed", "No more retries left")
    assert world.node("a")["outputs"] == {"exitCode": "5"}


def test_a_failure_of_the_executor_is_another_thing() -> None:
    world = retried("limit: 3").report("a(0)", "Failed", message="pod deleted")
    assert (world.phase, world.node("a")["message"]) == ("Error", "pod deleted")
    world = retried("limit: 3, retryPolicy: Always").report("a(0)", "Failed", message="pod deleted")
    assert world.running() == ["a(1)"]
    world = retried("limit: 3, retryPolicy: OnError").report("a(0)", "Failed")
    assert (world.phase, world.node("a")["message"]) == ("Failed", "main: Error (exit code 1)")


def test_an_expression_decides() -> None:
    strategy = """limit: 3, expression: "asInt(lastRetry.exitCode) == 6 && lastRetry.status == 'Failed'" """
    world = retried(strategy).report("a(0)", "Failed", code=6).report("a(1)", "Failed", code=3)
    assert (world.phase, world.node("a")["message"]) == ("Failed", "retryStrategy.expression evaluated to false")


def test_backoff_waits_longer_each_time() -> None:
    world = retried("limit: 2, backoff: {duration: 10s, factor: 3}")
    world.report("a(0)", "Failed")
    assert (world.running(), world.node("a")["message"]) == ([], "Backoff for 10 seconds")
    assert (world.wake_at - world.now).total_seconds() == 10
    assert world.step(9.9).running() == []
    assert world.step(0.1).running() == ["a(1)"]
    assert "message" not in world.node("a")
    world.report("a(1)", "Failed")
    assert (world.wake_at - world.now).total_seconds() == 30
    assert world.wait().running() == ["a(2)"]


def test_backoff_ends_with_its_longest_time() -> None:
    world = retried("limit: 9, backoff: {duration: 10s, factor: 2, maxDuration: 25s}")
    world.report("a(0)", "Failed").wait()
    assert world.pod("a(1)")["spec"]["activeDeadlineSeconds"] == 15
    world.report("a(1)", "Failed")
    assert (world.phase, world.node("a")["message"]) == ("Failed", "Backoff would exceed max duration limit")


def test_each_try_knows_its_number_and_the_last_one() -> None:
    world = retried(
        "limit: 2", 'command: [run, "{{retries}}", "{{lastRetry.exitCode}}", "{{lastRetry.status}}", "{{pod.name}}"]'
    )
    assert world.pod("a(0)")["spec"]["containers"][0]["command"][:4] == ["run", "0", "0", ""]
    world.report("a(0)", "Failed", code=4)
    pod = world.pod("a(1)")
    assert pod["spec"]["containers"][0]["command"] == ["run", "1", "4", "Failed", pod["metadata"]["name"]]


def test_a_dag_can_be_retried() -> None:
    world = World("""
spec:
  entrypoint: main
  templates:
  - name: main
    retryStrategy: {limit: 1}
    dag: {tasks: [{name: a, template: step}, {name: b, template: step, depends: a}]}
  - name: step
    container: {image: x, command: [run]}
""")
    world.report("a", "Failed")
    assert [node["phase"] for node in world.nodes.values() if node["name"].endswith(".a")] == ["Failed", "Pending"]
    second = next(node for node in world.nodes.values() if node["name"] == "wf(1).a")
    assert second["boundaryID"] == next(node["id"] for node in world.nodes.values() if node["name"] == "wf(1)")
    assert len(world.pods) == 2


def test_a_strategy_that_cannot_be_read_is_an_error() -> None:
    world = retried('limit: 3, expression: "lastRetry.exitCode"').report("a(0)", "Failed")
    assert world.phase == "Error"
    assert "retryStrategy: the result is not true or false" in world.node("a")["message"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("10s", 10), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), (7, 7)]
)
def test_durations(text: str, seconds: float) -> None:
    assert times.duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "10 apples", "s", "1d", "-5s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="as a duration"):
        times.duration(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("0s", "0 seconds"), ("1s", "1 second"), ("150s", "2 minutes 30 seconds"), ("2h5m", "2 hours 5 minutes")],
)
def test_durations_in_words(text: str, words: str) -> None:
    assert times.in_words(times.duration(text)) == words


@pytest.mark.parametrize(
    ("phase", "code", "message", "again"),
    [
        ("Failed", 137, None, "both"),
        ("Failed", 143, None, "both"),
        ("Failed", 6, None, "platform"),
        ("Failed", 3, None, ""),
        ("Failed", 143, "Pod was active on the node longer than the specified deadline", ""),
    ],
)
def test_our_steps_are_tried_again_only_where_it_can_help(phase, code, message, again) -> None:
    for whose, path in (("platform", "claim"), ("user", "test")):
        text = (Path(__file__).parents[2] / "mlops/templates/ci.yaml").read_text()
        (template,) = [t for t in yaml.safe_load(text)["spec"]["templates"] if t["name"] == path]
        strategy = json.dumps(template["retryStrategy"] | {"backoff": {"duration": "0s"}})
        world = retried(strategy[1:-1])
        world.report("a(0)", phase, code=code, **({"message": message} if message else {}))
        assert (world.running() == ["a(1)"]) == (again in ("both", whose)), (whose, world.node("a"))
