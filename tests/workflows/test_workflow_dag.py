"""DAGs: order, conditions, values between tasks, loops, and what the whole becomes."""

import json

import pytest
from workflow_world import World

from solo.workflows.names import fnv32a, pod_name

STEP = """
  - name: step
    inputs: {parameters: [{name: in, default: none}]}
    container: {image: x, command: [run], args: ["{{inputs.parameters.in}}"]}
"""


def dag(tasks: str, more: str = "", top: str = "") -> World:
    return World(f"""
spec:
  entrypoint: main
{top}
  templates:
  - name: main
    dag:
      tasks:
{tasks}
{more or STEP}
""")


def test_a_task_starts_when_those_before_it_are_done() -> None:
    world = dag("""
      - {name: a, template: step}
      - {name: b, template: step, depends: a}
      - {name: c, template: step, depends: a}
      - {name: d, template: step, depends: b && c}""")
    assert world.running() == ["a"]
    assert world.report("a").running() == ["b", "c"]
    assert world.report("c").running() == ["b"]
    assert world.report("b").running() == ["d"]
    assert world.report("d").phase == "Succeeded"
    root = world.nodes["wf"]
    assert (root["type"], root["children"], root["outboundNodes"]) == (
        "DAG",
        [world.node("a")["id"]],
        [world.node("d")["id"]],
    )
    assert world.node("d")["boundaryID"] == "wf"
    assert world.workflow["status"]["progress"] == root["progress"] == "4/4"
    assert world.workflow["metadata"]["labels"] == {
        "workflows.argoproj.io/phase": "Succeeded",
        "workflows.argoproj.io/completed": "true",
    }


def test_progress_counts_the_pods_that_hang_on_a_node() -> None:
    """As Argo 4.1.4 counts: what comes after a node hangs on it, and what was skipped has done nothing itself."""
    world = dag("""
      - {name: each, template: step, withItems: [a, b]}
      - {name: idle, template: step, depends: each, when: "1 == 2"}
      - {name: last, template: step, depends: idle}""").finish(lambda name: "Failed" if name == "last" else "Succeeded")
    told = {name: world.node(name).get("progress") for name in ("wf", "each", "each(0:a)", "idle", "last")}
    assert told == {"wf": "2/3", "each": "2/3", "each(0:a)": "1/1", "idle": "0/1", "last": "0/1"}
    assert "progress" not in dag("      - {name: idle, template: step, when: 1 == 2}").node("idle")


def test_names_are_argos() -> None:
    assert fnv32a("foobar") == 0xBF9CF968  # from the FNV-1a test vectors
    world = dag("      - {name: a, template: step}")
    assert world.node("a")["id"] == f"wf-{fnv32a('wf.a')}"
    assert list(world.pods) == [f"wf-step-{fnv32a('wf.a')}"]
    assert len(pod_name("w" * 200, "w.node", "t" * 100)) <= 253


def test_a_failure_leaves_out_what_depends_on_it_and_fails_the_workflow() -> None:
    world = dag("""
      - {name: a, template: step}
      - {name: b, template: step, depends: a}
      - {name: c, template: step, depends: a.Failed}
      - {name: other, template: step}""")
    world.report("a", "Failed", code=3)
    assert world.phases() == {"a": "Failed", "b": "Omitted", "c": "Pending", "other": "Pending"}
    assert world.node("a")["message"] == "main: Error (exit code 3)"
    assert world.node("a")["outputs"]["exitCode"] == "3"
    assert world.node("b")["message"] == "omitted: depends condition not met"
    assert world.report("other").phase == "Running"
    # c ran well, but b, a leaf, is taken for failed because its branch is
    assert world.report("c").phase == "Failed"


def test_dependencies_are_an_older_way_to_say_depends() -> None:
    world = dag("""
      - {name: a, template: step}
      - {name: b, template: step, dependencies: [a]}""")
    assert world.running() == ["a"]
    assert world.report("a", "Failed").phases() == {"a": "Failed", "b": "Omitted"}


