"""reconcile: every five minutes, look for pushes whose event never came."""

from __future__ import annotations

from hera.workflows import DAG, CronWorkflow, Task
from hera.workflows import models as m

from pipelines.steps.reconcile import reconcile
from pipelines.templates import _parts as p


def template(images: p.Images) -> CronWorkflow:
    with CronWorkflow(
        name="reconcile",
        namespace="mlops",
        schedules=["*/5 * * * *"],
        timezone="UTC",
        concurrency_policy="Forbid",
        starting_deadline_seconds=60,
        entrypoint="main",
        service_account_name="pipeline",
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name="executor"),
        security_context=p.NON_ROOT,
        active_deadline_seconds=600,
        ttl_strategy=m.TTLStrategy(seconds_after_completion=3600),
        volumes=[m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource())],
        workflow_metadata=m.WorkflowMetadata(labels={"trainyard/pipeline": "reconcile"}),
    ) as workflow:
        looks = p.platform("reconcile", reconcile, images, p.REGISTRY, p.STAGES, p.GIT_READ)
        with DAG(name="main"):
            Task(name="reconcile", template=looks)
    return workflow
