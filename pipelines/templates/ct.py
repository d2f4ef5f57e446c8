"""ct: from a tested image to an accepted, registered model.

plan ▸ ingest ▸ validate ▸ process ▸ analyze + train ▸ evaluate ▸ gate ▸ register ▸ accepted
"""

from __future__ import annotations

from hera.workflows import DAG, Artifact, Parameter, Task, WorkflowTemplate
from hera.workflows import models as m

from pipelines.steps._step import INPUTS, OUTPUTS
from pipelines.steps.data import analyze, validate_data
from pipelines.steps.decide import gate
from pipelines.steps.emit import accepted, status
from pipelines.steps.evaluate import evaluate
from pipelines.steps.plan import plan
from pipelines.steps.register import register
from pipelines.templates import _parts as p
from pipelines.templates.ci import CLAIM, SERVICE, arguments, exit_handler


def template(images: p.Images) -> WorkflowTemplate:
    to_host = p.platform("status", status, images, p.REGISTRY, p.GIT_STATUS, minutes=2)
    with p.pipeline("ct", "mlops", arguments(*SERVICE, "image", "config"), status=to_host, minutes=24 * 60) as workflow:
        plans = p.platform("plan", plan, images, p.REGISTRY)
        ingests = p.user("ingest", output="data", env={"DATA_DIR": f"{OUTPUTS}/data"})
        validates = p.platform("validate", validate_data, images)
        processes = p.user(
            "process",
            inputs=["data"],
            output="features",
            env={"DATA_DIR": f"{INPUTS}/data", "FEATURES_DIR": f"{OUTPUTS}/features"},
        )
        analyzes = p.platform("analyze", analyze, images)
        trains = _train()
        evaluates = p.platform("evaluate", evaluate, images, p.REGISTRY)
        decides = p.platform("gate", gate, images, p.REGISTRY, metrics=m.Metrics(prometheus=[_refused()]))
        registers = p.platform("register", register, images, p.REGISTRY)
        announces = p.platform("accepted", accepted, images, p.STAGES)
        exit_handler("ct", to_host, claim=CLAIM)
        with DAG(name="main"):
            todo = Task(
                name="plan",
                template=plans,
                arguments=p.inputs("service", "sha", "attempt", "config", owner="{{workflow.uid}}"),
            )
            data = Task(
                name="ingest",
                template=ingests,
                arguments=_command(todo, "ingest"),
                depends="plan.Succeeded",
                when=f"{p.out(todo, 'claimed')} == true",
            )
            Task(
                name="validate",
                template=validates,
                arguments=[*p.inputs("config"), p.artifact("data", data)],
                depends="ingest.Succeeded",
            )
            features = Task(
                name="process",
                template=processes,
                arguments=[*_command(todo, "process"), p.artifact("data", data)],
                depends="validate.Succeeded",
            )
            analysis = Task(
                name="analyze",
                template=analyzes,
                arguments=[p.artifact("features", features)],
                depends="process.Succeeded",
            )
            model = Task(
                name="train",
                template=trains,
                arguments=[
                    *_command(todo, "train"),
                    *p.inputs(patch=p.out(todo, "train_patch"), gpu=p.out(todo, "gpu")),
                    p.artifact("features", features),
                ],
                depends="process.Succeeded",
            )
            scored = Task(
                name="evaluate",
                template=evaluates,
                arguments=[
                    *p.inputs("service", serving=p.out(todo, "serving")),
                    p.artifact("features", features),
                    p.artifact("model", model),
                ],
                depends="train.Succeeded && analyze.Succeeded",
            )
            decided = Task(
                name="gate",
                template=decides,
                arguments=[
                    *p.inputs("service", "sha", "config", workflow="{{workflow.name}}", owner="{{workflow.uid}}"),
                    p.artifact("report", scored),
                ],
                depends="evaluate.Succeeded",
            )
            registered = Task(
                name="register",
                template=registers,
                arguments=[
                    *p.inputs(
                        "service",
                        "repo",
                        "branch",
                        "sha",
                        "attempt",
                        "image",
                        "config",
                        workflow="{{workflow.name}}",
                        owner="{{workflow.uid}}",
                        decision=p.out(decided, "decision"),
                        metrics=p.out(scored, "metrics"),
                    ),
                    p.artifact("data", data),
                    p.artifact("features", features),
                    p.artifact("bundle", scored),
                    p.artifact("analysis", analysis),
                ],
                depends="gate.Succeeded",
            )
            Task(
                name="accepted",
                template=announces,
                arguments=p.inputs(*SERVICE, lock=p.out(registered, "lock")),
                depends="register.Succeeded",
            )
    return workflow


def _command(todo: Task, name: str) -> list[Parameter]:
    return p.inputs(
        "image",
        command=p.out(todo, f"{name}_command"),
        timeout=p.out(todo, f"{name}_timeout"),
        params=p.out(todo, "params"),
    )


def _refused() -> m.Prometheus:
    """What the controller counts as `argo_workflows_trainyard_gate_refused`, for monitoring."""
    return m.Prometheus(
        name="trainyard_gate_refused",
        help="Models that the gate refused, or could not decide on",
        labels=[m.MetricLabel(key="service", value="{{inputs.parameters.service}}")],
        when="{{status}} == Failed",
        counter=m.Counter(value="1"),
    )


def _train() -> DAG:
    """One of two templates: on a GPU node, or rather not. Which one: `gpu`, the number that mlops.yaml asks for."""
    env = {"FEATURES_DIR": f"{INPUTS}/features", "MODEL_DIR": f"{OUTPUTS}/model"}
    on_cpu = p.user("train-cpu", inputs=["features"], output="model", env=env, patch=True)
    on_gpu = p.user(
        "train-gpu",
        inputs=["features"],
        output="model",
        env=env,
        patch=True,
        affinity=p.nodes(gpu=True),
        tolerations=[m.Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
    )
    names = ("image", "command", "timeout", "params", "patch")
    model = (
        "tasks['train-cpu'].status == 'Succeeded'"
        " ? tasks['train-cpu'].outputs.artifacts.model : tasks['train-gpu'].outputs.artifacts.model"
    )
    with DAG(
        name="train",
        inputs=[*(Parameter(name=name) for name in (*names, "gpu")), Artifact(name="features")],
        outputs=[Artifact(name="model", from_expression=model)],
    ) as dag:
        given: list[Parameter | Artifact] = [
            *(Parameter(name=name, value=f"{{{{inputs.parameters.{name}}}}}") for name in names),
            Artifact(name="features", from_="{{inputs.artifacts.features}}"),
        ]
        Task(name="train-cpu", template=on_cpu, arguments=given, when="{{inputs.parameters.gpu}} == 0")
        Task(name="train-gpu", template=on_gpu, arguments=given, when="{{inputs.parameters.gpu}} != 0")
    return dag
