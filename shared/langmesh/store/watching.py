"""Changes of a store as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import entries
from langmesh.store.entries import Entry, StoredItem
from langmesh.store.writing import patiently
from langmesh.wire import subjects
from langmesh.wire.items import StoreDeleted
from langmesh.wire.streams import STORE

log = logging.getLogger(__name__)

INBOX_MAX: Final = 10_000
"""Changes that wait for a slow reader; then the rest stays in the stream until it has read them."""

_Message = tuple[str, bytes, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key."""

    kind: Literal["put", "delete", "expire"]
    namespace: tuple[str, ...]
    key: str
    revision: int
    """Where to go on: ``watch(…, after=change.revision)`` yields what came later."""
    item: StoredItem | None = None
    """What was put; None when it was deleted or its time was up."""


class Changes:
    """Puts, deletions and expirations below a namespace, in the order of the stream.

    ``async for`` yields them for ever. In an ``async with`` block it stands from the beginning of
    the block on, otherwise from the first item that is asked for.
    """

    def __init__(
        self,
        bus: Bus,
        tenant: str,
        prefix: tuple[str, ...],
        *,
        initial: bool,
        after: int | None,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._news = _News(tenant, prefix)
        self._pattern = subjects.store_below(tenant, prefix)
        self._initial = initial
        self._after = after
        self._ready = ready
        self._around: contextlib.AsyncExitStack | None = None
        self._inbox = _Inbox()
        self._next_seq = 1

    async def __aenter__(self) -> Self:
        """Begin to follow.

        Raises:
            MeshError: BROKER_UNAVAILABLE.
        """
        if self._around is not None:
            return self
        await self._ready()
        last = await patiently(self._bus, lambda: self._bus.find(STORE.name, self._pattern))
        now = last[1] if last is not None else 0
        if self._after is None:
            self._after = 0 if self._initial else now
        self._news.begin(told=self._after, deletions_after=now if self._initial else self._after)
        self._next_seq = self._after + 1
        await patiently(self._bus, self._follow)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Follow no longer."""
        around, self._around = self._around, None
        self._inbox.close()
        if around is not None:
            await around.aclose()

    async def __aiter__(self) -> AsyncIterator[Change]:
        """Yield the changes."""
        owned = self._around is None
        await self.__aenter__()
        try:
            while self._around is not None:
                async for subject, body, seq in self._inbox:
                    self._next_seq = seq + 1
                    if (change := self._news.change(subject, body, seq)) is not None:
                        yield change
                if self._around is not None:
                    await patiently(self._bus, self._follow)
        finally:
            if owned:
                await self.__aexit__(None, None, None)

    async def _follow(self) -> None:
        """Follow from the next message on, instead of where the inbox became full."""
        await self.__aexit__(None, None, None)
        self._inbox = _Inbox()
        tail = Tail(
            self._bus, STORE.name, (self._pattern,), self._inbox.take, start_seq=self._next_seq
        )
        around = contextlib.AsyncExitStack()
        await around.enter_async_context(tail.run())
        self._around = around


class _Inbox:
    """What has arrived and is not read; iteration ends when it was full and is read."""

    def __init__(self) -> None:
        self._messages: deque[_Message] = deque()
        self._arrived = asyncio.Event()
        self._full = False

    def take(self, subject: str, body: bytes, seq: int) -> None:
        self._full = self._full or len(self._messages) >= INBOX_MAX
        if not self._full:
            self._messages.append((subject, body, seq))
            self._arrived.set()

    def close(self) -> None:
        """Take no more; who has read what is there is done."""
        self._full = True
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[_Message]:
        while self._messages or not self._full:
            if self._messages:
                yield self._messages.popleft()
            else:
                self._arrived.clear()
                await self._arrived.wait()


class _News:
    """Tells what is new in a message: pure, one message after the other."""

    def __init__(self, tenant: str, prefix: tuple[str, ...]) -> None:
        self._tenant = tenant
        self._prefix = prefix
        self._told = 0
        self._deletions_after = 0
        # Only items that expire: they can be prolonged, and their expiration names nobody.
        self._mortal: dict[str, Entry] = {}

    def begin(self, *, told: int, deletions_after: int) -> None:
        """Puts up to one revision, and deletions up to another, are no news."""
        self._told = told
        self._deletions_after = deletions_after

    def change(self, subject: str, body: bytes, seq: int) -> Change | None:
        try:
            said = entries.read(self._tenant, subject, seq, body)
        except MeshError as exc:
            log.warning("not an item, on %s: %s", subject, exc.message)
            return None
        change = self._put(said) if isinstance(said, Entry) else self._gone(subject, said, seq)
        if change is None or change.namespace[: len(self._prefix)] != self._prefix:
            return None
        return change

    def _put(self, entry: Entry) -> Change | None:
        before = self._mortal.pop(entry.subject, None)
        if entry.ttl_s is not None:
            self._mortal[entry.subject] = entry
        prolonged = before is not None and before.revision == entry.revision
        if prolonged or entry.revision <= self._told:
            return None
        return Change("put", entry.namespace, entry.key, entry.seq, entry.item())

    def _gone(self, subject: str, said: StoreDeleted | None, seq: int) -> Change | None:
        before = self._mortal.pop(subject, None)
        if seq <= self._deletions_after:
            return None
        if said is not None:
            return Change("delete", tuple(said.namespace), said.key, seq)
        if before is not None:
            return Change("expire", before.namespace, before.key, seq)
        try:
            names = subjects.parse_store_item(subject)
        except MeshError as exc:
            if exc.code is not ErrorCode.INVALID_NAME:
                raise
            log.warning("an item expired whose name is not in its subject: %s", exc.message)
            return None
        return Change("expire", names.namespace, names.key, seq)
