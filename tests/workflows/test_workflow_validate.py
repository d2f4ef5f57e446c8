"""What is turned away when it is submitted, in Argo's words."""

import pytest
from workflow_world import manifest

from solo.store import NotFoundError, Store
from solo.workflows import ValidationError, submit, submit_from, validate

HEAD = """
spec:
  entrypoint: main
  templates:
  - name: leaf
    inputs: {parameters: [{name: message}]}
    container: {image: x, command: [run, "{{inputs.parameters.message}}"]}
    outputs: {parameters: [{name: out, valueFrom: {path: /out}}]}
  - name: free
    container: {image: x, command: [run]}
"""


def main(tasks: str, more: str = "") -> str:
    return f"{HEAD}  - name: main\n{more}    dag:\n      tasks:\n" + "\n".join(
        f"      - {{{task}}}" for task in tasks.split("\n")
    )


GOOD = 'name: a, template: leaf, arguments: {parameters: [{name: message, value: "{{workflow.parameters.p}}"}]}'

CASES = {
    "no argument": (
        main("name: a, template: leaf"),
        "templates.main.tasks.a templates.leaf inputs.parameters.message was not supplied",
    ),
    "no template": (main("name: a, template: nope"), "templates.main.tasks.a template name 'nope' undefined"),
    "no reference": (
        main("name: a, templateRef: {name: lib, template: t}"),
        "templates.main.tasks.a template reference lib.t not found",
    ),
    "no dependency": (main("name: a, template: free, depends: b"), "templates.main.tasks.a dependency 'b' not defined"),
    "cycle": (
        main("name: a, template: free, depends: b\nname: b, template: free, depends: a"),
        "templates.main.tasks dependency cycle detected: a->b->a",
    ),
    "bad depends": (
        main("name: a, template: free\nname: b, template: free, depends: a.Done"),
        "task result 'Done' for task 'a' is invalid",
    ),
    "both ways": (
        main(
            "name: a, template: free\nname: b, template: free, depends: a\nname: c, template: free, dependencies: [a]"
        ),
        "templates.main cannot use both 'depends' and 'dependencies'",
    ),
    "items-based": (
        main("name: a, template: free\nname: b, template: free, depends: a.AnySucceeded"),
        "does not contain any items",
    ),
    "not before it": (
        main(
            "name: a, template: leaf, arguments: {parameters: [{name: message, value: x}]}\n"
            "name: b, template: leaf, arguments: {parameters: [{name: message, "
            'value: "{{tasks.a.outputs.parameters.out}}"}]}'
        ),
        "templates.main.tasks.b missing dependency 'a' for parameter 'message'",
    ),
    "no such output": (
        main(
            "name: a, template: free\nname: b, template: leaf, depends: a, "
            'arguments: {parameters: [{name: message, value: "x{{tasks.a.outputs.parameters.nope}}"}]}'
        ),
        "templates.main.tasks.b failed to resolve {{tasks.a.outputs.parameters.nope}}",
    ),
    "no such parameter": (
        main('name: a, template: leaf, arguments: {parameters: [{name: message, value: "{{workflow.parameters.q}}"}]}'),
        "templates.main.tasks.a failed to resolve {{workflow.parameters.q}}",
    ),
    "bad expression": (
        main('name: a, template: leaf, arguments: {parameters: [{name: message, value: "{{= 1 + }}"}]}'),
        "templates.main.tasks.a the expression ends too early",
    ),
    "unknown function": (
        main('name: a, template: leaf, arguments: {parameters: [{name: message, value: "{{= sprig.now() }}"}]}'),
        "solo does not know the function 'sprig.now'",
    ),
    "two tasks": (
        main("name: a, template: free\nname: a, template: free"),
        "templates.main.tasks[1].name 'a' is not unique",
    ),
    "no tasks": (HEAD + "  - {name: main, dag: {tasks: []}}", "templates.main must have at least one task"),
    "timeout of a dag": (
        main("name: a, template: free", "    timeout: 5s\n"),
        "DAG template doesn't support timeout field",
    ),
    "bad timeout": (
        HEAD + "  - {name: main, timeout: '5', container: {image: x}}",
        "main has invalid duration format in timeout",
    ),
    "odd timeout": (
        HEAD + "  - {name: main, timeout: 5x, container: {image: x}}",
        'templates.main.timeout unable to parse "5x"',
    ),
    "no image": (
        HEAD + "  - {name: main, container: {command: [x]}}",
        "templates.main.container.image may not be empty",
    ),
    "steps": (
        HEAD + "  - {name: main, steps: [[{name: a, template: free}]]}",
        "templates.main must have exactly one of container",
    ),
    "bad policy": (
        HEAD + "  - {name: main, retryStrategy: {retryPolicy: Sometimes}, container: {image: x}}",
        "Sometimes is not a valid RetryPolicy",
    ),
    "output without path": (
        HEAD
        + "  - {name: main, container: {image: x}, outputs: {parameters: [{name: o, valueFrom: {expression: '1'}}]}}",
        "templates.main.outputs.parameters.o.path must be specified for container templates",
    ),
    "no value": (
        "spec: {entrypoint: main, arguments: {parameters: [{name: message}]}, "
        "templates: [{name: main, container: {image: x}}]}",
        "spec.arguments.message.value or spec.arguments.message.valueFrom is required",
    ),
    "no entrypoint": ("spec: {templates: [{name: main, container: {image: x}}]}", "spec.entrypoint is required"),
    "no workflow template": ("spec: {workflowTemplateRef: {name: nope}}", "workflow template nope not found"),
    "long name": (
        "metadata: {name: "
        + "w" * 64
        + "}\nspec: {entrypoint: main, templates: [{name: main, container: {image: x}}]}",
        "must not be more than 63 characters long (currently 64)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, message = CASES[case]
    with pytest.raises(ValidationError) as caught:
        validate(manifest(text)[0], lambda name: None)
    assert message in str(caught.value)


def test_accepted() -> None:
    value = "{{tasks.a.outputs.parameters.out}} {{tasks.a.status}} {{workflow.name}} {{= item ?? 1}} {{unknown}}"
    second = f'name: b, template: leaf, depends: a, arguments: {{parameters: [{{name: message, value: "{value}"}}]}}'
    loop = (
        'name: c, template: leaf, withItems: [{v: 1}], arguments: {parameters: [{name: message, value: "{{item.v}}"}]}'
    )
    text = main(f"{GOOD}\n{second}\n{loop}")
    workflow = manifest(text)[0]
    workflow["spec"]["arguments"] = {"parameters": [{"name": "p", "value": "x"}]}
    validate(workflow, lambda name: None)


@pytest.fixture
def store() -> Store:
    store = Store()
    for obj in manifest("""
kind: WorkflowTemplate
metadata: {name: ci}
spec:
  entrypoint: main
  arguments: {parameters: [{name: repo}, {name: sha, value: HEAD}]}
  templates: [{name: main, container: {image: x, command: [build, "{{workflow.parameters.repo}}"]}}]
---
kind: CronWorkflow
metadata: {name: nightly}
spec:
  schedules: ["0 0 * * *"]
  workflowMetadata: {labels: {kind: cron}}
  workflowSpec:
    entrypoint: main
    arguments: {parameters: [{name: n, value: "1"}]}
    templates: [{name: main, container: {image: x, command: [run, "{{workflow.parameters.n}}"]}}]
"""):
        store.create(obj)
    return store


def test_submitting_gives_it_a_name(store: Store) -> None:
    made = submit(
        store,
        {
            "metadata": {"namespace": "argo", "generateName": "x-"},
            "spec": store.get("CronWorkflow", "argo", "nightly")["spec"]["workflowSpec"],
        },
    )
    assert made["metadata"]["name"].startswith("x-")
    assert store.get("Workflow", "argo", made["metadata"]["name"])["metadata"]["uid"]


def test_submitting_what_solo_cannot_do_names_the_field(store: Store) -> None:
    spec = {"entrypoint": "main", "templates": [{"name": "main", "container": {"image": "x"}, "memoize": {"key": "k"}}]}
    with pytest.raises(ValidationError, match=r"spec\.templates\[0\]\.memoize\.key: solo does not support this field"):
        submit(store, {"metadata": {"namespace": "argo", "name": "m"}, "spec": spec})
    assert store.list("Workflow") == []


def test_submitting_from_a_template(store: Store) -> None:
    made = submit_from(
        store, "WorkflowTemplate", "argo", "ci", parameters={"repo": "digits"}, labels={"a": "b"}, name="ci-1"
    )
    assert made["metadata"]["labels"] == {"workflows.argoproj.io/workflow-template": "ci", "a": "b"}
    assert made["spec"] == {
        "workflowTemplateRef": {"name": "ci"},
        "arguments": {"parameters": [{"name": "repo", "value": "digits"}]},
    }
    with pytest.raises(ValidationError, match=r"spec\.arguments\.repo\.value"):
        submit_from(store, "WorkflowTemplate", "argo", "ci")
    with pytest.raises(NotFoundError):
        submit_from(store, "WorkflowTemplate", "argo", "nope")
    with pytest.raises(ValidationError, match="Resource kind 'Pod' is not supported"):
        submit_from(store, "Pod", "argo", "ci")


def test_submitting_from_a_cron_workflow(store: Store) -> None:
    made = submit_from(store, "cronworkflow", "argo", "nightly", parameters={"n": "2"})
    assert made["metadata"]["name"].startswith("nightly-")
    assert made["metadata"]["labels"] == {"kind": "cron", "workflows.argoproj.io/cron-workflow": "nightly"}
    assert made["spec"]["arguments"]["parameters"] == [{"name": "n", "value": "2"}]
    assert "workflows.argoproj.io/scheduled-time" in made["metadata"]["annotations"]
