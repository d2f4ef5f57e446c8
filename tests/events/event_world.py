"""A bus with the EventSources and the Sensor of a small platform, driven without a server."""

import asyncio
import copy
import hashlib
import hmac
import json
from typing import Any

import httpx

from solo import events
from solo.store import Store

SECRET, TOKEN = "hook-secret", "stage-token"
SHA = "0123456789abcdef0123456789abcdef01234567"
NAMESPACE = "argo-events"

GITHUB = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "EventSource",
    "metadata": {"name": "github", "namespace": NAMESPACE},
    "spec": {
        "github": {
            "push": {
                "webhook": {"port": "12000", "endpoint": "/push", "method": "POST"},
                "repositories": [{"owner": "acme", "names": ["digits"]}],
                "events": ["push"],
                "contentType": "json",
                "active": True,
                "webhookSecret": {"name": "github-webhook", "key": "secret"},
            }
        }
    },
}
STAGES = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "EventSource",
    "metadata": {"name": "stages", "namespace": NAMESPACE},
    "spec": {
        "webhook": {
            "push": {
                "port": "12001",
                "endpoint": "/missed",
                "method": "POST",
                "maxPayloadSize": 4096,
                "authSecret": {"name": "stages-token", "key": "token"},
            }
        }
    },
}


def dependency(name: str, source: str, event: str, more: list[dict[str, Any]]) -> dict[str, Any]:
    data = [
        {"path": "body.repository.full_name", "type": "string", "value": ["^acme/digits$"]},
        {"path": "body.ref", "type": "string", "value": ["^refs/heads/main$"]},
        {"path": "body.deleted", "type": "bool", "value": ["false"]},
        *more,
    ]
    return {"name": name, "eventSourceName": source, "eventName": event, "filters": {"data": data}}


def parameters(name: str, delivery: str) -> list[dict[str, Any]]:
    template = 'ci-{{ .Input.body.repository.full_name | lower | replace "/" "-" }}-{{ .Input.body.after | trunc 12 }}'
    return [
        {"src": {"dependencyName": name, "dataTemplate": template}, "dest": "metadata.name"},
        {"src": {"dependencyName": name, "dataKey": "body.after"}, "dest": "metadata.labels.trainyard/sha"},
        {"src": {"dependencyName": name, "dataKey": delivery}, "dest": "metadata.annotations.trainyard/delivery"},
        {
            "src": {"dependencyName": name, "dataKey": "body.after"},
            "dest": 'spec.arguments.parameters.#(name=="sha").value',
        },
    ]


SENSOR = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Sensor",
    "metadata": {"name": "ci", "namespace": NAMESPACE},
    "spec": {
        "template": {"serviceAccountName": "sensor"},
        "dependencies": [
            dependency(
                "pushed", "github", "push", [{"path": "body.X-GitHub-Event", "type": "string", "value": ["^push$"]}]
            ),
            dependency("missed", "stages", "push", []),
        ],
        "triggers": [
            {
                "template": {
                    "name": "ci",
                    "conditions": "pushed || missed",
                    "k8s": {
                        "operation": "create",
                        "source": {
                            "resource": {
                                "apiVersion": "argoproj.io/v1alpha1",
                                "kind": "Workflow",
                                "metadata": {"namespace": "mlops", "labels": {"trainyard/pipeline": "ci"}},
                                "spec": {
                                    "workflowTemplateRef": {"name": "ci"},
                                    "arguments": {
                                        "parameters": [
                                            {"name": "repo", "value": "acme/digits"},
                                            {"name": "sha", "value": ""},
                                        ]
                                    },
                                },
                            }
                        },
                        "parameters": [
                            *parameters("pushed", "body.X-GitHub-Delivery"),
                            *parameters("missed", "body.delivery"),
                        ],
                    },
                }
            }
        ],
    },
}


def push(**fields: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": "f" * 40,
        "after": SHA,
        "created": False,
        "deleted": False,
        "forced": False,
        "repository": {"full_name": "acme/digits"},
        **fields,
    }


class World:
    """`create` is what creates Workflows; a test may replace it."""

    def __init__(self, path: Any = ":memory:") -> None:
        self.path = path
        self.store = Store(path)
        if self.store.find("Sensor", NAMESPACE, "ci") is None:
            for obj in (GITHUB, STAGES, SENSOR):
                self.store.create(copy.deepcopy(obj))
            for name, key, value in (("github-webhook", "secret", SECRET), ("stages-token", "token", TOKEN + "\n")):
                meta = {"name": name, "namespace": NAMESPACE}
                self.store.create({"kind": "Secret", "metadata": meta, "stringData": {key: value}})
        self.create: Any = self.store.create
        self.bus = events.Bus(self.store, lambda workflow: self.create(workflow))
        self.apps = events.apps(self.store, self.bus)

    def request(self, url: str, content: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> int:
        return self.requests([(url, content, headers or {})], method)[0]

    def requests(self, wanted: list[tuple[str, bytes, dict[str, str]]], method: str = "POST") -> list[int]:
        async def send(url: str, content: bytes, headers: dict[str, str]) -> int:
            target = httpx.URL(url)
            transport = httpx.ASGITransport(self.apps[target.port or 0])
            async with httpx.AsyncClient(transport=transport) as client:
                return (await client.request(method, target, content=content, headers=headers)).status_code

        async def main() -> list[int]:
            return list(await asyncio.gather(*(send(*one) for one in wanted)))

        return asyncio.run(main())

    def push(self, payload: Any = None, *, delivery: str = "d-1", secret: str = SECRET, **headers: str) -> int:
        return self.request(
            "http://solo:12000/push", *signed(push() if payload is None else payload, delivery, secret, headers)
        )

    def hand_out(self) -> None:
        while self.bus.step():
            pass

    def workflows(self) -> list[dict[str, Any]]:
        return self.store.list("Workflow")

    def last(self) -> dict[str, Any]:
        return events.history(self.store)[0]

    def why_not(self) -> list[str]:
        """What the filters that said no asked for, in the last event."""
        return [f["asked"] for verdict in self.last()["sensors"] for f in verdict["filters"] if not f["passed"]]


def signed(
    payload: Any, delivery: str = "d-1", secret: str = SECRET, headers: dict[str, str] | None = None
) -> tuple[bytes, dict[str, str]]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return body, {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        **(headers or {}),
    }