def test_when_decides_after_values_are_in() -> None:
    world = dag(
        """
      - {name: flip, template: script}
      - {name: heads, template: step, depends: flip, when: "{{tasks.flip.outputs.result}} == heads"}
      - {name: tails, template: step, depends: flip, when: "{{tasks.flip.outputs.result}} == tails"}""",
        STEP + "  - {name: script, script: {image: x, command: [sh], source: echo heads}}\n",
    )
    assert world.pod("flip")["solo"]["outputs"]["result"] is True
    script = next(item for item in world.pod("flip")["solo"]["inputs"]["artifacts"])
    assert (script["path"], script["source"]) == ("/argo/staging/script", {"raw": {"data": "echo heads"}})
    world.report("flip", result="heads")
    assert world.running() == ["heads"]
    assert world.node("tails")["message"] == "when 'heads == tails' evaluated false"
    assert world.report("heads").phase == "Succeeded"


PRODUCER = (
    STEP
    + """
  - name: make
    container: {image: x, command: [make]}
    outputs:
      parameters: [{name: n, valueFrom: {path: /n}}, {name: d, valueFrom: {path: /d, default: fallback}}]
      artifacts: [{name: data, path: /data}, {name: plain, path: /out/plain.txt, archive: {none: {}}, optional: true}]
  - name: use
    inputs: {artifacts: [{name: got, path: /got}]}
    container: {image: x, command: [use], args: ["{{inputs.artifacts.got.path}}"]}
"""
)


def test_parameters_and_artifacts_travel() -> None:
    world = dag(
        """
      - {name: a, template: make}
      - name: p
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "n={{tasks.a.outputs.parameters.n}}"}]}
      - name: e
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "{{=asInt(tasks.a.outputs.parameters.n) * 2}}"}]}
      - name: f
        template: use
        depends: a
        arguments: {artifacts: [{name: got, from: "{{tasks.a.outputs.artifacts.data}}"}]}
      - name: g
        template: use
        depends: a
        arguments: {artifacts: [{name: got, from: "{{tasks.a.outputs.artifacts.plain}}"}]}""",
        PRODUCER,
    )
    pod = world.pod("a")
    outputs = pod["solo"]["outputs"]
    assert outputs["parameters"] == [{"name": "n", "path": "/n"}, {"name": "d", "path": "/d", "default": "fallback"}]
    name = pod["metadata"]["name"]
    assert [(item["archive"], item["bucket"], item["key"]) for item in outputs["artifacts"]] == [
        ("tar", "scratch", f"wf/{name}/data.tgz"),
        ("none", "scratch", f"wf/{name}/plain.txt"),
    ]
    world.report("a", parameters={"n": "21", "d": 'a "quoted"\nvalue'})
    assert world.pod("p")["spec"]["containers"][0]["args"] == ["n=21"]
    assert world.pod("e")["spec"]["containers"][0]["args"] == ["42"]
    assert world.pod("f")["spec"]["containers"][0]["args"] == ["/got"]
    assert world.pod("f")["solo"]["inputs"]["artifacts"] == [
        {"name": "got", "path": "/got", "source": {"bucket": "scratch", "key": f"wf/{name}/data.tgz"}}
    ]
    # who reads it must know that it is no archive
    assert world.pod("g")["solo"]["inputs"]["artifacts"][0]["archive"] == {"none": {}}
    assert {item["name"]: item["value"] for item in world.node("a")["outputs"]["parameters"]}["n"] == "21"
    assert world.node("p")["inputs"]["parameters"] == [{"name": "in", "default": "none", "value": "n=21"}]


def test_outputs_of_a_nested_dag() -> None:
    world = World("""
spec:
  entrypoint: main
  templates:
  - name: main
    dag:
      tasks:
      - {name: inner, template: inner}
      - name: after
        template: show
        depends: inner
        arguments: {parameters: [{name: v, value: "{{tasks.inner.outputs.parameters.sum}}"}]}
  - name: inner
    dag:
      tasks: [{name: a, template: make}, {name: b, template: make}]
    outputs:
      parameters:
      - name: sum
        valueFrom: {expression: "asInt(tasks.a.outputs.parameters.n) + asInt(tasks.b.outputs.parameters.n)"}
      - {name: first, valueFrom: {parameter: "{{tasks.a.outputs.parameters.n}}"}}
      artifacts:
      - {name: one, from: "{{tasks.a.outputs.artifacts.f}}"}
      - name: best
        fromExpression: "tasks.a.status == 'Failed' ? tasks.a.outputs.artifacts.f : tasks.b.outputs.artifacts.f"
  - name: make
    container: {image: x, command: [make]}
    outputs: {parameters: [{name: n, valueFrom: {path: /n}}], artifacts: [{name: f, path: /f}]}
  - name: show
    inputs: {parameters: [{name: v}]}
    container: {image: x, command: [show, "{{inputs.parameters.v}}"]}
""")
    world.report("a", parameters={"n": "2"}).report("b", parameters={"n": "3"})
    outputs = world.node("inner")["outputs"]
    assert outputs["parameters"] == [{"name": "sum", "value": "5"}, {"name": "first", "value": "2"}]
    keys = {item["name"]: item["gcs"]["key"] for item in outputs["artifacts"]}
    assert keys["one"].startswith("wf/wf-make-")
    assert keys["one"] != keys["best"]
    assert [item["path"] for item in outputs["artifacts"]] == ["/f", "/f"], "as the step that made them had them"
    assert world.pod("after")["spec"]["containers"][0]["command"] == ["show", "5"]
    assert world.report("after").phase == "Succeeded"


