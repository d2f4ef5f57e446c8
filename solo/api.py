"""Solo's HTTP side: the Argo Server's HTTP/1 API for Workflows, and of the Kubernetes API what our steps read.

Source: argoproj/argo-workflows api/openapi-spec/swagger.json, v4.1.4 (paths, query parameters, bodies); errors in
grpc-gateway's shape.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from solo import workflows
from solo.pods.logs import log_lines
from solo.store import AlreadyExistsError, NotFoundError, Object, Store

VERSION = "v4.1.4"  # of the Argo Server whose API this is; clients compare it
KINDS = {  # what can be read of the Kubernetes API: plural → kind
    "applications": "Application",
    "appprojects": "AppProject",
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "pods": "Pod",
    "replicasets": "ReplicaSet",
    "services": "Service",
    "eventsources": "EventSource",
    "sensors": "Sensor",
    "workflows": "Workflow",
    "workflowtemplates": "WorkflowTemplate",
    "cronworkflows": "CronWorkflow",
}
CODES = {400: 3, 404: 5, 409: 6, 501: 12, 500: 13}
END = ("Succeeded", "Failed", "Error")


class Api:
    """The ASGI application over one store.

    `address` tells where a Service answers ("host:port"); `extra` are routes of the other parts.
    """

    def __init__(
        self,
        store: Store,
        home: Path,
        *,
        address: Callable[[str, str, int], str | None],
        extra: list[BaseRoute],
    ) -> None:
        self.store, self.home, self.address = store, home, address
        one = "/api/v1/workflows/{namespace}/{name}"
        self.app = Starlette(
            routes=[
                Route("/api/v1/info", self.info),
                Route("/api/v1/version", self.version),
                Route("/api/v1/workflows/{namespace}", self.create, methods=["POST"]),
                Route("/api/v1/workflows/{namespace}/submit", self.submit, methods=["POST"]),
                Route("/api/v1/workflows/{namespace}", self.listing("Workflow")),
                Route("/api/v1/workflows/", self.listing("Workflow")),
                Route(one, self.getting("Workflow")),
                Route(one, self.delete, methods=["DELETE"]),
                Route(one + "/log", self.log),
                Route("/api/v1/workflows/{namespace}/{name}/{pod}/log", self.log),
                Route(one + "/{verb:str}", self.act, methods=["PUT"]),
                Route("/api/v1/workflow-events/{namespace}", self.watch),
                Route("/api/v1/workflow-events/", self.watch),
                Route("/api/v1/workflow-templates/{namespace}", self.create_template, methods=["POST"]),
                Route("/api/v1/workflow-templates/{namespace}", self.listing("WorkflowTemplate")),
                Route("/api/v1/workflow-templates/{namespace}/{name}", self.delete_template, methods=["DELETE"]),
                Route("/api/v1/workflow-templates/{namespace}/{name}", self.getting("WorkflowTemplate")),
                Route("/api/v1/cron-workflows/{namespace}", self.listing("CronWorkflow")),
                Route("/api/v1/cron-workflows/{namespace}/{name}", self.getting("CronWorkflow")),
                Route("/services/{namespace}/{name}", self.service, methods=["GET", "POST"]),
                Route("/services/{namespace}/{name}/{path:path}", self.service, methods=["GET", "POST"]),
                *(
                    route
                    for base in ("/api/v1", "/apis/{group}/{version}")
                    for route in (
                        Route(base + "/namespaces/{namespace}/{plural}", self.kube_list),
                        Route(base + "/namespaces/{namespace}/{plural}/{name}", self.kube_get),
                    )
                ),
                *extra,
            ],
            # a page in the user's browser that resolves its own name to loopback is turned away
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
            exception_handlers={HTTPException: _failure, Exception: _failure},
        )

    async def info(self, request: Request) -> Response:
        return JSONResponse({"managedNamespace": "", "links": [], "modals": {}, "navColor": ""})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION, "platform": "solo"})

    async def create(self, request: Request) -> Response:
        workflow = await _given(request, "workflow")
        with _refusals():
            return JSONResponse(workflows.submit(self.store, workflow))

    async def create_template(self, request: Request) -> Response:
        template = await _given(request, "template")
        with _refusals():
            return JSONResponse(workflows.create_template(self.store, template))

    async def delete_template(self, request: Request) -> Response:
        with _refusals():
            workflows.delete_template(self.store, request.path_params["namespace"], request.path_params["name"])
        return JSONResponse({})

    async def submit(self, request: Request) -> Response:
        body = await _body(request)
        options = body.get("submitOptions") or {}
        odd = set(options) - {"name", "generateName", "parameters", "labels", "annotations", "entryPoint"}
        if odd or options.get("entryPoint"):
            raise HTTPException(501, f"submitOptions.{', '.join(sorted(odd)) or 'entryPoint'} is not supported by solo")
        with _refusals():
            return JSONResponse(
                workflows.submit_from(
                    self.store,
                    str(body.get("resourceKind", "")),
                    request.path_params["namespace"],
                    str(body.get("resourceName", "")),
                    parameters=dict(_pair(text) for text in options.get("parameters") or []),
                    labels=dict(_pair(text) for text in (options.get("labels") or "").split(",") if text),
                    annotations=dict(_pair(text) for text in (options.get("annotations") or "").split(",") if text),
                    name=options.get("name") or None,
                    generate_name=options.get("generateName") or None,
                )
            )

    def listing(self, kind: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(self._list(kind, request))

        return endpoint

    def getting(self, kind: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(self._get(kind, request.path_params["namespace"], request.path_params["name"]))

        return endpoint

    async def delete(self, request: Request) -> Response:
        self._get("Workflow", request.path_params["namespace"], request.path_params["name"])
        with self.store.transaction():
            workflows.delete(self.store, request.path_params["namespace"], request.path_params["name"])
        return JSONResponse({})

    async def act(self, request: Request) -> Response:
        namespace, name, verb = (request.path_params[key] for key in ("namespace", "name", "verb"))
        verbs = {
            "stop": workflows.stop,
            "terminate": workflows.terminate,
            "suspend": workflows.suspend,
            "resume": workflows.resume,
        }
        if verb not in verbs:
            raise HTTPException(501, f"solo cannot {verb} a Workflow")
        self._get("Workflow", namespace, name)
        with _refusals():
            return JSONResponse(verbs[verb](self.store, namespace, name))

    async def watch(self, request: Request) -> Response:
        namespace = request.path_params.get("namespace")
        wanted = _selector(request.query_params.get("listOptions.labelSelector", ""))
        field = request.query_params.get("listOptions.fieldSelector", "")
        named = re.fullmatch(r"metadata\.name=(.+)", field)
        if field and not named:
            raise HTTPException(501, f"fieldSelector {field!r} is not supported by solo")

        def hit(obj: Object) -> bool:
            meta = obj["metadata"]
            labels = meta.get("labels") or {}
            return (
                namespace in (None, meta.get("namespace"))
                and (not named or meta["name"] == named[1])
                and all(labels.get(key) == value for key, value in wanted.items())
            )

        queue = self.store.subscribe("Workflow")

        async def events() -> AsyncIterator[str]:
            try:
                for obj in self.store.list("Workflow", namespace, wanted):
                    if hit(obj):
                        yield _event({"type": "ADDED", "object": obj})
                while True:
                    change = await queue.get()
                    if hit(change.object):
                        yield _event({"type": change.type, "object": change.object})
            finally:
                self.store.unsubscribe(queue)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def log(self, request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        query = request.query_params
        pod = request.path_params.get("pod") or query.get("podName") or ""
        container = query.get("logOptions.container") or "main"
        follow = query.get("logOptions.follow") == "true"
        self._get("Workflow", namespace, name)

        async def lines() -> AsyncIterator[str]:
            async for entry in self._log(namespace, name, pod, container, follow):
                yield _event(entry) if "text/event-stream" in request.headers.get("accept", "") else _line(entry)

        return StreamingResponse(lines(), media_type="application/json")

    async def _log(
        self, namespace: str, name: str, pod: str, container: str, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Each pod's lines, pod by pod in the order of their starts; with `follow` until the Workflow has ended."""
        queue = self.store.subscribe("Workflow")
        try:
            done: set[str] = set()
            while True:
                workflow = self.store.find("Workflow", namespace, name)
                pods = [
                    obj
                    for obj in self.store.list("Pod", namespace)
                    if any(owner["name"] == name for owner in obj["metadata"].get("ownerReferences", []))
                    and pod in ("", obj["metadata"]["name"])
                    and obj["metadata"]["uid"] not in done
                ]
                for obj in sorted(pods, key=lambda obj: int(obj["metadata"]["resourceVersion"])):
                    uid, pod_name = obj["metadata"]["uid"], obj["metadata"]["name"]
                    done.add(uid)
                    async for line in log_lines(self.home, uid, container, follow=follow):
                        yield {"content": line, "podName": pod_name}
                ended = workflow is None or workflow.get("status", {}).get("phase") in END
                if pods:
                    continue
                if not follow or ended:
                    return
                await queue.get()
        finally:
            self.store.unsubscribe(queue)

    async def service(self, request: Request) -> Response:
        """Where a Service answers: a redirect, so that one address in `endpoints` can name every service."""
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        service = self._get("Service", namespace, name)
        address = self.address(namespace, name, int(service["spec"]["ports"][0]["port"]))
        if address is None:
            raise HTTPException(503, f"service {namespace}/{name} has no address yet")
        return RedirectResponse(f"http://{address}/{request.path_params.get('path', '')}".rstrip("/"), 307)

    async def kube_list(self, request: Request) -> Response:
        return JSONResponse({"apiVersion": "v1", **self._list(self._kind(request), request)})

    async def kube_get(self, request: Request) -> Response:
        return JSONResponse(
            self._get(self._kind(request), request.path_params["namespace"], request.path_params["name"])
        )

    def _kind(self, request: Request) -> str:
        plural = request.path_params["plural"]
        if plural not in KINDS:
            raise HTTPException(501, f"solo does not serve {plural!r}; it serves {', '.join(KINDS)}")
        return KINDS[plural]

    def _list(self, kind: str, request: Request) -> Object:
        wanted = _selector(
            request.query_params.get("listOptions.labelSelector") or request.query_params.get("labelSelector") or ""
        )
        items = self.store.list(kind, request.path_params.get("namespace") or None, wanted)
        items.sort(key=lambda obj: (obj["metadata"]["creationTimestamp"], obj["metadata"]["name"]), reverse=True)
        return {"kind": f"{kind}List", "metadata": {"resourceVersion": ""}, "items": items}

    def _get(self, kind: str, namespace: str, name: str) -> Object:
        try:
            return self.store.get(kind, namespace, name)
        except NotFoundError as error:
            raise HTTPException(404, str(error)) from None


