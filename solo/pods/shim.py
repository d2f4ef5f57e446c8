"""The parent of one pod's processes: starts them in order, keeps their logs, ends with them, leaves `exit.json`.

Forked by the fork server, it lives on when solo does not, so it knows nothing of solo: everything it needs is in
`plan.json`. Its lock, and the plan that it renames to `started.json`, make sure that a pod starts once.
Standard library only, one thread, and it sleeps until something happens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import selectors
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from solo.pods import processes
from solo.pods.exits import EXECUTOR_ERROR

LOG_BYTES = 5 << 20  # a log file is `main.log` and, when that is full, the one before it: `main.log.1`
RESULT_BYTES = 256 << 10
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
BLOCKED = (signal.SIGTERM, signal.SIGUSR1)  # by the fork server, until there is a handler: a stop may come that early
DRAIN_SECONDS = 1.0  # how long to wait for the rest of the output when everything that could write it is dead
MAX_BACKOFF = 30.0
CALM_SECONDS = 600.0  # a container that ran this long starts its backoff anew


def run(directory: Path) -> NoReturn:
    """The body of a freshly forked shim; never returns."""
    os.setsid()
    processes.adopt_orphans()
    plan = _take(directory)
    if plan is not None:
        Shim(directory, plan).run()
    os._exit(0)


def _take(directory: Path) -> dict[str, Any] | None:
    """The plan, if this shim is the one to run it; the lock is then held until the process ends."""
    try:
        if not processes.lock(os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)):
            return None
        plan: dict[str, Any] = json.loads((directory / "plan.json").read_text())
        # succeeds once: another shim that comes later finds no plan
        (directory / "plan.json").rename(directory / "started.json")
    except FileNotFoundError:  # the pod was deleted, or has been started
        return None
    return plan


class Log:
    """A container's output: two files of at most LOG_BYTES, and in memory the end of its stdout if that is a result."""

    def __init__(self, path: Path, *, keep_result: bool) -> None:
        self.path, self.result = path, bytearray() if keep_result else None
        self._open()

    def _open(self) -> None:
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.fd).st_size

    def write(self, data: bytes, *, stdout: bool) -> None:
        if self.result is not None and stdout:
            self.result += data
            del self.result[: -(RESULT_BYTES + 1)]  # one more for the newline that is cut off
        with contextlib.suppress(OSError):  # a full disk costs the log, not the step
            view = memoryview(data)
            while view:
                if self.size >= LOG_BYTES:
                    os.close(self.fd)
                    self.path.rename(self.path.with_name(self.path.name + ".1"))
                    self._open()
                written = os.write(self.fd, view[: LOG_BYTES - self.size])
                self.size += written
                view = view[written:]


class Container:
    """One container: what to run, and what became of it."""

    def __init__(self, spec: dict[str, Any], directory: Path) -> None:
        self.spec, self.name = spec, str(spec["name"])
        self.log = Log(directory / f"{self.name}.log", keep_result=spec.get("result", False))
        self.pid = 0
        self.pipes: dict[int, bool] = {}  # read end → is it stdout
        self.state = "waiting"
        self.reason = self.message = ""
        self.exit_code: int | None = None
        self.oom = False
        self.restarts = self.failures = 0
        self.started_at = self.finished_at = 0.0
        self.kill_at: float | None = None
        self.drain_until: float | None = None
        self.restart_at: float | None = None

    def report(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "pid": self.pid,
            "reason": self.reason,
            "message": self.message,
            "exitCode": self.exit_code,
            "oom": self.oom,
            "restartCount": self.restarts,
            "startedAt": self.started_at,
            "finishedAt": self.finished_at,
        }


