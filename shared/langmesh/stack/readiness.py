"""Hear from the services of a stack that they are ready, as ``sd_notify(3)`` has it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langmesh.errors import ErrorCode, MeshError
from langmesh.service.notify import INSTANCE_KEY, SERVICE_KEY
from langmesh.stack.spec import ServiceSpec

_DATAGRAM_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ReadyService:
    """One service process that has said that it is ready."""

    name: str
    instance: str
    pid: int


class Readiness:
    """The services that are ready, by pid."""

    def __init__(self, receiver: socket.socket, path: str) -> None:
        self.path = path
        self._receiver = receiver
        self._ready: dict[int, ReadyService] = {}
        self._dismissed: set[int] = set()
        self._changed = asyncio.Event()

    @property
    def services(self) -> list[ReadyService]:
        """The ready services, by name."""
        return sorted(self._ready.values(), key=lambda item: (item.name, item.pid))

    def forget(self, pid: int) -> None:
        """Note that a process ended."""
        self._ready.pop(pid, None)
        self._dismissed.discard(pid)

    def dismiss(self, pid: int) -> None:
        """Note that a process was told to end, whatever it may still say."""
        self._ready.pop(pid, None)
        self._dismissed.add(pid)

    async def wait(
        self,
        specs: Sequence[ServiceSpec],
        *,
        failed: asyncio.Future[MeshError],
        timeout_s: float,
    ) -> None:
        """Wait until all replicas of all services are ready.

        Raises:
            MeshError: Why a service cannot be kept running, or TIMED_OUT naming what is missing.
        """
        wanted = Counter(spec.name for spec in specs for _ in spec.labels)
        try:
            async with asyncio.timeout(timeout_s):
                while wanted - Counter(item.name for item in self._ready.values()):
                    self._changed.clear()
                    await either(self._changed, failed)
                    if failed.done():
                        raise failed.result()
        except TimeoutError as exc:
            missing = wanted - Counter(item.name for item in self._ready.values())
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"not ready after {timeout_s:g} s: {', '.join(sorted(missing.elements()))}",
                remedy="Read their logs in .mesh/logs.",
            ) from exc

    def on_datagram(self) -> None:
        """Take what has arrived on the socket."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._receiver.recv(_DATAGRAM_BYTES))

    def _take(self, datagram: bytes) -> None:
        lines = datagram.decode("utf-8", "replace").splitlines()
        fields = dict(line.partition("=")[::2] for line in lines)
        if not fields.get("MAINPID", "").isdigit():
            return
        pid = int(fields["MAINPID"])
        if fields.get("READY") == "1" and pid not in self._dismissed:
            self._ready[pid] = ReadyService(
                fields.get(SERVICE_KEY, ""), fields.get(INSTANCE_KEY, ""), pid
            )
        elif fields.get("STOPPING") == "1":
            self._ready.pop(pid, None)
        self._changed.set()


@contextlib.asynccontextmanager
async def readiness() -> AsyncIterator[Readiness]:
    """Listen while the block runs; the socket's path goes to the services as ``NOTIFY_SOCKET``."""
    loop = asyncio.get_running_loop()
    # Not in the stack's home: a socket's path may have only about a hundred bytes.
    with (
        tempfile.TemporaryDirectory(prefix="langmesh-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        path = str(Path(folder) / "notify")
        receiver.setblocking(False)
        receiver.bind(path)
        heard = Readiness(receiver, path)
        loop.add_reader(receiver, heard.on_datagram)
        try:
            yield heard
        finally:
            loop.remove_reader(receiver)


async def either(event: asyncio.Event, future: asyncio.Future[Any]) -> None:
    """Wait until an event is set or a future is resolved."""
    waiter = asyncio.ensure_future(event.wait())
    pending: set[asyncio.Future[Any]] = {waiter, future}
    try:
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
