"""EventBus, EventSources and Sensors: how a push, a built image and an accepted model become Workflows.

Plain dicts, since Hera's event models empty inline resources. Each argument of a created Workflow is addressed by the
name that the
template declares, and a name that it does not declare is a mistake found here (real Argo Events drops it in silence).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hera.workflows import WorkflowTemplate

from pipelines.platform import Platform, Service
from pipelines.templates._parts import NON_ROOT

Manifest = dict[str, Any]

NAMESPACE = "argo-events"
PAYLOAD = 4 * 1024 * 1024  # bytes; the default of 1 MiB is less than a large push
HOOKS_PORT, STAGES_PORT = 12000, 12001
STAGES = ("push", "built", "accepted")


def ports(platform: Platform) -> dict[str, int]:
    """EventSource → the port that it listens on."""
    return {platform.git.provider: HOOKS_PORT, "stages": STAGES_PORT}


def event_bus(platform: Platform) -> Manifest:
    """One copy of the bus; three where there are three nodes, so that it outlives one of them."""
    # with more copies than nodes the stream never gets its quorum, and two are no safer than one
    copies = 3 if len(platform.nodes) >= 3 else 1
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "EventBus",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {
            "jetstream": {
                "version": "2.10.29",  # the newest that Argo Events itself knows images for, not a pin of ours
                "replicas": copies,
                "streamConfig": f"replicas: {copies}\nmaxAge: 72h\n",
                "maxPayload": str(PAYLOAD),
                # without a volume, what was accepted and not yet handed on is lost with the bus's pod
                "persistence": {"accessMode": "ReadWriteOnce", "volumeSize": "2Gi"},
                "serviceAccountName": "bus",
                "securityContext": _pod(),
                "containerTemplate": _container("50m", "64Mi", "512Mi"),
                "reloaderContainerTemplate": _container("10m", "16Mi", "64Mi"),
                "metricsContainerTemplate": _container("10m", "16Mi", "64Mi"),
                **(_apart() if copies > 1 else {}),
            }
        },
    }


def _pod() -> Manifest:
    found: Manifest = NON_ROOT.model_dump(by_alias=True, exclude_none=True)
    return found


def _container(cpu: str, memory: str, limit: str, *, read_only: bool = False) -> Manifest:
    """What Argo Events lets us say of the containers that it makes."""
    context: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}},
        "securityContext": context | ({"readOnlyRootFilesystem": True} if read_only else {}),
    }


def _template(account: str) -> Manifest:
    """The pod of an EventSource or a Sensor; Argo Events gives it an empty /tmp."""
    container = _container("20m", "64Mi", "256Mi", read_only=True)
    return {"serviceAccountName": account, "securityContext": _pod(), "container": container}


def _apart() -> Manifest:
    """Each copy on a node of its own, for ever: its volume is on the node. A node with a GPU counts, so it is taken."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"controller": "eventbus-controller", "eventbus-name": "default"}},
    }
    return {
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }


def hooks_source(platform: Platform) -> Manifest:
    """The EventSource that the Git host's webhooks come to, named after the provider."""
    return _gitlab_source(platform) if platform.git.provider == "gitlab" else _github_source(platform)


def _github_source(platform: Platform) -> Manifest:
    repos = sorted({*(service.repo for service in platform.services), platform.releases})
    owners = sorted({repo.split("/")[0] for repo in repos})
    event = {
        "webhook": _hook(),
        "events": ["push"],
        "active": True,
        "contentType": "json",
        "webhookSecret": {"name": "github-webhook", "key": "secret"},
        # registers hooks only; it filters nothing that arrives, so the Sensors do
        "repositories": [
            {"owner": owner, "names": [repo.split("/")[1] for repo in repos if repo.startswith(f"{owner}/")]}
            for owner in owners
        ],
    }
    return _source("github", HOOKS_PORT, {"github": {"push": event}})