def test_a_skipped_task_gives_its_defaults() -> None:
    tasks = """
      - {name: a, template: make, when: "false"}
      - name: d
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "{{tasks.a.outputs.parameters.d}}"}]}
      - name: own
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "{{tasks.a.outputs.parameters.n}}"}]}
      - name: coalesce
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "{{=tasks.a.outputs.parameters.n ?? 'nothing'}}"}]}
      - name: mixed
        template: step
        depends: a
        arguments: {parameters: [{name: in, value: "x-{{tasks.a.outputs.parameters.n}}"}]}"""
    world = dag(tasks, PRODUCER)
    args = {name: world.pod(name)["spec"]["containers"][0]["args"][0] for name in ("d", "own", "coalesce")}
    assert args == {"d": "fallback", "own": "none", "coalesce": "nothing"}
    assert world.node("mixed")["phase"] == "Error"
    assert "output is an absent optional" in world.node("mixed")["message"]


def test_an_artifact_of_a_skipped_task_is_missing_unless_optional() -> None:
    tasks = """
      - {name: a, template: make, when: "false"}
      - name: f
        template: use
        depends: a
        arguments: {artifacts: [{name: got, from: "{{tasks.a.outputs.artifacts.data}}"OPTIONAL}]}"""
    world = dag(tasks.replace("OPTIONAL", ""), PRODUCER)
    assert (world.phase, world.node("f")["message"]) == ("Error", 'Unable to resolve: "tasks.a.outputs.artifacts.data"')
    optional = PRODUCER.replace("{name: got, path: /got}", "{name: got, path: /got, optional: true}")
    world = dag(tasks.replace("OPTIONAL", ", optional: true"), optional)
    assert world.pod("f")["solo"]["inputs"]["artifacts"] == []


def test_a_value_that_never_comes_is_an_error_not_a_wait() -> None:
    world = dag(
        """
      - {name: a, template: make}
      - name: p
        template: step
        depends: a.Failed
        arguments: {parameters: [{name: in, value: "{{tasks.a.outputs.parameters.n}}"}]}""",
        PRODUCER,
    )
    world.report("a", "Failed")
    assert world.node("p")["message"] == "failed to resolve {{tasks.a.outputs.parameters.n}}"
    assert world.phase == "Error"


def test_loops_over_items() -> None:
    world = dag("""
      - name: fan
        template: step
        withItems: [one, 2, true, {k: v, n: 1}]
        arguments: {parameters: [{name: in, value: "{{item}}"}]}
      - {name: after, template: step, depends: fan}""")
    names = ["fan(0:one)", "fan(1:2)", "fan(2:true)", "fan(3:k:v,n:1)"]
    assert world.running() == names
    values = [world.pod(name)["spec"]["containers"][0]["args"][0] for name in names]
    assert values == ["one", "2", "true", '{"k":"v","n":1}']
    group = world.node("fan")
    assert (group["type"], group["children"]) == ("TaskGroup", [world.node(name)["id"] for name in names])
    for name in names:
        world.report(name)
    assert world.running() == ["after"]
    assert world.report("after").phase == "Succeeded"


