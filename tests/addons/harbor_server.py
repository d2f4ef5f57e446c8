"""The part of Harbor's API that the step `harbor` speaks, as api/v2.0/swagger.yaml and Harbor's handlers have it: what
they refuse is refused here, and what they add to an answer is added.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Body = dict[str, Any]
STRONG = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d).{8,128}")


class Harbor:
    """`log` has every request that changed something; `refuse` may answer a request in place of Harbor."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.projects: dict[str, Body] = {}
        self.registries: dict[int, Body] = {}
        self.retentions: dict[int, Body] = {}
        self.robots: dict[int, Body] = {}
        self.passwords: dict[str, str] = {}
        self.cleanup: Body | None = None
        self.log: list[str] = []
        self.refuse: Callable[[str, str], Response | None] = lambda method, path: None
        self.app = Starlette(
            routes=[
                Route("/service/token", self._token),
                Route("/api/v2.0/{path:path}", self._api, methods=["GET", "POST", "PUT", "PATCH"]),
            ]
        )

    async def _token(self, request: Request) -> Response:
        user, password = _login(request)
        good = user in self.passwords and self.passwords[user] == password
        return JSONResponse({"token": "t"}) if good else _error(401, "UNAUTHORIZED")

    async def _api(self, request: Request) -> Response:
        path, method = f"/{request.path_params['path']}", request.method
        if refused := self.refuse(method, path):
            return refused
        if _login(request) != ("admin", self.password):
            return _error(401, "UNAUTHORIZED")
        body = await request.json() if await request.body() else {}
        collection, _, rest = path.lstrip("/").partition("/")
        answer: Response = getattr(self, f"_{collection}")(method, rest, body, request)
        if method != "GET" and answer.status_code < 300:
            self.log.append(f"{method} {path}")
        return answer

    def _projects(self, method: str, name: str, body: Body, request: Request) -> Response:
        if method == "POST":
            if body["project_name"] in self.projects:
                return _error(409, "CONFLICT")
            registry = body.get("registry_id")
            if registry is not None and registry not in self.registries:
                return _error(404, "NOT_FOUND")
            made = {"project_id": len(self.projects) + 1, "name": body["project_name"], "registry_id": registry or 0}
            self.projects[body["project_name"]] = {**made, "metadata": dict(body["metadata"])}
            return Response(status_code=201)
        if name not in self.projects:
            return _error(404, "NOT_FOUND")
        if method == "PUT":
            self.projects[name]["metadata"] |= body["metadata"]
            return Response()
        return JSONResponse(self.projects[name])

    def _registries(self, method: str, number: str, body: Body, request: Request) -> Response:
        if method == "POST":
            if any(entry["name"] == body["name"] for entry in self.registries.values()):
                return _error(409, "CONFLICT")
            made = {"id": len(self.registries) + 1, "insecure": False, "status": "healthy", **body}
            self.registries[made["id"]] = made
            return Response(status_code=201)
        if method == "PUT":
            self.registries[int(number)] |= body
            return Response()
        name = request.query_params.get("q", "").removeprefix("name=")
        return JSONResponse([entry for entry in self.registries.values() if entry["name"] == name])

    def _retentions(self, method: str, number: str, body: Body, request: Request) -> Response:
        if method == "GET":
            return JSONResponse(self.retentions[int(number)])
        project = next((p for p in self.projects.values() if p["project_id"] == body["scope"]["ref"]), None)
        if project is None:
            return _error(400, "invalid Project id")
        if method == "POST":
            if "retention_id" in project["metadata"]:
                return _error(400, "already has retention policy")
            number = str(len(self.retentions) + 1)
            project["metadata"]["retention_id"] = number
        rules = [{**rule, "id": index, "priority": 0} for index, rule in enumerate(body["rules"])]
        self.retentions[int(number)] = {**body, "id": int(number), "rules": rules}
        return Response(status_code=201 if method == "POST" else 200)

    def _robots(self, method: str, number: str, body: Body, request: Request) -> Response:
        if method == "GET":
            return JSONResponse(list(self.robots.values()))
        if method == "PATCH":
            if not STRONG.fullmatch(body["secret"]):
                return _error(400, "the secret must be 8-128, inclusively, characters long with at least 1 uppercase …")
            self.passwords[self.robots[int(number)]["name"]] = body["secret"]
            return Response()
        if any(p["namespace"] not in self.projects for p in body["permissions"]):
            return _error(404, "NOT_FOUND")
        if method == "PUT":
            robot = self.robots[int(number)]
            if (body["level"], body["name"]) != (robot["level"], robot["name"]):
                return _error(400, "cannot update the level or name of robot")
            robot |= body
            return Response()
        if not re.fullmatch(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", body["name"]):
            return _error(400, "robot name is not in lower case or contains illegal characters")
        name, number = f"robot${body['name']}", str(len(self.robots) + 1)
        if any(robot["name"] == name for robot in self.robots.values()):
            return _error(409, "CONFLICT")
        made = {**body, "name": name, "id": int(number), "editable": True, "disable": False, "expires_at": -1}
        self.robots[int(number)] = made
        self.passwords[name] = "Harbor-made-1"
        return JSONResponse({"id": int(number), "name": name, "secret": "Harbor-made-1"}, 201)

    def _system(self, method: str, path: str, body: Body, request: Request) -> Response:
        if method == "GET":
            return Response() if self.cleanup is None else JSONResponse(self.cleanup)
        if method == "POST" and self.cleanup is not None:
            return _error(409, "CONFLICT")
        self.cleanup = {"id": 1, "schedule": body["schedule"], "job_parameters": "{}"}
        return Response(status_code=201 if method == "POST" else 200)


def _login(request: Request) -> tuple[str, str]:
    text = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
    return text.partition(":")[0], text.partition(":")[2]


def _error(status: int, message: str) -> Response:
    return JSONResponse({"errors": [{"code": message, "message": message}]}, status)