def _gitlab_source(platform: Platform) -> Manifest:
    """Argo Events 1.9 compares the token only where it could make webhooks, too: with an access token and an address.
    It would make them for `projects`; none is named, so nothing is asked of GitLab, and any text will do as access
    token.
    """
    token = {"name": "gitlab-webhook", "key": "secret"}
    event = {
        "webhook": {**_hook(), "url": f"https://{platform.host('hooks')}"},
        "events": ["PushEvents"],
        "gitlabBaseURL": platform.endpoints.GIT_URL,
        "enableSSLVerification": True,
        "secretToken": token,
        "accessToken": token,
    }
    return _source("gitlab", HOOKS_PORT, {"gitlab": {"push": event}})


def _hook() -> Manifest:
    return {"endpoint": "/push", "port": str(HOOKS_PORT), "method": "POST", "maxPayloadSize": PAYLOAD}


def stages_source() -> Manifest:
    events = {
        name: {
            "port": str(STAGES_PORT),
            "endpoint": f"/{name}",
            "method": "POST",
            "maxPayloadSize": PAYLOAD,
            "authSecret": {"name": "stages-token", "key": "token"},
        }
        for name in STAGES
    }
    return _source("stages", STAGES_PORT, {"webhook": events})


def _source(name: str, port: int, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "EventSource",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "eventBusName": "default",
            "template": _template("source"),
            "service": {"ports": [{"name": "http", "port": port, "targetPort": port}]},
            **spec,
        },
    }


def sensors(platform: Platform, templates: dict[str, WorkflowTemplate]) -> list[Manifest]:
    """The four Sensors, one for each pipeline; `templates` by name are what they start."""
    ci, ct, release = _Sensor(templates["ci"]), _Sensor(templates["ct"]), _Sensor(templates["release"])
    pushed, pushed_delivery = PUSHED[platform.git.provider]
    for service in platform.services:
        slug = _slug(service.repo)
        constant = {"service": service.name, "repo": service.repo, "branch": service.branch}
        labels = {"trainyard/service": service.name}
        for suffix, dependency, delivery in (
            ("", pushed(f"push-{service.name}", service.repo, service.branch), pushed_delivery),
            ("-missed", _missed(f"missed-{service.name}", service.repo, service.branch), "body.delivery"),
        ):
            ci.add(
                f"ci-{service.name}{suffix}",
                dependency,
                f"ci-{slug}-{{{{ .Input.body.after | trunc 12 }}}}",
                labels,
                "body.after",
                delivery,
                constant | {"attempt": "1"},
                {"sha": "body.after", "delivery": delivery},
            )
        for sensor, event, extra in ((ct, "built", ("image", "config")), (release, "accepted", ("lock",))):
            sensor.add(
                f"{sensor.pipeline}-{service.name}",
                _stage(f"{event}-{service.name}", event, service),
                f"{sensor.pipeline}-{slug}-{{{{ .Input.body.sha | trunc 12 }}}}-{{{{ .Input.body.attempt }}}}",
                labels,
                "body.sha",
                "body.delivery",
                constant,
                {name: f"body.{name}" for name in ("sha", "attempt", "delivery", *extra)},
            )
    verify = _Sensor(templates["verify"])
    for suffix, dependency, delivery in (
        ("", pushed("push", platform.releases, "main"), pushed_delivery),
        ("-missed", _missed("missed", platform.releases, "main"), "body.delivery"),
    ):
        verify.add(
            f"verify{suffix}",
            dependency,
            "verify-{{ .Input.body.after | trunc 12 }}",
            {},
            "body.after",
            delivery,
            {"repo": platform.releases},
            {"before": "body.before", "commit": "body.after", "delivery": delivery},
        )
    return [sensor.manifest() for sensor in (ci, ct, release, verify)]


