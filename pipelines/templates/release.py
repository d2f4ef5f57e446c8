"""release: sign the image, then one commit to the releases repository; one release of a service at a time.

sign ▸ release
"""

from __future__ import annotations

from hera.workflows import DAG, Task, WorkflowTemplate
from hera.workflows import models as m

from pipelines.steps.emit import status
from pipelines.steps.release import release
from pipelines.steps.sign import sign
from pipelines.templates import _parts as p
from pipelines.templates.ci import SERVICE, arguments, exit_handler


def template(images: p.Images) -> WorkflowTemplate:
    to_host = p.platform("status", status, images, p.GIT_STATUS, minutes=2)
    with p.pipeline(
        "release",
        "mlops-release",
        arguments(*SERVICE, "lock"),
        status=to_host,
        minutes=60,
        synchronization=m.Synchronization(mutexes=[m.Mutex(name="release-{{workflow.parameters.service}}")]),
    ) as workflow:
        signs = p.platform("sign", sign, images, p.REGISTRY, p.REGISTRY_PUSH, p.REGISTRY_CA, p.SIGNING)
        releases = p.platform("release", release, images, p.REGISTRY, p.GIT_WRITE)
        exit_handler("release", to_host)
        with DAG(name="main"):
            Task(name="sign", template=signs, arguments=p.inputs("service", "repo", "sha", "lock"))
            Task(
                name="release",
                template=releases,
                arguments=p.inputs(
                    "service",
                    "repo",
                    "branch",
                    "sha",
                    "lock",
                    environment="dev",
                    workflow="{{workflow.name}}",
                    owner="{{workflow.uid}}",
                ),
                depends="sign.Succeeded",
            )
    return workflow
