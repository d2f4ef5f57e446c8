"""Commit statuses, in the shape of GitHub's API: what the pipeline says about a commit, next to the commit."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from solo.git.repos import path_of
from solo.store import Store, now

STATES = ("error", "failure", "pending", "success")
MOST_OF_A_COMMIT = 1000  # GitHub's own limit
_SCHEMA = """CREATE TABLE IF NOT EXISTS git_statuses (
  id INTEGER PRIMARY KEY AUTOINCREMENT, repository TEXT NOT NULL, sha TEXT NOT NULL, state TEXT NOT NULL,
  context TEXT NOT NULL, description TEXT, target_url TEXT, created_at TEXT NOT NULL)"""
_COLUMNS = ["id", "state", "context", "description", "target_url", "created_at"]


def status_routes(home: Path, store: Store, token: str) -> list[Route]:
    """`POST /repos/O/R/statuses/SHA` (with the bearer token) and `GET /repos/O/R/commits/SHA/statuses`."""

    async def post(request: Request) -> JSONResponse:
        given = request.headers.get("authorization", "").partition(" ")[2]
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            return JSONResponse({"message": "Bad credentials"}, 401)
        repository, sha = _place(request)
        if problem := await _unknown(home, repository, sha):
            return problem
        try:
            wanted = json.loads(await request.body())
        except ValueError:
            return JSONResponse({"message": "Problems parsing JSON"}, 400)
        if not isinstance(wanted, dict) or wanted.get("state") not in STATES:
            return _invalid(f"state must be one of {', '.join(STATES)}")
        texts = {key: wanted.get(key) for key in ("context", "description", "target_url")}
        if any(not isinstance(value, str | None) or len(value or "") > 2000 for value in texts.values()):
            return _invalid("context, description and target_url must be texts of at most 2000 characters")
        if len(statuses(store, repository, sha)) >= MOST_OF_A_COMMIT:
            return _invalid(f"this commit has {MOST_OF_A_COMMIT} statuses already")
        values = (repository, sha, wanted["state"], texts["context"] or "default", texts["description"])
        store.db.execute(
            "INSERT INTO git_statuses (repository, sha, state, context, description, target_url, created_at)"
            " VALUES (?,?,?,?,?,?,?)",
            (*values, texts["target_url"], now()),
        )
        return JSONResponse(statuses(store, repository, sha)[0], 201)

    async def get(request: Request) -> JSONResponse:
        repository, sha = _place(request)
        return await _unknown(home, repository, sha) or JSONResponse(statuses(store, repository, sha))

    store.db.execute(_SCHEMA)
    return [
        Route("/repos/{owner}/{name}/statuses/{sha}", post, methods=["POST"]),
        Route("/repos/{owner}/{name}/commits/{sha}/statuses", get, methods=["GET"]),
    ]


def statuses(store: Store, repository: str, sha: str) -> list[dict[str, Any]]:
    """Newest first, each with id, state, context, description, target_url, created_at."""
    store.db.execute(_SCHEMA)
    rows = store.db.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM git_statuses WHERE repository=? AND sha=? ORDER BY id DESC",  # noqa: S608
        (repository, sha),
    )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def _place(request: Request) -> tuple[str, str]:
    params = request.path_params
    return f"{params['owner']}/{params['name']}", params["sha"]


async def _unknown(home: Path, repository: str, sha: str) -> JSONResponse | None:
    """The answer for a repository or commit that is not there."""
    try:
        path = path_of(home, repository)
    except ValueError:
        path = Path()
    if not (path / "HEAD").exists():
        return JSONResponse({"message": "Not Found"}, 404)
    if re.fullmatch("[0-9a-f]{40}", sha):
        command = ("git", "--git-dir", str(path), "cat-file", "-e", f"{sha}^{{commit}}")
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        if await process.wait() == 0:
            return None
    return _invalid(f"No commit found for SHA: {sha[:60]}")


def _invalid(message: str) -> JSONResponse:
    return JSONResponse({"message": message}, 422)
