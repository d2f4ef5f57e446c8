"""Random DAGs with random outcomes, against a simple oracle; and crashes at every moment."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_world import FINAL, World

from solo.expressions import parse_depends
from solo.expressions.depends import DEFAULT

RESULT = {"Succeeded": "Succeeded", "Failed": "Failed", "Error": "Errored", "Skipped": "Skipped", "Omitted": "Omitted"}


@st.composite
def dags(draw: st.DrawFn) -> dict[str, dict[str, str]]:
    """name → {depends, when, outcome}; a task depends on earlier ones only."""
    tasks: dict[str, dict[str, str]] = {}
    for index in range(draw(st.integers(1, 7))):
        earlier = draw(st.lists(st.sampled_from(sorted(tasks)), unique=True, max_size=3)) if tasks else []
        terms = [
            name + draw(st.sampled_from(["", "", ".Succeeded", ".Failed", ".Errored", ".Omitted"])) for name in earlier
        ]
        tasks[f"t{index}"] = {
            "depends": draw(st.sampled_from([" && ", " || "])).join(terms),
            "when": draw(st.sampled_from(["", "", "a == a", "a == b"])),
            "outcome": draw(st.sampled_from(["Succeeded", "Succeeded", "Failed", "Error"])),
        }
    return tasks


def world_of(tasks: dict[str, dict[str, str]], fail_fast: bool) -> World:
    listed: list[dict[str, Any]] = [
        {"name": name, "template": "step", **{key: task[key] for key in ("depends", "when") if task[key]}}
        for name, task in tasks.items()
    ]
    spec = {
        "entrypoint": "main",
        "templates": [
            {"name": "main", "dag": {"failFast": fail_fast, "tasks": listed}},
            {"name": "step", "container": {"image": "x", "command": ["run"]}},
        ],
    }
    return World(json.dumps({"spec": spec}))


def oracle(tasks: dict[str, dict[str, str]]) -> dict[str, str]:
    phases: dict[str, str] = {}
    for name, task in tasks.items():
        results = {done: frozenset([RESULT[phase]]) for done, phase in phases.items()}
        if task["depends"] and not parse_depends(task["depends"]).holds(results, lambda _: DEFAULT):
            phases[name] = "Omitted"
        elif task["when"] == "a == b":
            phases[name] = "Skipped"
        else:
            phases[name] = task["outcome"]
    return phases


def report(world: World, name: str, tasks: dict[str, dict[str, str]]) -> None:
    outcome = tasks[name]["outcome"]
    if outcome == "Error":
        world.report(name, "Failed", message="pod deleted")
    else:
        world.report(name, outcome)


@settings(max_examples=150)
@given(dags(), st.booleans(), st.data())
def test_every_task_ends_as_its_condition_says(
    tasks: dict[str, dict[str, str]], fail_fast: bool, data: st.DataObject
) -> None:
    world = world_of(tasks, fail_fast)
    while world.phase not in FINAL:
        alive = world.running()
        assert alive, "nothing runs, and it is not over"
        report(world, data.draw(st.sampled_from(alive)), tasks)
    assert world.phases() == oracle(tasks)
    phases = set(world.phases().values())
    if not phases & {"Failed", "Error"}:
        assert world.phase == "Succeeded"
    needed = {name for task in tasks.values() if task["depends"] for name in parse_depends(task["depends"]).tasks}
    leaves = {world.phases()[name] for name in tasks if name not in needed}
    if leaves & {"Failed", "Error"}:
        assert world.phase in ("Failed", "Error")


def final(world: World) -> dict[str, Any]:
    """The status, without the times."""
    status = json.loads(json.dumps(world.workflow["status"]))
    for thing in [status, *status["nodes"].values()]:
        for key in ("startedAt", "finishedAt"):
            thing.pop(key, None)
    return status


@settings(max_examples=40)
@given(dags(), st.data())
def test_a_lost_write_changes_nothing(tasks: dict[str, dict[str, str]], data: st.DataObject) -> None:
    """Between two reports the controller may die before it has written: the old status is operated again."""
    straight, crashed = world_of(tasks, True), world_of(tasks, True)
    while straight.phase not in FINAL:
        name = data.draw(st.sampled_from(straight.running()))
        report(straight, name, tasks)
        before = json.dumps((crashed.workflow, crashed.pods))
        report(crashed, name, tasks)
        if data.draw(st.booleans()):
            reported = crashed.pod(name)["status"]
            crashed.workflow, crashed.pods = json.loads(before)
            crashed.pod(name)["status"] = reported
            crashed.step()
    assert final(crashed) == final(straight)
