"""What the embedded servers have in common: start until ready, stop, kill, start again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from langmesh.embedded.process import GRACE_S, Child, Guard
from langmesh.errors import ErrorCode, MeshError

T = TypeVar("T")

READY_WITHIN_S = 15.0
"""Seconds a server gets to become ready: far more than it needs, for machines under load."""

_POLL_S = 0.003
_TAIL_LINES = 15
_PORT_TAKEN = re.compile(r"listen tcp \S*?:(\d+): bind: address already in use")


class EmbeddedServer(ABC):
    """One server process on 127.0.0.1 that keeps its ports and its data over restarts.

    Args:
        data_dir: Folder of the server's state; created if missing. One server at a time.
        log: File that the server's output is appended to.
        guard: Owner of the process.
        port: Port for clients; 0 lets the kernel choose one at the first start.
        sync_always: The power-loss profile: every write reaches the disk before it is acknowledged.
            Without it (process-crash profile) writes survive a kill of the server.
    """

    name: str

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        *,
        guard: Guard,
        port: int = 0,
        sync_always: bool = False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log = log.absolute()
        self.port = port
        self.sync_always = sync_always
        self._guard = guard
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.returncode is None

    @property
    def pid(self) -> int:
        """Process id of the server itself.

        Raises:
            MeshError: NOT_RUNNING.
        """
        return self._running_child().pid

    async def start(self) -> None:
        """Start the server and return when it serves clients.

        A server that was stopped or killed comes back with the same ports and data.

        Raises:
            MeshError: ALREADY_RUNNING; DEPENDENCY_MISSING if the program is not installed;
                PORT_IN_USE naming the port; SERVER_START_FAILED with the end of the server's log.
        """
        if self.running:
            raise MeshError(
                ErrorCode.ALREADY_RUNNING, f"{self.name} runs already", remedy="Stop it first."
            )
        command = self._prepare()
        child = self._guard.spawn(self.name, command, log=self.log, env=self._environment())
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._until_ready(child)
        except BaseException as exc:
            child.kill()
            await child.wait()
            if isinstance(exc, TimeoutError):
                what = f"was not ready in {READY_WITHIN_S:g} s"
                raise self._start_failed(child, what) from None
            raise
        self._child = child

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop the server orderly; nothing happens when it does not run."""
        if self._child is not None:
            await self._child.stop(grace_s)

    async def kill(self) -> None:
        """Kill the server (SIGKILL) and return when it is gone; nothing when it does not run."""
        if self._child is not None:
            self._child.kill()
            await self._child.wait()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP) within a moment: connections stay open, nothing answers."""
        self._running_child().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._running_child().send_signal(signal.SIGCONT)

    @abstractmethod
    def _prepare(self) -> Sequence[str]:
        """Write what the server reads at start and return its command."""

    @abstractmethod
    async def _until_ready(self, child: Child) -> None:
        """Return when the server serves clients, with the ports read back."""

    def _environment(self) -> Mapping[str, str]:
        # Both servers are Go programs, whose scheduler wakes threads on every core it may use. They
        # share the cores with the services: on half of them the mesh does a fifth more steps.
        return {"GOMAXPROCS": str(max(1, (os.cpu_count() or 2) // 2)), **os.environ}

    async def _seen(self, child: Child, probe: Callable[[], T | None]) -> T:
        """Wait until `probe` finds something; a dead server is an error at once."""
        # Neither server can announce itself to its parent on every system, and files cannot be
        # watched portably; a look costs microseconds and ends after some tens of milliseconds.
        while (found := probe()) is None:
            if child.returncode is not None:
                raise self._start_failed(child, f"ended with status {child.returncode}")
            await asyncio.sleep(_POLL_S)
        return found

    def _start_failed(self, child: Child, what: str) -> MeshError:
        output = child.output()
        if taken := _PORT_TAKEN.search(output):
            return MeshError(
                ErrorCode.PORT_IN_USE, f"{self.name} cannot listen on port {taken[1]}: it is taken"
            )
        tail = "\n".join(output.splitlines()[-_TAIL_LINES:]) or "(its log is empty)"
        return MeshError(
            ErrorCode.SERVER_START_FAILED,
            f"{self.name} {what}:\n{tail}\n",
            remedy=f"Read its log {self.log}.",
        )

    def _running_child(self) -> Child:
        if self._child is None or self._child.returncode is not None:
            raise MeshError(
                ErrorCode.NOT_RUNNING, f"{self.name} does not run", remedy="Start it first."
            )
        return self._child
