"""The replicas of one store: one per prefix that was asked for, within a bound of memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import Final

from langmesh.bus import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.store.replica import Replica

log = logging.getLogger(__name__)

REPLICAS_MAX: Final = 64
"""Prefixes that a store follows at once; each is a consumer of the broker."""


@dataclass(eq=False, slots=True)
class _Kept:
    replica: Replica
    around: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    filled: bool = False


class Replicas:
    """Makes replicas when they are asked for, and ends those used longest ago.

    Args:
        bus: The connection.
        tenant: Name of the tenant.
        bytes_max: Estimated bytes of all replicas together.

    Attributes:
        size: Estimated bytes of all replicas.
    """

    def __init__(self, bus: Bus, tenant: str, *, bytes_max: int) -> None:
        self._bus = bus
        self._tenant = tenant
        self._bytes_max = bytes_max
        self.size = 0
        # In the order of their last use.
        self._kept: dict[tuple[str, ...], _Kept] = {}
        # One at a time: two that need all the room would make room for each other for ever.
        self._one_fills = asyncio.Lock()
        self._filling: _Kept | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def prefixes(self) -> list[tuple[str, ...]]:
        """What is followed, the longest unused first."""
        return list(self._kept)

    async def current(self, namespace: tuple[str, ...]) -> Replica:
        """A replica that holds all that is stored below a namespace by now.

        It may let go of its items at the next ``await`` of the caller.

        Raises:
            MeshError: BROKER_UNAVAILABLE; PAYLOAD_TOO_LARGE if it takes more memory than allowed.
        """
        kept = self._covering(namespace)
        if kept is not None and kept.filled:
            with contextlib.suppress(_Crowded):
                await kept.replica.catch_up(namespace)
                return kept.replica
        async with self._one_fills:
            kept = self._covering(namespace) or await self._open(namespace)
            self._filling = kept
            try:
                await kept.replica.catch_up(namespace)
            finally:
                self._filling = None
            kept.filled = True
            return kept.replica

    async def close(self) -> None:
        """End all replicas."""
        for kept in list(self._kept.values()):
            self._end(kept, MeshError(ErrorCode.NOT_RUNNING, "the store was closed"))
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _covering(self, namespace: tuple[str, ...]) -> _Kept | None:
        for depth in range(len(namespace) + 1):
            prefix = namespace[:depth]
            if (kept := self._kept.pop(prefix, None)) is not None:
                self._kept[prefix] = kept
                return kept
        return None

    async def _open(self, prefix: tuple[str, ...]) -> _Kept:
        for other in list(self._kept.values()):
            if other.replica.prefix[: len(prefix)] == prefix:
                self._end(other, _Crowded())
        while len(self._kept) >= REPLICAS_MAX:
            self._end(next(iter(self._kept.values())), _Crowded())
        kept = _Kept(Replica(self._bus, self._tenant, prefix, self._on_growth))
        self._kept[prefix] = self._filling = kept
        try:
            await kept.around.enter_async_context(kept.replica.following())
        except BaseException:
            self._end(kept, MeshError(ErrorCode.BROKER_UNAVAILABLE, "it never began"))
            raise
        finally:
            self._filling = None
        if kept.replica.ended is not None:  # while it began, too soon for its end to stop it
            await kept.around.aclose()
            raise kept.replica.ended
        return kept

    def _on_growth(self, size: int) -> None:
        self.size += size
        while size > 0 and self.size > self._bytes_max:
            # The one that is being filled goes last, or it might never be.
            kept = min(self._kept.values(), key=lambda each: each is self._filling)
            if len(self._kept) > 1:
                log.info("replica of %r makes room for others", kept.replica.prefix)
                self._end(kept, _Crowded())
                continue
            reason = MeshError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"the items below namespace {kept.replica.prefix!r} take more memory than"
                f" replica_bytes_max, {self._bytes_max:,} bytes",
                remedy="Search below a longer prefix, or give the store a larger"
                " replica_bytes_max.",
            )
            log.warning("%s", reason.message)
            self._end(kept, reason)

    def _end(self, kept: _Kept, reason: MeshError) -> None:
        if self._kept.get(kept.replica.prefix) is kept:
            del self._kept[kept.replica.prefix]
        kept.replica.end(reason)
        task = asyncio.create_task(kept.around.aclose(), name="end of a store's replica")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _Crowded(MeshError):
    """A replica went because others need its place; whoever wants it makes a new one."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.BUSY, "the replica went, as others need its place")
