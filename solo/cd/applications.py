"""Argo CD's application controller: what a commit says is compared with what is there, and made so in one transaction.

A revision that cannot be read or is not allowed changes nothing but the Application's status. The words in the status
are Argo CD's own, so that whoever waits for a release reads the same on a cluster.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from solo.cd import directory, kinds, projects, sync
from solo.cd.git import Mirror, SourceError
from solo.cd.kinds import KINDS
from solo.cd.look import Look, Target, live_objects
from solo.cd.problems import Problem
from solo.cd.spec import FINALIZER, NAMESPACE, check, path_of, pause
from solo.cd.work import Work, following
from solo.store import Change, Object, Store, now

REFRESH = 180.0  # seconds, as Argo CD's timeout.reconciliation
MAX_PAYLOAD = 25 * 1024 * 1024  # GitHub's own limit
MAX_PROBLEMS = 10


def delete(store: Store, name: str) -> None:
    """Delete an Application and, if it has Argo CD's finalizer, all that it manages. Raises NotFoundError."""
    with store.transaction():
        app = store.get("Application", NAMESPACE, name)
        if any(finalizer.startswith(FINALIZER) for finalizer in app["metadata"].get("finalizers", [])):
            for key, obj in live_objects(store).items():
                if sync.is_tracked(obj, name):
                    store.delete(*key)
        store.delete("Application", NAMESPACE, name)


