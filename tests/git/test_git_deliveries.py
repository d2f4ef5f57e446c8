"""From the outbox to whoever listens, and what the pusher sees."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys

import pytest
from git_world import ENVIRONMENT, serving, until
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from solo.git import Deliverer, create_repo, deliveries
from solo.git.hook import POKE
from solo.store import Store


class Receiver:
    """Answers with the statuses given, then with 200; keeps what it got."""

    def __init__(self, *statuses):
        self.statuses, self.got = list(statuses), []

    @property
    def app(self):
        async def hook(request):
            self.got.append((dict(request.headers), await request.body()))
            return PlainTextResponse("", self.statuses.pop(0) if self.statuses else 200)

        return Starlette(routes=[Route("/{path:path}", hook, methods=["POST"])])


@contextlib.asynccontextmanager
async def delivering(home, store, targets):
    task = asyncio.create_task(Deliverer(home, store, lambda repository: targets).run())
    await until((home / POKE).exists)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_push_is_posted_signed_and_leaves_the_outbox(checkout):
    sha = checkout.commit(a="1")
    receiver, store = Receiver(), Store()

    async def main():
        async with serving(receiver.app) as url, delivering(checkout.home, store, [(f"{url}/push", "s3cret")]):
            await asyncio.to_thread(checkout.push)
            await until(lambda: deliveries(store) and not checkout.outbox())

    asyncio.run(main())
    ((headers, body),) = receiver.got
    assert headers["x-github-event"] == "push"
    assert headers["x-hub-signature-256"] == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["x-hub-signature"] == "sha1=" + hmac.new(b"s3cret", body, hashlib.sha1).hexdigest()
    assert json.loads(body)["after"] == sha
    (entry,) = deliveries(store, sha=sha[:12])
    assert (entry["status"], entry["delivery"]) == (200, headers["x-github-delivery"])


def test_what_was_pushed_while_solo_was_down_is_delivered_when_it_is_up(checkout):
    checkout.commit(a="1")
    checkout.push()
    checkout.commit(a="2")
    checkout.push()
    receiver, store = Receiver(), Store()

    async def main():
        async with serving(receiver.app) as url, delivering(checkout.home, store, [(url, "")]):
            await until(lambda: len(deliveries(store)) == 2 and not checkout.outbox())

    asyncio.run(main())
    assert len({headers["x-github-delivery"] for headers, _ in receiver.got}) == 2


def test_a_target_that_fails_is_tried_again_and_one_that_refuses_is_not(checkout):
    checkout.commit(a="1")
    checkout.push()
    failing, refusing, store = Receiver(503, 500), Receiver(400), Store()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(serving(receiver.app)) for receiver in (failing, refusing)]
            await stack.enter_async_context(delivering(checkout.home, store, [(url, "") for url in urls]))
            await until(lambda: not checkout.outbox())

    asyncio.run(main())
    assert len(failing.got) == 3
    assert len({headers["x-github-delivery"] for headers, _ in failing.got}) == 1
    assert len(refusing.got) == 1
    assert sorted(entry["status"] for entry in deliveries(store)) == [200, 400]


def test_a_target_that_is_not_there_yet_gets_it_later(checkout, free_tcp_port):
    checkout.commit(a="1")
    checkout.push()
    receiver, store = Receiver(), Store()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            url = f"http://127.0.0.1:{free_tcp_port}/"
            await stack.enter_async_context(delivering(checkout.home, store, [(url, "")]))
            await stack.enter_async_context(serving(receiver.app, free_tcp_port))
            await until(lambda: not checkout.outbox())

    asyncio.run(main())
    assert len(receiver.got) == 1


def test_after_a_crash_only_those_who_have_not_answered_are_asked_again(checkout):
    checkout.commit(a="1")
    checkout.push()
    before = checkout.outbox()[0]["delivery"]
    quick, slow, store = Receiver(), Receiver(*[503] * 1000), Store()

    async def main():
        async with serving(quick.app) as one, serving(slow.app) as two:
            targets = [(one, ""), (two, "")]
            async with delivering(checkout.home, store, targets):
                await until(lambda: deliveries(store) and slow.got)
            slow.statuses.clear()
            async with delivering(checkout.home, store, targets):
                await until(lambda: not checkout.outbox())

    asyncio.run(main())
    assert len(quick.got) == 1
    assert {headers["x-github-delivery"] for headers, _ in slow.got} == {before}


def test_a_push_that_concerns_nobody_is_recorded(checkout):
    checkout.commit(a="1")
    checkout.push()
    store = Store()

    async def main():
        async with delivering(checkout.home, store, []):
            await until(lambda: not checkout.outbox())

    asyncio.run(main())
    assert deliveries(store)[0]["answer"] == "no EventSource asks for this repository"


def test_a_broken_file_is_put_aside(home):
    (home / "outbox").mkdir()
    (home / "outbox" / "1.json").write_text("{")

    async def main():
        async with delivering(home, Store(), []):
            await until((home / "outbox" / "1.broken").exists)

    asyncio.run(main())


def test_the_pusher_sees_the_progress_command(checkout):
    script = "import sys; print('watching', *sys.argv[1:])"
    progress = [sys.executable, "-c", script, "{repo}", "{ref}", "{before}", "{after}", "{delivery}"]
    create_repo(checkout.home, "acme/digits", progress=progress)
    sha = checkout.commit(a="1")
    receiver, store = Receiver(), Store()

    async def main():
        async with serving(receiver.app) as url, delivering(checkout.home, store, [(url, "")]):
            said = await asyncio.to_thread(checkout.push)
            await until(lambda: deliveries(store))
            return said

    said = asyncio.run(main())
    delivery = deliveries(store)[0]["delivery"]
    assert f"remote: watching acme/digits refs/heads/main {'0' * 40} {sha} {delivery}" in said


@pytest.mark.skipif(sys.platform != "linux", reason="counts on /proc")
def test_ctrl_c_on_a_push_changes_nothing(checkout, tmp_path):
    reached = tmp_path / "reached"
    script = f"import pathlib, signal; pathlib.Path({str(reached)!r}).touch(); signal.pause()"
    create_repo(checkout.home, "acme/digits", progress=[sys.executable, "-c", script])
    sha = checkout.commit(a="1")
    os.mkfifo(checkout.home / POKE)
    listening = os.open(checkout.home / POKE, os.O_RDWR | os.O_NONBLOCK)
    command = ["git", "push", "-q", "origin", "main"]
    push = subprocess.Popen(
        command, cwd=checkout.folder, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        asyncio.run(until(reached.exists))
        os.killpg(push.pid, signal.SIGINT)
        assert push.wait(10) != 0
    finally:
        os.close(listening)
    assert [delivery["payload"]["after"] for delivery in checkout.outbox()] == [sha]
    assert sha in checkout.git("ls-remote", "origin", "main")
