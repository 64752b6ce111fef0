"""Child processes that never outlive their supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from langmesh.embedded import guard as guard_program
from langmesh.errors import ErrorCode, MeshError

_log = logging.getLogger(__name__)

GRACE_S = 5.0
"""Seconds that a process gets to end itself before it is killed."""


class Child:
    """One supervised process, the leader of its own session; :meth:`Guard.spawn` makes them.

    Its process group ends with it: whatever the leader leaves behind is killed. Not bound to an
    event loop.

    Attributes:
        name: What people call the process.
        pid: Its process id, also the id of its group.
        log: The file that its output is appended to.
    """

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        log: Path,
        log_start: int,
        on_exit: Callable[[Child], None],
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._log_start = log_start
        self._process = process
        self._on_exit = on_exit
        self._collected = False
        self._lock = threading.Lock()
        self._exit: Future[int] = Future()
        # A running future cannot be cancelled, so a cancelled waiter does not cancel the others.
        self._exit.set_running_or_notify_cancel()

    @property
    def returncode(self) -> int | None:
        """The exit status as in :mod:`subprocess`, or None while the process runs."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return await asyncio.wrap_future(self._exit)

    async def stop(self, grace_s: float = GRACE_S) -> int:
        """Ask the process to end (SIGTERM), kill its group after `grace_s` seconds.

        Returns:
            The exit status; that of the end before where the process had ended already.
        """
        self.send_signal(signal.SIGTERM)
        # A process that is stopped could not act on the request.
        self.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            _log.warning("%s (process %d) did not end in %g s", self.name, self.pid, grace_s)
        self.kill()
        return await self.wait()

    def kill(self) -> None:
        """Kill the process and its group at once (SIGKILL)."""
        self._signal(os.killpg, signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone; nothing happens when it has ended."""
        self._signal(os.kill, number)

    def output(self) -> str:
        """Everything that this process has written to its log so far."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        # Until the exit is collected the system does not give the id to anybody else.
        with self._lock:
            if not self._collected:
                with suppress(ProcessLookupError, PermissionError):
                    send(self.pid, number)

    def watch(self) -> None:
        """Begin to wait for the end; for :class:`Guard`, once."""
        threading.Thread(target=self._collect, name=f"wait-{self.name}", daemon=True).start()

    def _collect(self) -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        self.kill()
        with self._lock:
            self._on_exit(self)
            status = self._process.wait()
            self._collected = True
        self._exit.set_result(status)


class Guard:
    """Owns child processes: they end with the context, or with this process if it is killed.

    An async context manager. On exit, also by cancellation, the children are stopped one after the
    other, the youngest first; a second cancellation kills them without further grace. If this
    process dies without getting that far, the guard process (:mod:`langmesh.embedded.guard`) kills
    them.

    Args:
        hold_fds: Descriptors that the guard process keeps open as well, so that a lock on them
            lasts until the last child is gone.
        grace_s: Seconds for each child to end itself on exit.
    """

    def __init__(self, *, hold_fds: Sequence[int] = (), grace_s: float = GRACE_S) -> None:
        self._hold_fds = tuple(hold_fds)
        self._grace_s = grace_s
        self._children: dict[int, Child] = {}
        self._pipe: int | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def children(self) -> list[Child]:
        """The children that run, oldest first."""
        return list(self._children.values())

    @property
    def pid(self) -> int:
        """The id of the guard process."""
        assert self._process is not None, "the context was not entered"
        return self._process.pid

    def spawn(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Child:
        """Start a process in its own session, its output appended to `log`, its input empty.

        Not a coroutine: nothing can come between the start and the guard's learning of it.

        Args:
            name: What people call the process.
            command: The program and its arguments.
            log: File for standard output and error; its folder is created.
            env: The whole environment; this process's own when omitted.
            cwd: Working directory; this process's own when omitted.

        Raises:
            MeshError: DEPENDENCY_MISSING if the program does not exist or cannot be executed.
        """
        if self._pipe is None:
            raise RuntimeError("a guard starts processes only inside its context")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            log_start = output.seek(0, os.SEEK_END)
            try:
                process = subprocess.Popen(
                    [os.fspath(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                )
            except (FileNotFoundError, PermissionError) as exc:
                raise MeshError(
                    ErrorCode.DEPENDENCY_MISSING, f"{name} cannot be started: {exc}"
                ) from exc
        self._tell(f"+{process.pid}")
        child = Child(name, process, log, log_start, on_exit=self._forget)
        self._children[child.pid] = child
        child.watch()
        return child

    def delete_at_end(self, folder: Path) -> None:
        """Have the guard process delete a temporary folder when everything else has ended."""
        self._tell(f"~{folder.absolute()}")

    def _forget(self, child: Child) -> None:
        self._children.pop(child.pid, None)
        self._tell(f"-{child.pid}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._pipe is None:
                return
            try:
                os.write(self._pipe, os.fsencode(line) + b"\n")
            except BrokenPipeError:
                _log.warning("the guard process is gone: a kill of this process leaves orphans")

    def _start(self) -> None:
        read_end, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard_program.__file__],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=self._hold_fds,
                start_new_session=True,
            )
        finally:
            os.close(read_end)

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            for child in self.children:
                child.kill()
            await closing
            raise

    async def _close(self) -> None:
        for child in reversed(self.children):
            await child.stop(self._grace_s)
        with self._lock:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
