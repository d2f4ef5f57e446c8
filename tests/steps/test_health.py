"""What Argo CD thinks of an object: our checks, run by a real Lua 5.1 on statuses as the controllers write them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from lupa import lua51

from pipelines.templates import health, render

LIBRARIES = {"string", "io", "debug", "coroutine", "math"}  # Argo CD opens none of these


def judge(kind: str, status: dict[str, Any] | None) -> tuple[str, str]:
    """Health and message, as Argo CD gets them from the script."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    for name in LIBRARIES:
        lua.globals()[name] = None
    lua.globals()["obj"] = lua.table_from({} if status is None else {"status": status}, recursive=True)
    found = lua.execute(committed(kind))
    return found["status"], found["message"]


def committed(kind: str) -> str:
    """The script as the committed installation has it."""
    kustomization = yaml.safe_load((render.ROOT / "argocd/install/kustomization.yaml").read_text())
    patches = [yaml.safe_load(patch["patch"]) for patch in kustomization["patches"]]
    (config,) = [patch for patch in patches if patch["metadata"]["name"] == "argocd-cm"]
    group = "apiextensions.k8s.io" if kind == "CustomResourceDefinition" else "argoproj.io"
    return str(config["data"][f"resource.customizations.health.{group}_{kind}"])


def application(sync: str, health: str = "", phase: str = "", message: str = "", **conditions: str) -> dict[str, Any]:
    status: dict[str, Any] = {"sync": {"status": sync}, "health": {"status": health} if health else {}}
    if phase:
        status["operationState"] = {"phase": phase, "message": message}
    status["conditions"] = [{"type": name, "message": text} for name, text in conditions.items()]
    return status


@pytest.mark.parametrize(
    ("status", "told"),
    [
        # nobody has looked yet
        (None, ("Progressing", "not synced yet")),
        ({}, ("Progressing", "not synced yet")),
        (application("OutOfSync", "Missing"), ("Progressing", "not synced yet")),
        # Healthy is what is there; the rest is missing
        (application("OutOfSync", "Healthy"), ("Progressing", "not synced yet")),
        (application("OutOfSync", "Healthy", "Running", "waiting for x"), ("Progressing", "waiting for x")),
        (application("Synced", "Healthy", "Running", "waiting for hooks"), ("Progressing", "waiting for hooks")),
        (application("Synced", "Progressing", "Succeeded"), ("Progressing", "")),
        (application("Synced", "Missing", "Succeeded"), ("Progressing", "")),
        (application("Synced", "Healthy", "Succeeded"), ("Healthy", "")),
        (application("Synced", "Healthy"), ("Healthy", "")),
        # somebody changed an object by hand; what was installed works
        (application("OutOfSync", "Healthy", "Succeeded"), ("Healthy", "")),
        # all tries are used up
        (application("OutOfSync", "Missing", "Failed", "no CRD"), ("Degraded", "no CRD")),
        (application("Synced", "Healthy", "Failed", "one try"), ("Healthy", "")),
        (application("Synced", "Degraded", "Succeeded"), ("Degraded", "")),
        # Argo CD calls what it cannot render Healthy
        (application("Unknown", "Healthy", ComparisonError="no such path"), ("Degraded", "no such path")),
        (application("Unknown", "Unknown", InvalidSpecError="no project"), ("Degraded", "no project")),
        (application("Synced", "Healthy", "Succeeded", OrphanedResourceWarning="x"), ("Healthy", "")),
        (application("Synced", "Suspended", "Succeeded"), ("Suspended", "")),
    ],
)
def test_an_application_is_healthy_when_all_of_it_is_there_and_works(status, told):
    assert judge("Application", status) == told


def conditions(*states: str, reason: str = "", message: str = "") -> dict[str, Any]:
    found = []
    for state in states:
        name, _, value = state.partition("=")
        found.append({"type": name, "status": value, "lastTransitionTime": "2026-11-28T11:00:00Z"})
        if value == "False":
            found[-1] |= {"reason": reason, "message": message}
    return {"conditions": found}


KINDS = {
    "EventBus": ("Configured", "Deployed"),
    "EventSource": ("SourcesProvided", "Deployed"),
    "Sensor": ("DependenciesProvided", "TriggersProvided", "Deployed"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_argo_events_objects_are_healthy_when_every_condition_is_true(kind):
    names = KINDS[kind]
    assert judge(kind, None)[0] == "Progressing"
    assert judge(kind, {})[0] == "Progressing"
    assert judge(kind, conditions(*(f"{name}=Unknown" for name in names)))[0] == "Progressing"
    for missing in names:
        some = conditions(*(f"{name}=True" for name in names if name != missing))
        assert judge(kind, some) == ("Progressing", f"waiting for {missing}")
    assert judge(kind, conditions(*(f"{name}=True" for name in names))) == ("Healthy", "")


@pytest.mark.parametrize("kind", KINDS)
def test_argo_events_objects_are_degraded_with_the_controllers_words(kind):
    for wrong in KINDS[kind]:
        states = [f"{name}={'False' if name == wrong else 'True'}" for name in KINDS[kind]]
        found = judge(kind, conditions(*states, reason="InvalidTriggers", message="no template"))
        assert found == ("Degraded", "no template")


@pytest.mark.parametrize("kind", ["EventSource", "Sensor"])
@pytest.mark.parametrize("reason", ["EventBusNotFound", "EventBusNotReady"])
def test_who_waits_for_the_bus_is_not_degraded(kind, reason):
    """The wave would fail on the first installation, where the bus needs longer than they do."""
    states = [f"{name}=True" for name in KINDS[kind] if name != "Deployed"]
    found = judge(kind, conditions(*states, "Deployed=False", reason=reason, message="EventBus not ready."))
    assert found == ("Progressing", "EventBus not ready.")


def test_each_check_is_named_as_argo_cd_looks_it_up():
    names = {f"argoproj.io_{kind}" for kind in ("Application", *KINDS)} | {
        "apiextensions.k8s.io_CustomResourceDefinition"
    }
    assert set(health.settings()) == {f"resource.customizations.health.{name}" for name in names}


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([], ("Progressing", "not established yet")),
        (["NamesAccepted=True"], ("Progressing", "not established yet")),
        (["NamesAccepted=True", "Established=False"], ("Progressing", "not established yet")),
        (["NamesAccepted=True", "Established=True"], ("Healthy", "")),
        (["NamesAccepted=False", "Established=False"], ("Degraded", "taken")),
        (["Established=True", "NonStructuralSchema=True"], ("Degraded", "NonStructuralSchema")),
    ],
)
def test_a_kind_that_is_not_established_yet_is_waited_for(states, told):
    assert judge("CustomResourceDefinition", conditions(*states, message="taken")) == told