def test_loops_over_what_a_task_found_and_what_they_give_together() -> None:
    world = World("""
spec:
  entrypoint: main
  templates:
  - name: main
    dag:
      tasks:
      - {name: list, template: make}
      - name: fan
        template: one
        depends: list
        withParam: "{{tasks.list.outputs.parameters.n}}"
        when: "{{item.v}} != 2"
        arguments: {parameters: [{name: v, value: "{{item.v}}"}]}
      - name: sum
        template: one
        depends: fan.AnySucceeded
        arguments: {parameters: [{name: v, value: "{{tasks.fan.outputs.parameters.n}}"}]}
  - name: make
    container: {image: x, command: [make]}
    outputs: {parameters: [{name: n, valueFrom: {path: /n}}]}
  - name: one
    inputs: {parameters: [{name: v}]}
    container: {image: x, command: [one, "{{inputs.parameters.v}}"]}
    outputs: {parameters: [{name: n, valueFrom: {path: /n}}]}
""")
    world.report("list", parameters={"n": '[{"v": 1}, {"v": 2}, {"v": 3}]'})
    assert world.running() == ["fan(0:v:1)", "fan(2:v:3)"]
    assert world.node("fan(1:v:2)")["phase"] == "Skipped"
    world.report("fan(2:v:3)", parameters={"n": "c"}).report("fan(0:v:1)", parameters={"n": "a"})
    assert world.pod("sum")["spec"]["containers"][0]["command"] == ["one", '["a","c"]']


@pytest.mark.parametrize(
    ("value", "phase", "message"),
    [
        ("[]", "Succeeded", "Skipped, empty params"),
        ("{}", "Error", "withParam value could not be parsed as a JSON list: {}"),
    ],
)
def test_loops_over_nothing(value: str, phase: str, message: str) -> None:
    world = dag(f"      - {{name: fan, template: step, withParam: '{value}'}}")
    assert world.phase == phase
    assert world.node("fan")["message"].startswith(message)


def test_fail_fast_off_lets_branches_finish() -> None:
    text = """
spec:
  entrypoint: main
  templates:
  - name: main
    dag:
      failFast: FAST
      tasks:
      - {name: bad, template: step}
      - {name: a, template: step}
      - {name: b, template: step, depends: a}
"""
    for fast in ("true", "false"):
        world = World(text.replace("FAST", fast) + STEP)
        world.report("bad", "Failed")
        assert (world.phase, world.running()) == ("Running", ["a"])
        world.report("a")
        assert world.running() == ["b"]
        assert world.report("b").phase == "Failed"


def test_parallelism_of_template_and_workflow() -> None:
    tasks = "\n".join(f"      - {{name: t{i}, template: step}}" for i in range(4))
    world = dag(tasks, top="  parallelism: 2")
    assert world.running() == ["t0", "t1"]
    assert world.report("t0").running() == ["t1", "t2"]
    assert world.finish().phase == "Succeeded"
    world = World(f"""
spec:
  entrypoint: main
  templates:
  - name: main
    parallelism: 1
    dag:
      tasks:
{tasks}
{STEP}""")
    assert world.running() == ["t0"]
    assert world.report("t0").running() == ["t1"]
    assert world.finish().phase == "Succeeded"


def test_a_template_of_another_object_is_kept_as_it_was() -> None:
    world = World("""
kind: WorkflowTemplate
metadata: {name: lib}
spec:
  podMetadata: {labels: {team: ml}}
  templates:
  - name: pipe
    dag: {tasks: [{name: x, template: leaf}, {name: y, template: leaf, depends: x}]}
  - name: leaf
    container: {image: x, command: [old]}
---
spec:
  entrypoint: main
  templates:
  - name: main
    dag: {tasks: [{name: ref, templateRef: {name: lib, template: pipe}}]}
""")
    assert world.node("ref")["templateRef"] == {"name": "lib", "template": "pipe"}
    assert world.node("x")["templateScope"] == "namespaced/lib"
    assert world.pod("x")["metadata"]["labels"]["team"] == "ml"
    assert set(world.workflow["status"]["storedTemplates"]) == {"namespaced/lib/pipe", "namespaced/lib/leaf"}
    world.templates["lib"]["spec"]["templates"][1]["container"]["command"] = ["new"]
    world.report("x")
    assert world.pod("y")["spec"]["containers"][0]["command"] == ["old"]


