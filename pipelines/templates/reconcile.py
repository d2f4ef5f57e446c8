"""reconcile: every five minutes, look for pushes whose event never came.

A template and its clock: under `templateReferencing: Strict` a CronWorkflow may only name what it runs.
"""

from __future__ import annotations

from hera.workflows import DAG, CronWorkflow, Task, WorkflowTemplate
from hera.workflows import models as m

from pipelines.steps.reconcile import reconcile
from pipelines.templates import _parts as p

NAME, NAMESPACE = "reconcile", "mlops"


def template(images: p.Images) -> WorkflowTemplate:
    with WorkflowTemplate(
        name=NAME,
        namespace=NAMESPACE,
        entrypoint="main",
        service_account_name="pipeline",
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name="executor"),
        security_context=p.NON_ROOT,
        active_deadline_seconds=600,
        ttl_strategy=m.TTLStrategy(seconds_after_completion=3600),
        volumes=[m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource())],
        workflow_metadata=m.WorkflowMetadata(labels={"trainyard/pipeline": NAME}),
    ) as workflow:
        looks = p.platform("reconcile", reconcile, images, p.REGISTRY, p.STAGES, p.GIT_READ)
        with DAG(name="main"):
            Task(name="reconcile", template=looks)
    return workflow


def clock() -> CronWorkflow:
    return CronWorkflow(
        name=NAME,
        namespace=NAMESPACE,
        # after its template: a controller that does not find it forgets the clock, and looks again after 20 minutes
        annotations={"argocd.argoproj.io/sync-wave": "1"},
        schedules=["*/5 * * * *"],
        timezone="UTC",
        concurrency_policy="Forbid",
        starting_deadline_seconds=60,
        workflow_template_ref=m.WorkflowTemplateRef(name=NAME),
    )
