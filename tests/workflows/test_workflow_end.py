"""How Workflows end: exit handlers, deadlines, stop and terminate, suspension."""

import json

from workflow_world import World

from solo.store import Store
from solo.workflows import actions


def with_handler(
    top: str = "", handler: str = "command: [notify, '{{workflow.status}}', '{{workflow.failures}}']"
) -> World:
    return World(f"""
spec:
  entrypoint: main
  onExit: bye
{top}
  templates:
  - name: main
    dag: {{tasks: [{{name: a, template: step}}, {{name: b, template: step, depends: a}}]}}
  - name: step
    container: {{image: x, command: [run]}}
  - name: bye
    container: {{image: x, {handler}}}
""")


def test_the_exit_handler_knows_how_it_went() -> None:
    world = with_handler().report("a").report("b")
    assert world.phase == "Running"
    assert world.pod("wf.onExit")["spec"]["containers"][0]["command"][1] == "Succeeded"
    assert world.node("wf.onExit")["nodeFlag"] == {"hooked": True}
    assert world.pod("wf.onExit")["metadata"]["labels"]["workflows.argoproj.io/on-exit"] == "true"
    assert world.report("wf.onExit").phase == "Succeeded"


def test_the_exit_handler_runs_after_a_failure() -> None:
    world = with_handler().report("a", "Failed")
    _, status, failures = world.pod("wf.onExit")["spec"]["containers"][0]["command"]
    assert status == "Failed"
    # Argo hands the list on as a quoted string
    told = {item["displayName"]: item["message"] for item in json.loads(json.loads(failures))}
    assert told == {"wf": "", "a": "main: Error (exit code 1)"}
    assert (world.report("wf.onExit").phase, world.message) == ("Failed", "")


def test_a_failing_exit_handler_fails_the_workflow() -> None:
    world = with_handler().finish(lambda name: "Failed" if name == "wf.onExit" else "Succeeded")
    assert (world.phase, world.message) == ("Failed", "main: Error (exit code 1)")


def test_stop_ends_all_but_the_exit_handler() -> None:
    world = with_handler().report("a", "Running")
    world.workflow["spec"]["shutdown"] = "Stop"
    world.step()
    assert world.pod("a")["solo"]["stop"] is True
    assert world.node("a")["message"] == "workflow shutdown with strategy:  Stop"
    world.report("wf.onExit")
    assert (world.phase, world.message) == ("Failed", "Stopped with strategy 'Stop'")


def test_terminate_ends_all() -> None:
    world = with_handler().report("a", "Running")
    world.workflow["spec"]["shutdown"] = "Terminate"
    world.step()
    assert (world.phase, world.message) == ("Failed", "Stopped with strategy 'Terminate'")
    assert [pod["solo"]["stop"] for pod in world.pods.values()] == [True]
    assert world.phases() == {"a": "Failed", "b": "Omitted"}


def test_a_stopped_workflow_does_not_try_again() -> None:
    world = World("""
spec:
  entrypoint: main
  templates: [{name: main, retryStrategy: {limit: 5, backoff: {duration: 1h}}, container: {image: x, command: [run]}}]
""")
    world.report("wf(0)", "Failed")
    world.workflow["spec"]["shutdown"] = "Stop"
    world.step()
    assert (world.phase, world.message) == ("Failed", "Stopped with strategy 'Stop'")


def test_the_deadline_of_a_workflow() -> None:
    world = with_handler("  activeDeadlineSeconds: 60")
    assert world.pod("a")["spec"]["activeDeadlineSeconds"] == 60
    world.report("a", "Running").step(30)
    world.report("a").step()
    assert world.pod("b")["spec"]["activeDeadlineSeconds"] == 30
    world.wait()
    assert world.node("b")["message"] == "Step exceeded its deadline"
    assert world.pod("b")["solo"]["stop"] is True
    # the handler has all the time it needs
    assert "activeDeadlineSeconds" not in world.pod("wf.onExit")["spec"]
    assert world.report("wf.onExit").phase == "Failed"


def test_the_timeout_of_a_template_counts_from_its_start() -> None:
    world = World("""
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {tasks: [{name: a, template: step}]}
  - {name: step, timeout: 10s, container: {image: x, command: [run]}}
""")
    assert world.pod("a")["spec"]["activeDeadlineSeconds"] == 10
    # still pending: nobody else would end it
    world.wait()
    assert (world.node("a")["phase"], world.node("a")["message"], world.phase) == ("Failed", "timeout", "Failed")
    assert world.pod("a")["solo"]["stop"] is True


SUSPENDED = """
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {tasks: [{name: wait, template: wait}, {name: a, template: step, depends: wait}]}
  - name: wait
    suspend: SUSPEND
  - name: step
    container: {image: x, command: [run]}
"""


def test_a_suspended_node_goes_on_by_itself_or_when_resumed() -> None:
    world = World(SUSPENDED.replace("SUSPEND", "{duration: 20s}"))
    assert (world.node("wait")["phase"], world.running()) == ("Running", [])
    assert world.wait().running() == ["a"]
    world = World(SUSPENDED.replace("SUSPEND", "{}"))
    assert world.wake_at is None
    store = Store()
    store.create(world.workflow)
    world.workflow = actions.resume(store, "argo", "wf")
    assert world.step().running() == ["a"]


def test_a_suspended_workflow_starts_nothing() -> None:
    world = with_handler("  suspend: true")
    assert (world.running(), world.phase) == ([], "Running")
    store = Store()
    store.create(world.workflow)
    world.workflow = actions.resume(store, "argo", "wf")
    assert world.step().running() == ["a"]


def test_an_unknown_label_value_ends_it_before_it_starts() -> None:
    world = with_handler("  workflowMetadata: {labelsFrom: {who: {expression: \"'not a label!'\"}}}")
    assert (world.phase, world.pods) == ("Error", {})
    assert 'invalid label value "not a label!" for label "who"' in world.message


def test_an_invalid_workflow_fails_with_the_reason() -> None:
    world = World("spec: {entrypoint: nope, templates: [{name: main, container: {image: x}}]}")
    assert (world.phase, world.message) == ("Failed", "invalid spec: template name 'nope' undefined")


def test_templates_that_call_each_other_for_ever() -> None:
    world = World("""
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {tasks: [{name: again, template: main}]}
""")
    assert world.phase == "Error"
    assert any("Maximum recursion depth exceeded" in node.get("message", "") for node in world.nodes.values())
