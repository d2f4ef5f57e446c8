"""Real repositories, real pushes, and somebody who listens."""

import asyncio
import contextlib
import json
import os
import subprocess

import uvicorn

from solo.git import clone_url

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
}


class Checkout:
    """A clone of acme/digits in `home`'s git host."""

    def __init__(self, home, folder):
        self.home, self.folder = home, folder
        self.git("init", "--quiet", "--initial-branch=main", str(folder), at=home)
        self.git("remote", "add", "origin", clone_url(home, "acme/digits"))

    def git(self, *args, at=None, **environment):
        """Output and errors together; raises when git fails."""
        command = ["git", *args]
        done = subprocess.run(
            command,
            cwd=at or self.folder,
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def commit(self, message="change", **files):
        """Write (or, for None, delete) files, commit, and return the sha."""
        for name, content in files.items():
            path = self.folder / name
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def push(self, *refs, **environment):
        return self.git("push", "origin", *(refs or ("main",)), **environment)

    def outbox(self):
        """The deliveries that wait, oldest first."""
        return [json.loads(path.read_text()) for path in sorted((self.home / "outbox").glob("[0-9]*.json"))]

    def pushed(self):
        """The payload of the only delivery that waits; it is taken away."""
        (path,) = sorted((self.home / "outbox").glob("[0-9]*.json"))
        payload = json.loads(path.read_text())["payload"]
        path.unlink()
        return payload


@contextlib.asynccontextmanager
async def serving(app, port=0):
    """The address of a server for an ASGI app."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="error"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def until(condition, seconds=10):
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
