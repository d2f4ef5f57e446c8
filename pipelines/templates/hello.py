"""hello: does the workflow engine work? Two steps, an artifact between them, and what they print."""

from __future__ import annotations

from hera.workflows import DAG, Artifact, Container, Task, WorkflowTemplate
from hera.workflows import models as m

from pipelines.steps._step import INPUTS, OUTPUTS
from pipelines.templates import _parts as p


def template(images: p.Images) -> WorkflowTemplate:
    with p.pipeline("hello", "mlops", [], status=None, minutes=10) as workflow:
        says = _shell(
            "say",
            images,
            f"mkdir -p {OUTPUTS} && echo 'hello from a step' | tee {OUTPUTS}/greeting",
            outputs=[Artifact(name="greeting", path=f"{OUTPUTS}/greeting")],
        )
        hears = _shell(
            "hear",
            images,
            f'echo "heard: $(cat {INPUTS}/greeting)"',
            inputs=[Artifact(name="greeting", path=f"{INPUTS}/greeting")],
        )
        with DAG(name="main"):
            said = Task(name="say", template=says)
            Task(name="hear", template=hears, arguments=[p.artifact("greeting", said)], depends="say.Succeeded")
    return workflow


def _shell(
    name: str,
    images: p.Images,
    script: str,
    *,
    inputs: list[Artifact] | None = None,
    outputs: list[Artifact] | None = None,
) -> Container:
    return Container(
        name=name,
        image=images.pipelines,
        command=["sh", "-c"],
        args=[script],
        inputs=list(inputs or []),
        outputs=list(outputs or []),
        volume_mounts=[m.VolumeMount(name="tmp", mount_path="/tmp")],  # noqa: S108
        resources=p.resources("50m", "32Mi", "128Mi"),
        security_context=p.CLOSED,
        retry_strategy=p.RETRY_LOST,
    )