class Shim:
    def __init__(self, directory: Path, plan: dict[str, Any]) -> None:
        self.directory, self.plan = directory, plan
        self.init = [Container(spec, directory) for spec in plan["init"]]
        self.containers = [Container(spec, directory) for spec in plan["containers"]]
        self.reason = ""  # why the pod is being ended: Stopped, DeadlineExceeded
        self.started_at = time.time()
        self.selector = selectors.DefaultSelector()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)  # as set_wakeup_fd wants it
        self.selector.register(self.wake_read, selectors.EVENT_READ)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def run(self) -> None:
        for container in self.init:
            self._run_all([container])
            if self.reason or container.exit_code != 0:
                break
        else:
            self._run_all(self.containers)
        processes.kill_children()
        self._finish()

    def _run_all(self, containers: list[Container]) -> None:
        """Start containers and serve them until all have ended for good."""
        for container in containers:
            self._start(container)
        self._report()
        while any(c.state != "terminated" or c.restart_at is not None for c in containers):
            self._wait(containers)

    def _start(self, container: Container) -> None:
        container.restart_at = container.kill_at = container.drain_until = container.exit_code = None
        container.reason = container.message = ""
        container.started_at = time.time()
        self.oom_before = processes.oom_kills()
        # stderr shares stdout's pipe, so that lines keep their order; only a result needs them apart
        outputs = [_pipe(), _pipe()] if container.log.result is not None else [_pipe()]
        failed, failure = os.pipe()  # not inherited: exec closes it
        shim = os.getpid()
        container.pid = os.fork()
        if container.pid == 0:
            _exec(container.spec, shim, outputs[0][1], outputs[-1][1], failure)
        os.close(failure)
        for index, (read, write) in enumerate(outputs):
            os.close(write)
            container.pipes[read] = index == 0
            self.selector.register(read, selectors.EVENT_READ, container)
        container.state = "running"
        container.message = os.read(failed, 4096).decode()  # "" when exec has closed it; the session exists then
        os.close(failed)

    def _wait(self, containers: list[Container]) -> None:
        timers = [t for c in containers for t in (c.kill_at, c.drain_until, c.restart_at) if t is not None]
        deadline = self.plan["deadline"]
        if deadline and not self.reason:
            timers.append(deadline)
        timeout = max(0.0, min(timers) - time.time()) if timers else None
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                signals = os.read(self.wake_read, 4096)
                if signal.SIGTERM in signals:
                    self._end("Stopped", containers)
                if signal.SIGUSR1 in signals:
                    self._restart(containers)
            else:
                self._pump(key.data, key.fd)
        self._reap(containers)
        now = time.time()
        if deadline and now >= deadline and not self.reason:
            self._end("DeadlineExceeded", containers)
        for container in containers:
            if container.kill_at is not None and now >= container.kill_at:
                container.kill_at = None
                _kill(container, signal.SIGKILL)
            if container.state == "running" and container.exit_code is not None:
                if container.drain_until is not None and now >= container.drain_until:
                    for pipe in list(container.pipes):
                        self._close(container, pipe)
                if not container.pipes:
                    self._ended(container)
            if container.restart_at is not None and now >= container.restart_at:
                container.restarts += 1
                self._start(container)
                self._report()

    def _pump(self, container: Container, pipe: int) -> None:
        data = os.read(pipe, PIPE_BYTES)
        if data:
            container.log.write(data, stdout=container.pipes[pipe])
        else:
            self._close(container, pipe)

    def _close(self, container: Container, pipe: int) -> None:
        self.selector.unregister(pipe)
        os.close(pipe)
        del container.pipes[pipe]

    def _reap(self, containers: list[Container]) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for container in containers:
                if container.pid == pid and container.state == "running":
                    self._exited(container, status, containers)

    def _exited(self, container: Container, status: int, containers: list[Container]) -> None:
        """The container's first process is gone: as with a pod's, the rest goes with it."""
        container.finished_at = time.time()
        if container.message:  # exec failed
            container.exit_code = EXECUTOR_ERROR
        elif os.WIFSIGNALED(status):
            container.exit_code = 128 + os.WTERMSIG(status)
            killed = os.WTERMSIG(status) == signal.SIGKILL and not self.reason
            container.oom = killed and processes.oom_kills() > self.oom_before
        else:
            container.exit_code = os.WEXITSTATUS(status)
        container.kill_at = None
        _kill(container, signal.SIGKILL)
        if all(c is container or c.exit_code is not None or c.state != "running" for c in containers):
            processes.kill_children()
        container.drain_until = time.time() + DRAIN_SECONDS

    def _ended(self, container: Container) -> None:
        container.state, container.drain_until = "terminated", None
        policy, failed = self.plan["restart"], container.exit_code != 0
        again = policy == "Always" if container in self.containers else failed and policy == "Always"
        if (again or (failed and policy == "OnFailure")) and not self.reason:
            if container.finished_at - container.started_at > CALM_SECONDS:
                container.failures = 0
            container.restart_at = time.time() + min(2.0**container.failures, MAX_BACKOFF)
            container.failures += 1
            container.state, container.reason = "waiting", "CrashLoopBackOff"
            self._report()

    def _end(self, reason: str, containers: list[Container]) -> None:
        """SIGTERM to all, SIGKILL when their grace is over."""
        if self.reason:
            return
        self.reason = reason
        for container in containers:
            if container.restart_at is not None:
                container.restart_at, container.state = None, "terminated"
            self._terminate(container)

    def _restart(self, containers: list[Container]) -> None:
        """End the containers whose liveness probe failed; the restart policy brings them back."""
        names = json.loads((self.directory / "restart.json").read_text())
        for container in containers:
            if container.name in names:
                self._terminate(container)

    def _terminate(self, container: Container) -> None:
        if container.state == "running" and container.exit_code is None:
            container.kill_at = time.time() + self.plan["grace"]
            _kill(container, signal.SIGTERM)

    def _report(self) -> None:
        """Leave word of the state and ring solo's bell, if solo is there to hear it."""
        _write(self.directory / "state.json", self._state())
        with contextlib.suppress(OSError):
            bell = os.open(self.plan["bell"], os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(bell, f"{self.plan['uid']}\n".encode())
            os.close(bell)

    def _state(self) -> dict[str, Any]:
        return {"init": [c.report() for c in self.init], "containers": [c.report() for c in self.containers]}

    def _finish(self) -> None:
        for container in self.containers:
            if container.log.result is not None:
                (self.directory / "result").write_bytes(bytes(container.log.result))
        ended = {"reason": self.reason, "startedAt": self.started_at, "finishedAt": time.time()}
        _write(self.directory / "exit.json", {**ended, **self._state()})


def _exec(spec: dict[str, Any], shim: int, stdout: int, stderr: int, failure: int) -> NoReturn:
    """In the child: become the container's process, or tell the shim why not."""
    argv = spec["argv"]
    try:
        os.setsid()
        processes.die_with_parent(shim)
        signal.set_wakeup_fd(-1)
        # Python ignores SIGPIPE, and what is ignored stays so across exec
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        try:
            os.chdir(spec["cwd"])
        except OSError as problem:
            raise OSError(problem.errno, f"workingDir {spec['cwd']}: {problem.strerror}") from None
        os.execvpe(argv[0], argv, spec["env"])  # noqa: S606 - no shell is what is wanted
    except OSError as problem:
        text = f"failed to start {argv[0]}: {problem.strerror}"
        if problem.errno == errno.ENOENT and "/" not in argv[0]:
            text = f'failed to find name in PATH: exec: "{argv[0]}": executable file not found in $PATH'
        os.write(failure, text.encode())
    os._exit(EXECUTOR_ERROR)


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    with contextlib.suppress(OSError):  # larger than the user's share of pipe memory: the default will do
        fcntl.fcntl(write, F_SETPIPE_SZ, PIPE_BYTES)
    return read, write


def _kill(container: Container, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(container.pid, number)


def _write(path: Path, document: dict[str, Any]) -> None:
    """All or nothing: a reader sees the old file or the new one."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    temporary.rename(path)
