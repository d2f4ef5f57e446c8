"""Forks shims for solo: a process that has Python and the shim's code loaded, so a pod starts in milliseconds.

One thread, started once by the launcher, one JSON line per request on a socket: `{"id": 1, "directory":
"…/pods/<uid>"}` is answered by `{"id": 1, "pid": 4711}` and, where the system has them, a pidfd. It ends when solo
does; the shims do not.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

from solo.pods import processes, shim


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    server.set_inheritable(False)
    processes.adopt_orphans()  # of shims that were killed
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.freeze()
    shims: set[int] = set()
    buffer = b""
    while True:
        ready = select.select([server.fileno(), wake_read], [], [])[0]
        if wake_read in ready:
            os.read(wake_read, 4096)
        if server.fileno() in ready:
            data = server.recv(65536)
            if not data:
                return  # solo is gone
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                shims.add(_fork(server, wake_read, wake_write, json.loads(line)))
        _reap(shims)


def _fork(server: socket.socket, wake_read: int, wake_write: int, request: dict[str, str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, shim.BLOCKED)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            server.close()
            os.close(wake_read)
            os.close(wake_write)
            shim.run(Path(request["directory"]))
        except BaseException:
            sys.excepthook(*sys.exc_info())  # into forkserver.log
        finally:
            os._exit(70)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, shim.BLOCKED)
    # not reaped yet, so the number is still this process's
    fds = [os.pidfd_open(pid)] if hasattr(os, "pidfd_open") else []
    with contextlib.suppress(ConnectionError):  # solo is gone: the next recv says so
        socket.send_fds(server, [json.dumps({"id": request["id"], "pid": pid}).encode() + b"\n"], fds)
    for fd in fds:
        os.close(fd)
    return pid


def _reap(shims: set[int]) -> None:
    while shims:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if pid in shims:
            shims.discard(pid)
            if status != 0:  # killed: what it left behind is our child now
                processes.kill_children(frozenset(shims))
