"""harbor: what only Harbor's API can set, made as it is wanted: projects, scan on push, retention, robot accounts, the
cache of Docker Hub, and the clean-up that frees the disk.

What is already so is left alone, so it may run at any time, and goes on where an earlier run broke off. The API is that
of Harbor 2.15, api/v2.0/swagger.yaml.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any, NamedTuple
from urllib.parse import quote

from pipelines.errors import Exit, YardError
from pipelines.steps._http import Response, send
from pipelines.steps._step import step

Body = dict[str, Any]

HUB = "hub"  # the project that caches Docker Hub: <host>/hub/library/python
HUB_REGISTRY: Body = {"name": "docker-hub", "type": "docker-hub", "url": "https://hub.docker.com"}
# cron with seconds, UTC: first the tags that nobody needs, then what no tag holds
RETENTION, CLEANUP = "0 0 1 * * *", "0 0 2 * * *"
KEEP_PUSHED, KEEP_PULLED_DAYS = 50, 90
FOREVER = -1


class Robot(NamedTuple):
    name: str
    secret: str
    access: dict[str, list[str]]  # project → what it may do with its repositories


@step
def harbor(*, url: str, project: str) -> None:
    """Raises YardError: UNAVAILABLE (not up yet), INVALID (a password, or a setting that Harbor refuses), CONFLICT."""
    api = Harbor(url, "admin", _env("HARBOR_ADMIN_PASSWORD"))
    api.project(project, {"public": "false", "auto_scan": "true"})
    api.retention(project)
    api.project(HUB, {"public": "false"}, registry=api.registry(HUB_REGISTRY))
    api.robot(Robot("push", _env("HARBOR_PUSH_SECRET"), {project: ["pull", "push"], HUB: ["pull"]}))
    api.robot(Robot("pull", _env("HARBOR_PULL_SECRET"), {project: ["pull"], HUB: ["pull"]}))
    api.cleanup()
    print(f"{url}: {api.changes or 'nothing'} changed")


class Harbor:
    """Harbor's API as one user; `changes` counts what was written."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self.changes = url, 0
        self._headers = {
            "Accept": "application/json",
            "Authorization": _basic(user, password),
            "X-Is-Resource-Name": "true",  # a project called 2024 is no number
        }

    def project(self, name: str, metadata: dict[str, str], registry: int | None = None) -> None:
        """There is a project of this name with (at least) this metadata; `registry` makes it a cache of that one."""
        found = self._find(f"/projects/{name}")
        if found is None:
            body: Body = {"project_name": name, "metadata": metadata}
            self._write("POST", "/projects", body if registry is None else body | {"registry_id": registry})
            return
        if (found.get("registry_id") or None) != registry:
            what = f"project {name} is {'no' if registry else 'a'} cache of another registry, and cannot become one"
            raise YardError(what, where=self.url, todo="delete it if it is empty, or rename it", code=Exit.CONFLICT)
        if metadata.items() - found["metadata"].items():
            self._write("PUT", f"/projects/{name}", {"metadata": metadata})

    def retention(self, name: str) -> None:
        """Tags of a project that are neither young nor in use are deleted, once a day."""
        found = self._get(f"/projects/{name}")
        policy = _policy(found["project_id"])
        number = found["metadata"].get("retention_id")
        if not number:
            self._write("POST", "/retentions", policy)
        elif not _holds(self._get(f"/retentions/{number}"), policy):
            self._write("PUT", f"/retentions/{number}", policy | {"id": int(number)})

    def registry(self, wanted: Body) -> int:
        """The id of another registry that a project may be a cache of."""
        found = self._registry(wanted["name"])
        if found is None:
            self._write("POST", "/registries", wanted)
            found = self._registry(wanted["name"])
        elif not _holds(found, wanted):
            if found["type"] != wanted["type"]:
                what = f"registry {wanted['name']} is of type {found['type']}, not {wanted['type']}"
                raise YardError(what, where=self.url, todo="delete it, and try again", code=Exit.CONFLICT)
            self._write("PUT", f"/registries/{found['id']}", {"name": wanted["name"], "url": wanted["url"]})
        if found is None:
            raise YardError(f"registry {wanted['name']} was made and is not there", where=self.url, code=Exit.CONFLICT)
        return int(found["id"])

    def robot(self, robot: Robot) -> None:
        """There is an account of this name with this password and these rights, and no others."""
        wanted: Body = {
            "name": robot.name,
            "level": "system",
            "duration": FOREVER,
            "disable": False,
            "description": "trainyard: its password is the Secret's",
            "permissions": [
                {
                    "kind": "project",
                    "namespace": project,
                    "access": [{"resource": "repository", "action": action} for action in actions],
                }
                for project, actions in robot.access.items()
            ],
        }
        full = f"robot${robot.name}"
        found = self._robot(full)
        if found is None:
            self._write("POST", "/robots", wanted)
            found = self._robot(full)
        elif found["disable"] or found["duration"] != FOREVER or _rights(found) != _rights(wanted):
            self._write("PUT", f"/robots/{found['id']}", wanted | {"id": found["id"], "name": full})
        if found is None:
            raise YardError(f"{full} was made and is not there", where=self.url, code=Exit.CONFLICT)
        if not self._logs_in(full, robot.secret):
            self._write("PATCH", f"/robots/{found['id']}", {"secret": robot.secret})

    def cleanup(self) -> None:
        """What no tag and no other image holds leaves the disk, each night."""
        found = self._find("/system/gc/schedule") or {}
        wanted = {"schedule": {"type": "Custom", "cron": CLEANUP}, "parameters": {"delete_untagged": False}}
        if not (found.get("schedule") or {}).get("cron"):
            self._write("POST", "/system/gc/schedule", wanted)
        elif found["schedule"]["cron"] != CLEANUP:
            self._write("PUT", "/system/gc/schedule", wanted)

    def _registry(self, name: str) -> Body | None:
        entries: list[Body] = self._get(f"/registries?q={quote(f'name={name}')}") or []
        return next((entry for entry in entries if entry["name"] == name), None)

    def _robot(self, name: str) -> Body | None:
        entries: list[Body] = self._get("/robots?page_size=100") or []
        return next((entry for entry in entries if entry["name"] == name), None)

    def _logs_in(self, user: str, password: str) -> bool:
        """Harbor shows no password, but it says whether one is right."""
        headers = {"Authorization": _basic(user, password)}
        return send("GET", f"{self.url}/service/token?service=harbor-registry", headers=headers).status == 200

    def _get(self, path: str) -> Any:
        found = self._find(path)
        if found is None:
            raise YardError("not there", where=f"{self.url}/api/v2.0{path}", code=Exit.NOT_FOUND)
        return found

    def _find(self, path: str) -> Any:
        answer = self._ask("GET", path, None)
        return None if answer.status == 404 else answer.json() if answer.body.strip() else {}

    def _write(self, method: str, path: str, body: Body) -> None:
        if self._ask(method, path, body).status == 404:
            raise YardError("not there", where=f"{self.url}/api/v2.0{path}", code=Exit.NOT_FOUND)
        self.changes += 1
        print(f"{method} {path}")

    def _ask(self, method: str, path: str, body: Body | None) -> Response:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else {**self._headers, "Content-Type": "application/json"}
        answer = send(method, f"{self.url}/api/v2.0{path}", data, headers)
        if answer.status < 300 or answer.status == 404:
            return answer
        where, said = f"{method} {self.url}/api/v2.0{path}", answer.text()
        if answer.status == 401:
            todo = "somebody changed the password of `admin` in Harbor: set it back, or put the new one into the Secret"
            raise YardError("Harbor refuses the password", where=where, todo=todo)
        if answer.status == 409:  # somebody made it between our look and this
            raise YardError(said, where=where, todo="try again", code=Exit.UNAVAILABLE)
        raise YardError(f"HTTP {answer.status} {said}", where=where)


def _policy(project: int) -> Body:
    """Kept are the newest, and what was pulled lately. Rules are alternatives: what one of them keeps is kept."""
    everything = {
        "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}],
        "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]},
    }
    rules = {"latestPushedK": KEEP_PUSHED, "nDaysSinceLastPull": KEEP_PULLED_DAYS}
    return {
        "algorithm": "or",
        "scope": {"level": "project", "ref": project},
        "trigger": {"kind": "Schedule", "settings": {"cron": RETENTION}},
        "rules": [
            {"action": "retain", "disabled": False, "template": name, "params": {name: number}, **everything}
            for name, number in rules.items()
        ],
    }


def _holds(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; Harbor adds ids, times and defaults."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_holds(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_holds, found, wanted))
    return bool(found == wanted)


def _rights(robot: Body) -> set[tuple[str, str, str]]:
    return {
        (permission["namespace"], access["resource"], access["action"])
        for permission in robot.get("permissions") or []
        for access in permission["access"]
    }


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _env(name: str) -> str:
    found = os.environ.get(name, "")
    if not found:
        raise YardError(f"{name} is not set", todo="it comes from a Secret of namespace harbor (docs/secrets.md)")
    return found