class Applications:
    """`resolve` says where a `repoURL` is read from; `check` finds more (field, message) problems in each manifest;
    `prepare` is given what Git says before any of it is applied, in the same transaction.
    """

    def __init__(
        self,
        store: Store,
        home: Path,
        *,
        resolve: Callable[[str], str] = lambda url: url,
        check: Callable[[Object], Iterable[tuple[str, str]]] = lambda obj: (),
        prepare: Callable[[Sequence[Object]], None] = lambda objects: None,
    ) -> None:
        self._store, self._home = store, home / "cd"
        self._resolve, self._check, self._before = resolve, check, prepare
        self._work: Work[str] = Work()
        self._states: dict[str, _State] = {}
        self._mirrors: dict[str, Mirror] = {}

    async def run(self) -> None:
        """Until cancelled."""
        handlers = dict.fromkeys(KINDS, self._on_object)
        async with following(self._store, handlers | {"Application": self._on_app, "AppProject": self._on_project}):
            self._add_all()
            await self._work.run(self._look, workers=4)

    def routes(self, secret: str) -> list[Route]:
        """Argo CD's webhook endpoint, for deliveries that GitHub signs with `secret`."""

        async def receive(request: Request) -> Response:
            return await self._receive(request, secret.encode())

        return [Route("/api/webhook", receive, methods=["POST"])]

    async def webhook(self, payload: Mapping[str, Any]) -> list[str]:
        """A push, as GitHub tells it: the Applications that read that repository, which are now looked at."""
        repository = payload.get("repository")
        told = repository if isinstance(repository, dict) else {}
        names = {_repository(str(told.get(key, ""))) for key in ("full_name", "clone_url", "html_url")} - {""}
        apps = []
        for app in self._store.list("Application", NAMESPACE):
            if check(app):
                continue
            url = app["spec"]["source"]["repoURL"]
            if names & {_repository(url), _repository(self._resolve(url))}:
                apps.append(app["metadata"]["name"])
                self._refresh(app["metadata"]["name"])
        return apps

    def _refresh(self, name: str) -> None:
        """Look at Git again as soon as possible."""
        self._states.setdefault(name, _State()).refresh_at = 0.0
        self._work.add(name)

    async def _look(self, name: str) -> None:
        clock = asyncio.get_running_loop().time
        app = self._store.find("Application", NAMESPACE, name)
        if app is None:
            self._states.pop(name, None)
            self._work.add_later(name, None)
            return
        state = self._states.setdefault(name, _State())
        spec, invalid = app.get("spec", {}), self._invalid(app)
        refresh = not invalid and (clock() >= state.refresh_at or state.spec != spec)
        if refresh:
            # set before reading: a push that arrives meanwhile makes us read again
            state.refresh_at = clock() + REFRESH
            state.spec = spec
            try:
                state.target, state.tries = await self._load(app), 0
            except SourceError as error:
                state.target = error
                if error.again and (wait := pause(spec, state.tries)) is not None:
                    state.tries += 1
                    state.refresh_at = min(state.refresh_at, clock() + wait)
                else:
                    state.tries = 0
        wake = state.refresh_at - clock() if not invalid else None
        with self._store.transaction():
            app = self._store.find("Application", NAMESPACE, name)
            if app is None or app.get("spec", {}) != spec:
                self._work.add(name)
                return
            if refresh and isinstance(state.target, Target):
                self._before(state.target.objects)
            before = copy.deepcopy(app)
            look = Look(self._store, app, list(self._invalid(app)), state.target)
            look.take()
            if refresh:
                app["status"]["reconciledAt"] = now()
            if app != before:
                self._store.update(app)
        self._work.add_later(name, min((w for w in (wake, look.wake) if w is not None), default=None))

    def _invalid(self, app: Object) -> list[str]:
        """Why the Application itself cannot be followed."""
        if problems := check(app):
            return [f"{problem.field}: {problem.message}" for problem in problems]
        project = self._store.find("AppProject", NAMESPACE, app["spec"]["project"])
        if project is None:
            return [f"Application referencing project {app['spec']['project']} which does not exist"]
        if problems := check(project):
            return [f"project {app['spec']['project']}: {problem.field}: {problem.message}" for problem in problems]
        return list(projects.refusals(project, app))

    async def _load(self, app: Object) -> Target:
        """What Git says now. Raises SourceError."""
        source, namespace = app["spec"]["source"], app["spec"]["destination"]["namespace"]
        url, path = self._resolve(source["repoURL"]), path_of(source["path"]) or "."
        mirror = self._mirrors.setdefault(url, Mirror(self._home, url))
        revision = await mirror.fetch(source.get("targetRevision") or "HEAD")
        entries = await mirror.tree(revision, path, recurse=source.get("directory", {}).get("recurse", False))
        files = await mirror.read(directory.select(entries, path))
        return Target(revision, self._prepare(directory.render(files), namespace))

    def _prepare(self, manifests: Sequence[directory.Manifest], namespace: str) -> list[Object]:
        """The objects as the API server would keep them, in their namespaces. Raises SourceError with file:line."""
        problems: list[str] = []
        places: dict[sync.Key, str] = {}
        objects = []
        for manifest in manifests:
            obj = _without_nulls(manifest.object)
            found = kinds.check(obj) or [Problem(*problem) for problem in self._check(obj)]
            problems += [f"{manifest.place(field)}: {field}: {message}" for field, message in found]
            if found:
                continue
            obj["metadata"].setdefault("namespace", namespace)
            if not KINDS[obj["kind"]].namespaced:
                obj["metadata"]["namespace"] = ""
            key, place = sync.key_of(obj), manifest.place("")
            if key in places:
                problems.append(f"{place}: {obj['kind']} {key[2]!r} is in {places[key]} already")
            places[key] = place
            objects.append(obj)
        if problems:
            more = len(problems) - MAX_PROBLEMS
            raise SourceError("\n".join(problems[:MAX_PROBLEMS] + ([f"… and {more} more"] if more > 0 else [])))
        return objects

    def _add_all(self) -> None:
        for app in self._store.list("Application", NAMESPACE):
            self._work.add(app["metadata"]["name"])

    def _on_app(self, change: Change) -> None:
        if change.object["metadata"]["namespace"] == NAMESPACE:
            self._work.add(change.object["metadata"]["name"])

    def _on_project(self, change: Change) -> None:
        self._add_all()

    def _on_object(self, change: Change) -> None:
        if app := sync.tracker(change.object):
            self._work.add(app)

    async def _receive(self, request: Request, secret: bytes) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_PAYLOAD:
                return PlainTextResponse(f"the payload is larger than {MAX_PAYLOAD} bytes\n", 413)
        signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature.encode(), request.headers.get("x-hub-signature-256", "").encode()):
            return PlainTextResponse("X-Hub-Signature-256 is missing or wrong\n", 400)
        event = request.headers.get("x-github-event", "")
        if event == "ping":
            return PlainTextResponse("pong\n")
        if event != "push":
            return PlainTextResponse(f"unknown webhook event {event!r}\n", 400)
        try:
            payload = json.loads(body)
        except ValueError:
            payload = None
        if not isinstance(payload, dict):
            return PlainTextResponse("the payload is not a JSON object\n", 400)
        return PlainTextResponse(f"refreshing {', '.join(await self.webhook(payload)) or 'nothing'}\n")


@dataclass
class _State:
    """What is known of an Application between two looks; lost at a restart, and read again."""

    target: Target | SourceError | None = None
    spec: Object | None = None
    refresh_at: float = 0.0
    tries: int = 0


def _repository(url: str) -> str:
    """`owner/name` of any address of a repository."""
    return "/".join(re.split(r"[/:]", url.lower().rstrip("/").removesuffix(".git"))[-2:])


def _without_nulls(value: Any) -> Any:
    """Kubernetes treats a key without a value as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