class _Sensor:
    """Collects the dependencies and triggers of the Sensor that starts one WorkflowTemplate."""

    def __init__(self, template: WorkflowTemplate) -> None:
        body: Any = template.to_dict()
        self.pipeline: str = body["metadata"]["name"]
        self.namespace: str = body["metadata"]["namespace"]
        self.declared = {entry["name"]: "value" in entry for entry in body["spec"]["arguments"]["parameters"]}
        self.dependencies: list[Manifest] = []
        self.triggers: list[Manifest] = []

    def add(
        self,
        name: str,
        dependency: Manifest,
        workflow: str,
        labels: dict[str, str],
        sha: str,
        delivery: str,
        constant: dict[str, str],
        taken: dict[str, str],
    ) -> None:
        """One dependency and the trigger it fires. Raises ValueError if an argument is not the template's, or one is
        missing.
        """
        given = {*constant, *taken}
        odd = given - set(self.declared)
        missing = {key for key, optional in self.declared.items() if not optional} - given
        if odd or missing:
            raise ValueError(
                f"trigger {name}: template {self.pipeline} declares no {odd or '-'}, and needs {missing or '-'}"
            )
        source = dependency["name"]

        def parameter(dest: str, **src: str) -> Manifest:
            return {"src": {"dependencyName": source, **src}, "dest": dest}

        resource = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "namespace": self.namespace,
                "labels": {"trainyard/pipeline": self.pipeline, **labels},
                "annotations": {"trainyard/repo": constant["repo"]},
            },
            "spec": {
                "workflowTemplateRef": {"name": self.pipeline},
                "arguments": {
                    "parameters": [
                        *({"name": key, "value": value} for key, value in constant.items()),
                        *({"name": key, "value": ""} for key in taken),
                    ]
                },
            },
        }
        self.dependencies.append(dependency)
        self.triggers.append(
            {
                "template": {
                    "name": name,
                    "conditions": source,
                    "k8s": {
                        "operation": "create",
                        "source": {"resource": resource},
                        "parameters": [
                            parameter("metadata.name", dataTemplate=workflow),
                            parameter("metadata.labels.trainyard/sha", dataKey=sha),
                            parameter("metadata.annotations.trainyard/delivery", dataKey=delivery),
                            *(
                                parameter(f'spec.arguments.parameters.#(name=="{key}").value', dataKey=path)
                                for key, path in taken.items()
                            ),
                        ],
                    },
                }
            }
        )

    def manifest(self) -> Manifest:
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Sensor",
            "metadata": {"name": self.pipeline, "namespace": NAMESPACE},
            "spec": {
                "eventBusName": "default",
                "template": _template("sensor"),
                "dependencies": self.dependencies,
                "triggers": self.triggers,
            },
        }


def _from_github(name: str, repo: str, branch: str) -> Manifest:
    filters = [("body.X-GitHub-Event", "push"), *_push("body.repository.full_name", repo, branch)]
    return _dependency(name, "github", "push", filters, [NOT_DELETED])


def _from_gitlab(name: str, repo: str, branch: str) -> Manifest:
    """Also of a tag, another event comes to the same address. A branch that was deleted is a push of nothing."""
    filters = [("body.object_kind", "push"), *_push("body.project.path_with_namespace", repo, branch)]
    something = {"path": "body.after", "type": "string", "value": ["^0*[1-9a-f][0-9a-f]*$"]}
    return _dependency(name, "gitlab", "push", filters, [something])


def _missed(name: str, repo: str, branch: str) -> Manifest:
    return _dependency(name, "stages", "push", _push("body.repository.full_name", repo, branch), [NOT_DELETED])


def _stage(name: str, event: str, service: Service) -> Manifest:
    return _dependency(name, "stages", event, [("body.service", service.name), ("body.repo", service.repo)])


def _push(path: str, repo: str, branch: str) -> list[tuple[str, str]]:
    return [(path, repo), ("body.ref", f"refs/heads/{branch}")]


def _dependency(
    name: str, source: str, event: str, equal: Sequence[tuple[str, str]], more: Sequence[Manifest] = ()
) -> Manifest:
    """Filter values are unanchored regular expressions, so each is written as `^…$`."""
    data = [*({"path": path, "type": "string", "value": [f"^{re.escape(text)}$"]} for path, text in equal), *more]
    return {"name": name, "eventSourceName": source, "eventName": event, "filters": {"data": data}}


# provider → what makes a dependency on a push, and where the delivery's id is. Both send `ref`, `before` and `after`
PUSHED = {
    "github": (_from_github, "body.X-GitHub-Delivery"),
    "gitlab": (_from_gitlab, "headers.X-Gitlab-Event-Uuid.0"),
}
NOT_DELETED: Manifest = {"path": "body.deleted", "type": "bool", "value": ["false"]}


def _slug(repo: str) -> str:
    """An owner/name as part of a Kubernetes name."""
    return re.sub(r"[^a-z0-9]+", "-", repo.lower()).strip("-")
