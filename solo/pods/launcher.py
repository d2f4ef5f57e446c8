"""Asks the fork server for shims, and watches processes that are not our children.

The server is started on first use and again when it has died; the pods it forked go on. A pidfd becomes readable when
its process has ended, also when that is another's child, as the shims of an earlier solo are. Where there is none
(macOS), the process is looked at every 0.1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import solo

SERVER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from solo.pods.forkserver import main; main()"

CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ServerDiedError(Exception):
    """The fork server ended before it answered; look at the pod's directory to learn whether it started."""


class Watched:
    """A process to signal and to wait for."""

    def __init__(self, pid: int, pidfd: int | None) -> None:
        self.pid, self._pidfd = pid, pidfd
        self._ended = asyncio.get_running_loop().create_future()
        if pidfd is not None:
            asyncio.get_running_loop().add_reader(pidfd, self._end)

    @classmethod
    def adopt(cls, pid: int) -> Watched:
        """A process that somebody else started. Raises ProcessLookupError."""
        return cls(pid, os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None and not self._ended.done():
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._pidfd is None:
                os.kill(self.pid, number)

    async def wait(self) -> None:
        while self._pidfd is None and not self._ended.done():
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self._ended.set_result(None)
            else:
                await asyncio.sleep(0.1)
        # whoever waits may be cancelled; the future that stands for the process is not
        await asyncio.wait([self._ended])

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd is not None and not self._ended.done():
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._ended.cancel()

    def _end(self) -> None:
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(None)


class Launcher:
    def __init__(self, home: Path) -> None:
        self._log = home / "pods" / "forkserver.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._requests: dict[int, asyncio.Future[Watched]] = {}
        self._sending = asyncio.Lock()
        self._next = 0
        self._buffer = b""
        self._fds: list[int] = []

    async def start(self, directory: Path) -> Watched:
        """Fork a shim for a pod directory that is ready. Raises ServerDiedError."""
        if self._socket is None:
            self.open()
        assert self._socket is not None
        self._next += 1
        answer = self._requests[self._next] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": self._next, "directory": str(directory)}).encode() + b"\n"
        try:
            async with self._sending:
                await asyncio.get_running_loop().sock_sendall(self._socket, line)
        except OSError:
            self._died()
        shim: Watched = await answer
        return shim

    def open(self) -> None:
        """Start the server, so that the first pod need not wait for it."""
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("ab") as log:
            fd, root = theirs.fileno(), str(Path(solo.__file__).parents[1])
            # -I -S: standard library only, nothing of the user's; its own session, so that Ctrl-C is for solo alone
            self._server = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", SERVER, root, str(fd)],
                pass_fds=[fd],
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket, self._buffer = ours, b""
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive)

    @property
    def pid(self) -> int | None:
        """The server's process."""
        return self._server.pid if self._server else None

    def close(self) -> None:
        self._died()

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 65536, 64, CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        self._fds += fds
        if not data:
            self._died()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            pidfd = self._fds.pop(0) if self._fds else None
            future = self._requests.pop(answer["id"])
            if not future.done():
                future.set_result(Watched(answer["pid"], pidfd))
            elif pidfd is not None:
                os.close(pidfd)

    def _died(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._server is not None:
            self._server.wait()  # its socket is closed: it is dead, or about to be
            self._server = None
        requests, self._requests = self._requests, {}
        for future in requests.values():
            if not future.done():
                future.set_exception(ServerDiedError())