@contextlib.contextmanager
def _refusals() -> Any:
    try:
        yield
    except AlreadyExistsError as error:
        raise HTTPException(409, str(error)) from None
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from None
    except (workflows.ValidationError, ValueError) as error:
        raise HTTPException(400, str(error)) from None


async def _failure(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else f"{type(error).__name__}: {error}"
    return JSONResponse({"code": CODES.get(status, 2), "message": detail}, status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not an object")
    return body


async def _given(request: Request, key: str) -> Object:
    """The object of a create request, in the namespace that the path names."""
    found = (await _body(request)).get(key)
    if not isinstance(found, dict):
        raise HTTPException(400, f"the body has no `{key}`")
    found.setdefault("metadata", {})["namespace"] = request.path_params["namespace"]
    return found


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise HTTPException(400, f"expected parameter of the form: NAME=VALUE. Received: {text}")
    return key, value


def _selector(text: str) -> Mapping[str, str]:
    if not all(re.fullmatch(r"[\w./-]+==?[\w.-]*", part) for part in filter(None, text.split(","))):
        raise HTTPException(501, f"labelSelector {text!r}: solo takes key=value, separated by commas")
    return {key: value.lstrip("=") for key, _, value in (part.partition("=") for part in text.split(",") if part)}


def _event(result: Any) -> str:
    return f"data: {json.dumps({'result': result})}\n\n"


def _line(result: Any) -> str:
    return json.dumps({"result": result}) + "\n"
