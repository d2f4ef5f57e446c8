"""Commit statuses, as GitHub's API has them."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from solo.git import status_routes
from solo.store import Store

TOKEN = {"Authorization": "Bearer t0ken"}


@pytest.fixture
def ask(checkout):
    """Send a request to the API; the commit `checkout.sha` is there."""
    checkout.sha = checkout.commit(a="1")
    checkout.push()
    app = Starlette(routes=status_routes(checkout.home, Store(), "t0ken"))

    def send(method, path, **kwargs):
        async def main():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://solo") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(main())

    return send


def test_a_status_is_found_with_its_commit_newest_first(ask, checkout):
    path = f"/repos/acme/digits/statuses/{checkout.sha}"
    one = {"state": "pending", "context": "trainyard/ci", "description": "building", "target_url": "http://x"}
    assert ask("POST", path, json=one, headers=TOKEN).status_code == 201
    answer = ask("POST", path, json={"state": "success"}, headers=TOKEN)
    assert (answer.json()["state"], answer.json()["context"]) == ("success", "default")
    found = ask("GET", f"/repos/acme/digits/commits/{checkout.sha}/statuses").json()
    assert [entry["state"] for entry in found] == ["success", "pending"]
    assert one.items() <= found[1].items()


@pytest.mark.parametrize(
    ("repository", "sha", "body", "headers", "status"),
    [
        ("acme/digits", "", {"state": "success"}, {}, 401),
        ("acme/digits", "", {"state": "success"}, {"Authorization": "Bearer guess"}, 401),
        ("acme/other", "", {"state": "success"}, TOKEN, 404),
        ("..../x", "", {"state": "success"}, TOKEN, 404),
        ("acme/digits", "0" * 40, {"state": "success"}, TOKEN, 422),
        ("acme/digits", "main", {"state": "success"}, TOKEN, 422),
        ("acme/digits", "", {"state": "done"}, TOKEN, 422),
        ("acme/digits", "", {"state": "success", "context": 1}, TOKEN, 422),
        ("acme/digits", "", ["success"], TOKEN, 422),
        ("acme/digits", "", None, TOKEN, 400),
    ],
)
def test_what_github_would_refuse_is_refused(ask, checkout, repository, sha, body, headers, status):
    given = {"json": body} if body is not None else {"content": b"{"}
    path = f"/repos/{repository}/statuses/{sha or checkout.sha}"
    assert ask("POST", path, headers=headers, **given).status_code == status


def test_without_a_token_nobody_can_write(checkout):
    app = Starlette(routes=status_routes(checkout.home, Store(), ""))

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://solo") as client:
            return await client.post(f"/repos/acme/digits/statuses/{'0' * 40}", headers={"Authorization": "Bearer "})

    assert asyncio.run(main()).status_code == 401