def test_a_workflow_made_of_a_template_reference() -> None:
    world = World("""
kind: WorkflowTemplate
metadata: {name: ci}
spec:
  entrypoint: main
  arguments: {parameters: [{name: repo, value: none}, {name: sha, value: HEAD}]}
  workflowMetadata: {labels: {kind: ci}, labelsFrom: {sha: {expression: "workflow.parameters.sha"}}}
  templates:
  - name: main
    container:
      image: x
      command: [build, "{{workflow.parameters.repo}}", "{{workflow.parameters.sha}}", "{{workflow.name}}"]
---
metadata: {name: ci-1}
spec:
  workflowTemplateRef: {name: ci}
  arguments: {parameters: [{name: repo, value: digits}]}
""")
    assert world.pods["ci-1"]["spec"]["containers"][0]["command"] == ["build", "digits", "HEAD", "ci-1"]
    labels = world.workflow["metadata"]["labels"]
    assert (labels["kind"], labels["sha"], labels["workflows.argoproj.io/workflow-template"]) == ("ci", "HEAD", "ci")
    assert world.workflow["status"]["storedWorkflowTemplateSpec"]["entrypoint"] == "main"
    assert world.node("ci-1")["templateScope"] == "local/", "the real one's spec has lost its name here"
    assert world.report("ci-1").phase == "Succeeded"


def test_the_pod_has_what_the_template_says() -> None:
    world = World(
        """
spec:
  entrypoint: main
  podSpecPatch: '{"terminationGracePeriodSeconds": 5}'
  volumes: [{name: data, emptyDir: {}}, {name: unused, emptyDir: {}}]
  arguments:
    parameters:
    - name: patch
      value: >-
        {"containers": [{"name": "main", "resources": {"limits": {"memory": "2Gi"}},
        "env": [{"name": "A", "value": "2"}]}]}
  templates:
  - name: main
    activeDeadlineSeconds: "{{workflow.parameters.seconds}}"
    inputs:
      parameters: [{name: patch, value: "{{workflow.parameters.patch}}"}]
      artifacts: [{name: conf, path: /conf, raw: {data: "x: 1"}}]
    podSpecPatch: "{{inputs.parameters.patch}}"
    metadata: {labels: {a: "{{pod.name}}"}}
    initContainers: [{name: fetch, image: y, command: [fetch], volumeMounts: [{name: data, mountPath: /data}]}]
    container:
      image: x
      command: [run]
      env: [{name: A, value: "1"}, {name: B, value: "{{workflow.parameters.seconds}}"}]
""".replace(
            "    parameters:\n    - name: patch", "    parameters:\n    - {name: seconds, value: 60}\n    - name: patch"
        )
    )
    pod = world.pods["wf"]
    assert pod["spec"]["containers"] == [
        {
            "image": "x",
            "command": ["run"],
            "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "60"}],
            "name": "main",
            "resources": {"limits": {"memory": "2Gi"}},
        }
    ]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 5
    assert pod["spec"]["activeDeadlineSeconds"] == 60
    assert pod["spec"]["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert pod["spec"]["initContainers"][0]["name"] == "fetch"
    assert pod["metadata"]["labels"]["a"] == "wf"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid-wf"
    assert pod["solo"]["inputs"]["artifacts"] == [
        {"name": "conf", "source": {"raw": {"data": "x: 1"}}, "path": "/conf"}
    ]
    assert json.dumps(pod).count("{{") == 0


def test_a_patch_that_is_none_is_an_error_of_its_node() -> None:
    world = World("""
spec:
  entrypoint: main
  templates: [{name: main, podSpecPatch: "[1", container: {image: x, command: [run]}}]
""")
    assert world.phase == "Error"
    assert "Error applying PodSpecPatch: it is neither JSON nor YAML" in world.message


def test_a_pod_that_is_gone_is_an_error() -> None:
    world = dag("      - {name: a, template: step}").report("a", "Running")
    world.pods.clear()
    world.step()
    assert (world.node("a")["phase"], world.node("a")["message"], world.phase) == ("Error", "pod deleted", "Error")


@pytest.mark.parametrize(
    ("said", "phase", "message"),
    [
        ("OOMKilled (exit code 137)", "Failed", "main: OOMKilled (exit code 137)"),
        ("Pod was active on the node longer than the specified deadline", "Failed", None),
        ("wait: Error (exit code 64): open /x: no such file or directory", "Error", None),
        ("pod deleted", "Error", None),
    ],
)
def test_what_a_pod_says_becomes_the_nodes_message(said: str, phase: str, message: str | None) -> None:
    world = dag("      - {name: a, template: step}").report("a", "Failed", message=said)
    assert (world.node("a")["phase"], world.node("a")["message"]) == (phase, message or said)
