"""Reads a directory at a revision of a Git repository, without a work tree.

Each repository has a bare mirror under `home`. It is a cache: when it is damaged it is made again. The user's own Git
configuration is not read, so that a deployment does not depend on who started solo.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 60.0
# what Argo CD allows a directory source by default (reposerver.max.combined.directory.manifests.size)
MAX_BYTES = 10 * 1024 * 1024
SHA = re.compile(r"[0-9a-f]{7,64}")
TYPES = {"120000": "link", "160000": "submodule"}


class SourceError(Exception):
    """The source cannot be read or understood. `again`: the same request may succeed later without a new commit."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class Entry(NamedTuple):
    """One file of a tree: `path` from the repository's root; `type` is file, link or submodule."""

    path: str
    type: str
    object: str


class Mirror:
    """The bare mirror of one repository."""

    def __init__(self, home: Path, url: str) -> None:
        self.url = url
        self.path = home / (hashlib.sha256(url.encode()).hexdigest()[:24] + ".git")
        self._lock = asyncio.Lock()

    async def fetch(self, revision: str) -> str:
        """Bring the mirror up to date; the commit of `revision` (branch, tag, commit, HEAD). Raises SourceError."""
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        if revision == "HEAD":
            refs.append("+HEAD:refs/solo/HEAD")
        async with self._lock:
            try:
                await self._fetch(refs)
            except SourceError as error:
                # a fetch that was killed leaves its lock files behind
                if ".lock" not in str(error):
                    raise
                shutil.rmtree(self.path)
                await self._fetch(refs)
        for name in _candidates(revision):
            try:
                return (await self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")).decode().strip()
            except SourceError:
                continue
        raise SourceError(
            f"unable to resolve '{revision}' to a commit SHA: {self.url} has no such branch, tag or commit"
        )

    async def tree(self, commit: str, path: str, *, recurse: bool) -> list[Entry]:
        """The files under a directory. Raises SourceError if it does not exist."""
        where = [] if path == "." else ["--", f"{path}/"]
        listing = await self._git("ls-tree", "-z", *(["-r"] if recurse else []), commit, *where)
        if not listing:
            raise SourceError(f"{path}: app path does not exist at {commit[:12]} of {self.url}")
        entries = []
        for line in listing.decode(errors="backslashreplace").split("\0")[:-1]:
            info, name = line.split("\t", 1)
            mode, kind, sha = info.split()
            if kind != "tree":
                entries.append(Entry(name, TYPES.get(mode, "file"), sha))
        return entries

    async def read(self, entries: list[Entry]) -> dict[str, bytes]:
        """The content of files, by path. Raises SourceError if together they are larger than Argo CD allows."""
        request = "".join(f"{entry.object}\n" for entry in entries).encode()
        sizes = (await self._git("cat-file", "--batch-check=%(objectsize)", input=request)).split()
        if (total := sum(map(int, sizes))) > MAX_BYTES:
            raise SourceError(f"manifests take {total} bytes together; at most {MAX_BYTES} are allowed")
        content = await self._git("cat-file", "--batch", input=request)
        files, start = {}, 0
        for entry, size in zip(entries, map(int, sizes), strict=True):
            start = content.index(b"\n", start) + 1
            files[entry.path] = content[start : start + size]
            start += size + 1
        return files

    async def _fetch(self, refs: list[str]) -> None:
        if not (self.path / "HEAD").exists():
            self.path.mkdir(parents=True, exist_ok=True)
            await self._git("init", "--quiet", "--bare")
        await self._git("fetch", "--quiet", "--prune", "--no-tags", "--no-auto-gc", "--end-of-options", self.url, *refs)

    async def _git(self, *args: str, input: bytes | None = None) -> bytes:
        command = ["git", f"--git-dir={self.path}", *args]
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, env=env, stdin=pipe if input is not None else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(input)
        except TimeoutError:
            raise SourceError(f"git {args[0]} {self.url}: no answer for {TIMEOUT:.0f} s", again=True) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
            # git explains itself in the first fatal line; what follows is advice for people at a terminal
            reason = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
            raise SourceError(f"git {args[0]} {self.url}: {reason or f'exit code {process.returncode}'}", again=True)
        return out


def _candidates(revision: str) -> list[str]:
    if revision == "HEAD":
        return ["refs/solo/HEAD"]
    names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
    if revision.startswith("refs/"):
        names.append(revision)
    if SHA.fullmatch(revision):
        names.append(revision)
    return names
