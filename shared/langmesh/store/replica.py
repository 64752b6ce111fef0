"""A copy of what is stored below one prefix, filled once and kept current by the stream's tail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.errors import MeshError
from langmesh.store import entries
from langmesh.store.entries import Entry
from langmesh.store.tree import Tree
from langmesh.wire import subjects
from langmesh.wire.streams import STORE

log = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 1.0
_STALE_S: Final = STORE.marker_ttl_s / 2


class Replica:
    """What one tenant has stored below a prefix; it follows while :meth:`following` runs.

    Args:
        bus: The connection.
        tenant: Name of the tenant.
        prefix: Labels that the namespaces begin with.
        on_growth: Called after each change with the bytes by which the replica grew or shrank.
    """

    def __init__(
        self, bus: Bus, tenant: str, prefix: tuple[str, ...], on_growth: Callable[[int], None]
    ) -> None:
        self._bus = bus
        self._tenant = tenant
        self.prefix = prefix
        self.tree = Tree()
        self._on_growth = on_growth
        self._seen = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.ended: MeshError | None = None
        """Why it follows no longer, once it does not."""
        # A deletion that is missed while the broker is out of reach leaves no trace but its marker.
        self._tail = Tail(
            bus,
            STORE.name,
            (subjects.store_below(tenant, prefix),),
            self._on_message,
            stale_after_s=_STALE_S,
            on_stale=self._forget,
        )

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the stream until the block ends.

        Raises:
            MeshError: BROKER_UNAVAILABLE if it cannot be followed.
        """
        async with self._tail.run():
            yield

    async def catch_up(self, namespace: tuple[str, ...]) -> None:
        """Wait until everything below a namespace is here that was stored before the call.

        Raises:
            MeshError: BROKER_UNAVAILABLE, or why the replica has ended.
        """
        pattern = subjects.store_below(self._tenant, namespace)
        while True:
            if self.ended is not None:
                raise self.ended
            last = await self._bus.find(STORE.name, pattern)
            if last is None or last[1] <= self._seen:
                return
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((last[1], reached))
            # The message may be gone before the tail gets there, with none behind it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await reached

    def end(self, reason: MeshError) -> None:
        """Let go of everything; those who wait get the reason."""
        self.ended = reason
        self._forget()
        self._wake()

    def _forget(self) -> None:
        size, self.tree = self.tree.size, Tree()
        self._seen = 0
        self._on_growth(-size)

    def _on_message(self, subject: str, body: bytes, seq: int) -> None:
        if self.ended is not None:
            return
        try:
            said = entries.read(self._tenant, subject, seq, body)
        except MeshError as exc:
            log.warning("not an item, on %s: %s", subject, exc.message)
            said = None
        before = self.tree.size
        if isinstance(said, Entry):
            self.tree.put(said)
        else:
            self.tree.remove(subject)
        self._seen = seq
        if self._waiting:
            self._wake()
        self._on_growth(self.tree.size - before)

    def _wake(self) -> None:
        left = []
        for target, reached in self._waiting:
            if reached.done():
                continue
            if self.ended is not None or target <= self._seen:
                reached.set_result(None)
            else:
                left.append((target, reached))
        self._waiting = left
