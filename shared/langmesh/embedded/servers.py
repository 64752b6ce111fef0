"""nats-server and etcd together, as a stack needs them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from langmesh import clock
from langmesh.embedded.etcd import EmbeddedEtcd
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard
from langmesh.embedded.server import EmbeddedServer
from langmesh.errors import ErrorCode, MeshError

_CLEAR_UP_WITHIN_S = 3.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers, ready.

    Attributes:
        nats_url: ``nats://HOST:PORT``.
        etcd_endpoints: ``HOST:PORT`` of each etcd member.
        home: Folder with their state and logs.
        guard: Owner of the server processes. What is spawned here ends before the servers do.
        nats: The server that was started, None where an existing one is used.
        etcd: Likewise.
    """

    nats_url: str
    etcd_endpoints: tuple[str, ...]
    home: Path
    guard: Guard
    nats: EmbeddedNats | None
    etcd: EmbeddedEtcd | None


@asynccontextmanager
async def embedded_servers(
    home: Path,
    *,
    nats_url: str | None = None,
    etcd_endpoints: Sequence[str] | None = None,
    sync_always: bool = False,
    temporary: bool = False,
    nats_port: int = 0,
    etcd_port: int = 0,
) -> AsyncIterator[Servers]:
    """Run the servers that do not exist yet, with their state in `home`.

    `home` holds ``lock``, ``nats/``, ``etcd/`` and ``logs/*.log``; state survives from one run to
    the next. Only one process at a time may use it.

    Args:
        home: Folder of the stack; created if missing.
        nats_url: An existing nats-server to use instead of an embedded one.
        etcd_endpoints: Existing etcd members, likewise.
        sync_always: Whether the embedded servers follow the power-loss profile.
        temporary: Whether `home` is deleted at the end.
        nats_port: Port of the embedded nats-server; 0 lets the kernel pick one.
        etcd_port: Port of the embedded etcd, likewise.

    Raises:
        MeshError: ALREADY_RUNNING if another process uses `home`; otherwise as
            :meth:`~langmesh.embedded.server.EmbeddedServer.start`.
    """
    logs = home / "logs"
    async with _owned(home) as lock, Guard(hold_fds=[lock]) as guard:
        if temporary:
            guard.delete_at_end(home)
        nats = EmbeddedNats(
            home / "nats",
            logs / "nats-server.log",
            guard=guard,
            port=nats_port,
            sync_always=sync_always,
        )
        etcd = EmbeddedEtcd(
            home / "etcd",
            logs / "etcd.log",
            guard=guard,
            port=etcd_port,
            sync_always=sync_always,
        )
        wanted: list[EmbeddedServer] = []
        if nats_url is None:
            wanted.append(nats)
        if not etcd_endpoints:
            wanted.append(etcd)
        await _start_all(wanted)
        yield Servers(
            nats_url=nats.url if nats_url is None else nats_url,
            etcd_endpoints=tuple(etcd_endpoints or (etcd.endpoint,)),
            home=home,
            guard=guard,
            nats=nats if nats in wanted else None,
            etcd=etcd if etcd in wanted else None,
        )


async def _start_all(servers: Sequence[EmbeddedServer]) -> None:
    """Start the servers side by side; the first failure is raised when all have settled."""
    outcomes = await asyncio.gather(*(s.start() for s in servers), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


@asynccontextmanager
async def _owned(home: Path) -> AsyncIterator[int]:
    """Own a home folder; yields the descriptor of the lock to share with the guard.

    There are two locks, as they end at different times when this process is killed: ``home/lock``
    at once, that of the folder itself when the guard has cleared up. A new owner is refused by the
    first and waits for the second.
    """
    with (
        _opened(home / "lock", os.O_RDWR | os.O_CREAT) as own,
        _opened(home, os.O_RDONLY) as shared,
    ):
        if not _try_lock(own):
            owner = os.pread(own, 32, 0).decode("ascii", "replace").strip()
            raise MeshError(ErrorCode.ALREADY_RUNNING, f"Process {owner} runs a mesh in {home}")
        os.ftruncate(own, 0)
        os.pwrite(own, b"%d\n" % os.getpid(), 0)
        deadline = clock.monotonic() + _CLEAR_UP_WITHIN_S
        while not _try_lock(shared):
            if clock.monotonic() > deadline:
                raise MeshError(
                    ErrorCode.ALREADY_RUNNING,
                    f"Processes of a mesh that was killed still run in {home}",
                    remedy="End them and try again.",
                )
            await asyncio.sleep(_POLL_S)
        yield shared


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
