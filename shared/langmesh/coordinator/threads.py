"""The threads that this coordinator owns: their logs, their runs in order, what is kept in memory.

Everything about a thread is in its log, so one that is idle may be dropped and opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langmesh.bus import Bus
from langmesh.coordinator.journal import Journal
from langmesh.coordinator.saver import ThreadSaver
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.loading import LoadedGraph
from langmesh.log import Logs, ThreadLog
from langmesh.log.chain import Tail
from langmesh.wire.log import Record
from langmesh.wire.names import partition

if TYPE_CHECKING:
    from langmesh.coordinator.live import Live
    from langmesh.coordinator.run import Run

ThreadKey = tuple[str, str]


class NotOwned(MeshError):
    """Another coordinator owns the thread's partition, or is about to."""

    def __init__(self, name: str) -> None:
        super().__init__(
            ErrorCode.BUSY,
            f"thread_id: {name[:100]!r} is in the hands of another coordinator",
            remedy="Ask again in a moment.",
        )


@dataclass(slots=True, eq=False)
class Thread:
    """One thread: its log, and a queue in which its runs go one after the other."""

    tenant: str
    name: str
    log: ThreadLog
    logs: Logs
    waiting: deque[Live] = field(default_factory=deque)
    active: Live | None = None
    held: bool = False
    """Whether something else than a run works on the thread's state."""
    rivals_epoch: int = 0
    """Of an owner that wrote to the log and has been found not to own it any more."""
    users: int = 0
    """How many are inside of :meth:`Threads.using`."""
    reviving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a run is made of what the log says, so that there is one of each."""
    latest: Run | None = None
    """The run that was driven last in this process; an answer continues it while it asks."""
    _journal: Journal = field(default_factory=Journal)
    _folded: int = 0

    @property
    def partition(self) -> int:
        """Where it belongs."""
        return partition(self.tenant, self.name)

    @property
    def busy(self) -> bool:
        """Whether a run that comes must wait."""
        return self.held or self.active is not None

    @property
    def asking(self) -> bool:
        """Whether a run that was driven here waits for a human."""
        return self.latest is not None and self.latest.asking

    async def journal(self) -> Journal:
        """How its runs stand, as the log tells.

        Raises:
            MeshError: FENCED, BROKEN_CHAIN, BROKER_UNAVAILABLE.
        """
        records = (await self.log.load()).journal
        if self._folded > len(records):
            # The chain was begun anew, or pruned.
            self._journal, self._folded = Journal(), 0
        self._journal.apply(record for _, record in records[self._folded :])
        self._folded = len(records)
        return self._journal

    async def append(self, records: Sequence[Record]) -> Tail:
        """State something in the log.

        Raises:
            MeshError: As :meth:`journal`.
        """
        return await self.log.append(records)

    def saver(self, loaded: LoadedGraph, **options: Any) -> ThreadSaver:
        """A checkpointer for the thread, which decodes by a graph's schemas."""
        return ThreadSaver(self.log, self.logs.values, loaded.serde.strict, **options)


class Threads:
    """Opens threads, and forgets those that were idle the longest.

    Args:
        bus: The connection.
        instance: This coordinator, written into every entry.
        epoch: Tells the epoch of its ownership of a partition, likewise written; 0 for none.
        confirm: Asks the registry whether it owns a partition.
        idle_max: How many idle threads are kept in memory.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        instance: str,
        epoch: Callable[[int], int],
        confirm: Callable[[int], Awaitable[bool]],
        idle_max: int,
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._epoch = epoch
        self._confirm = confirm
        self._idle_max = idle_max
        self._logs: dict[str, Logs] = {}
        self._threads: OrderedDict[ThreadKey, Thread] = OrderedDict()

    def close(self) -> None:
        """Listen to the connection no more."""
        for logs in self._logs.values():
            logs.close()

    def has(self, thread: Thread) -> bool:
        """Whether a thread is still this coordinator's."""
        return self._threads.get((thread.tenant, thread.name)) is thread

    def find(self, tenant: str, name: str) -> Thread | None:
        """A thread that is in memory."""
        return self._threads.get((tenant, name))

    @contextlib.asynccontextmanager
    async def using(self, tenant: str, name: str, *, is_new: bool = False) -> AsyncIterator[Thread]:
        """A thread with its log loaded, which is not forgotten while the block runs.

        Args:
            tenant: Whose.
            name: Its name.
            is_new: Whether its name was made for it just now, so that there is nothing to load.

        Raises:
            NotOwned: It is not this coordinator's.
            MeshError: INVALID_NAME, BROKEN_CHAIN, BROKER_UNAVAILABLE.
        """
        if not (epoch := self._epoch(partition(tenant, name))):
            raise NotOwned(name)
        key = (tenant, name)
        thread = self._threads.get(key)
        if thread is None or (thread.log.failed and not thread.busy):
            logs = self._logs_of(tenant)
            thread = Thread(tenant, name, logs.own(name, epoch=epoch), logs)
            self._threads[key] = thread
            if is_new:
                thread.log.begin()
        self._threads.move_to_end(key)
        thread.users += 1
        try:
            self._forget_idle()
            await thread.log.load()
            await self._step_back_if_replaced(thread, epoch)
            yield thread
        finally:
            thread.users -= 1

    def drop(self, partitions: Collection[int]) -> None:
        """Forget the threads of partitions that have another owner."""
        for key, thread in list(self._threads.items()):
            if thread.partition in partitions:
                thread.log.close()
                del self._threads[key]

    async def _step_back_if_replaced(self, thread: Thread, epoch: int) -> None:
        """Leave a thread alone that a later owner has written to.

        A greater epoch is no proof: they start again when the registry loses its data.
        """
        found = thread.log.found_epoch
        if found <= epoch or found == thread.rivals_epoch:
            return
        if not await self._confirm(thread.partition):
            raise NotOwned(thread.name)
        thread.rivals_epoch = found

    def _logs_of(self, tenant: str) -> Logs:
        if (logs := self._logs.get(tenant)) is None:
            logs = Logs(self._bus, tenant=tenant, writer=self._instance)
            self._logs[tenant] = logs
        return logs

    def _forget_idle(self) -> None:
        if len(self._threads) <= self._idle_max:
            return
        for key, thread in self._threads.items():
            if not (thread.users or thread.busy or thread.waiting) and thread.log.idle:
                del self._threads[key]
                return
