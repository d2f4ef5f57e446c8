"""verify: does what was released really serve? Keep it, or take it back once.

inspect ▸ wait ▸ smoke ▸ keep | revert
"""

from __future__ import annotations

from hera.workflows import DAG, Parameter, Task, WorkflowTemplate

from pipelines.steps.emit import status
from pipelines.steps.verify import inspect, keep, revert, smoke, wait
from pipelines.templates import _parts as p
from pipelines.templates.ci import exit_handler

# seconds for Argo CD to sync: when its repository server dies at the wrong moment, it looks again only after up to two
# of its reconciliation periods of three minutes
SYNC_TIMEOUT = 900
TIMEOUT = 300  # seconds from then on for the rollout to finish


def template(images: p.Images) -> WorkflowTemplate:
    to_host = p.platform("status", status, images, p.REGISTRY, p.GIT_STATUS, minutes=2)
    parameters = [
        Parameter(name="repo"),
        Parameter(name="before", value=""),
        *(Parameter(name=n) for n in ("commit", "delivery")),
    ]
    with p.pipeline("verify", "mlops-release", parameters, status=to_host, minutes=60) as workflow:
        inspects = p.platform("inspect", inspect, images, p.REGISTRY, p.GIT_READ)
        # the only step with a Kubernetes token: it may read Applications, nothing else
        waits = p.platform(
            "wait",
            wait,
            images,
            p.GIT_READ,
            minutes=(SYNC_TIMEOUT + TIMEOUT) // 60 + 5,
            service_account_name="verify",
            automount_service_account_token=True,
        )
        smokes = p.platform("smoke", smoke, images, p.REGISTRY, to="services")
        keeps = p.platform("keep", keep, images, p.REGISTRY, p.GIT_READ)
        reverts = p.platform("revert", revert, images, p.GIT_WRITE)
        exit_handler("verify", to_host, claim="releases/{{workflow.parameters.commit}}-1", sha="commit")
        with DAG(name="main"):
            seen = Task(
                name="inspect", template=inspects, arguments=p.inputs("before", "commit", owner="{{workflow.uid}}")
            )
            targets = p.out(seen, "targets")
            waited = Task(
                name="wait",
                template=waits,
                arguments=p.inputs("commit", targets=targets, sync_timeout=str(SYNC_TIMEOUT), timeout=str(TIMEOUT)),
                depends="inspect.Succeeded",
                when=f"{p.out(seen, 'claimed')} == true",
            )
            Task(
                name="smoke",
                template=smokes,
                arguments=p.inputs(targets=p.out(waited, "targets")),
                depends="wait.Succeeded",
                when=f"{p.out(waited, 'outcome')} == healthy",
            )
            Task(
                name="keep",
                template=keeps,
                arguments=p.inputs("commit", targets=p.out(waited, "targets")),
                depends="smoke.Succeeded",
            )
            Task(
                name="revert",
                template=reverts,
                arguments=p.inputs("commit", targets=targets),
                depends="wait.Failed || wait.Errored || smoke.Failed || smoke.Errored",
                when=f"{p.out(seen, 'reverts')} == false",
            )
    return workflow
