"""Puts, deletions and prolongations: each a compare-and-set on the subject's last message.

The condition keeps ``created_at`` right among concurrent writers, makes sure that a prolongation
never overwrites a put and never brings back what was deleted, and lets a writer whose
acknowledgement was lost find out what became of its message.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from langmesh import clock
from langmesh.bus import Bus, Conflict
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import entries
from langmesh.store.entries import Entry
from langmesh.wire import subjects
from langmesh.wire.codec import BODY_BYTES_MAX, encode_stored
from langmesh.wire.items import (
    MARKER_HEADER,
    MARKER_REASON,
    TTL_HEADER,
    ItemVectors,
    StoreDeleted,
    StoreItem,
)
from langmesh.wire.streams import STORE

log = logging.getLogger(__name__)

PATIENCE_S: Final = 20.0
"""How long an operation tries again while nats-server does not answer, e.g. is started anew."""
AT_ONCE_MAX: Final = 256
"""Keys that a store reads and writes side by side; more would wait past their time limits."""
_PAUSE_S: Final = 0.2
_TTL_S_MAX: Final = 100 * 366 * 24 * 3600
_DELETED_HEADERS: Final = {TTL_HEADER: str(STORE.marker_ttl_s), MARKER_HEADER: MARKER_REASON}

_T = TypeVar("_T")
_Said = tuple[int, Entry | StoreDeleted | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What is to become of a key: a checked value, or None to delete it."""

    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any] | None
    ttl_s: int | None = None
    vectors: ItemVectors | None = None
    revision: int | None = None
    """Refuse unless this is the item's revision, 0 for none; None to write in any case."""

    @property
    def name(self) -> str:
        """The item in error messages."""
        return f"key {self.key[:80]!r} of namespace {self.namespace!r}"

    def with_vectors(self, vectors: ItemVectors | None) -> Write:
        """The same, with the vectors of its texts."""
        return replace(self, vectors=vectors)


async def patiently(bus: Bus, operation: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a read while nats-server does not answer.

    Raises:
        MeshError: BROKER_UNAVAILABLE after ``PATIENCE_S`` seconds; what else the operation raises.
    """
    deadline = clock.monotonic() + PATIENCE_S
    while True:
        try:
            return await operation()
        except MeshError as exc:
            if not _may_pass(bus, exc) or clock.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


async def all_of(calls: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all calls, to their end also when one fails; then raise the first failure."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return done  # type: ignore[return-value]


def _may_pass(bus: Bus, exc: MeshError) -> bool:
    return exc.code is ErrorCode.BROKER_UNAVAILABLE and not bus.client.is_closed


class Writer:
    """Reads and writes single keys of one tenant."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._gate = asyncio.Semaphore(AT_ONCE_MAX)

    async def last(self, namespace: tuple[str, ...], key: str) -> Entry | None:
        """The item, with one direct get.

        Raises:
            MeshError: BROKER_UNAVAILABLE; what is wrong with a message that no store wrote.
        """
        subject = subjects.store_item(self._tenant, namespace, key)
        async with self._gate:
            found = await self._bus.last(STORE.name, subject)
        said = entries.read(self._tenant, subject, *found) if found is not None else None
        return said if isinstance(said, Entry) else None

    async def write(self, writes: Sequence[Write]) -> list[int]:
        """Put or delete different keys, in the given order.

        Others may write to the same keys meanwhile: then a write comes later than it stands.

        Returns:
            For each the revision; 0 for a deletion, and where another write came so soon that this
            one's cannot be known.

        Raises:
            MeshError: CONFLICT if ``write.revision`` is not the item's; PAYLOAD_TOO_LARGE;
                BROKER_UNAVAILABLE after ``PATIENCE_S`` seconds, when the outcome is unknown.
        """
        found = await all_of([self._first(write) for write in writes])
        # Answers come in any order. Only what is sent without another wait keeps its place.
        return await all_of(
            [self._write(write, first) for write, first in zip(writes, found, strict=True)]
        )

    async def prolong(self, entry: Entry) -> None:
        """Begin an item's time to live anew, unless it has changed or gone since it was read."""
        if entry.ttl_s is None:
            return
        body = encode_stored(entry.message())
        headers = {TTL_HEADER: str(entry.ttl_s)}
        try:
            async with self._gate:
                await self._bus.append(
                    entry.subject, body, expected_last=entry.seq, headers=headers
                )
        except Conflict:
            pass
        except MeshError as exc:
            log.warning("the life of %s is not prolonged: %s", entry.subject, exc.message)

    async def _first(self, write: Write) -> _Said | None:
        """What is on the subject, unless nats-server does not answer now."""
        try:
            async with self._gate:
                return await self._said(self._subject(write))
        except MeshError as exc:
            if not _may_pass(self._bus, exc):
                raise
            return None

    async def _write(self, write: Write, found: _Said | None) -> int:
        async with self._gate:
            return await self._compare_and_set(write, found)

    async def _compare_and_set(self, write: Write, found: _Said | None) -> int:
        subject = self._subject(write)
        token = clock.new_id()
        deadline = clock.monotonic() + PATIENCE_S
        unsure_at: int | None = None
        while True:
            try:
                seq, said = found if found is not None else await self._said(subject)
                found = None
                if said is not None and said.write == token:
                    return said.revision if isinstance(said, Entry) else 0
                if unsure_at not in (None, seq):
                    break
                entry = said if isinstance(said, Entry) else None
                _check_revision(write, entry)
                if write.value is None and entry is None:
                    return 0
                message = _message(write, token, entry)
                try:
                    return await self._append(write, subject, message, seq)
                except Conflict:
                    continue
                except MeshError:
                    unsure_at = seq
                    raise
            except MeshError as exc:
                if not _may_pass(self._bus, exc) or clock.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)
        return _overwritten(write)

    def _subject(self, write: Write) -> str:
        return subjects.store_item(self._tenant, write.namespace, write.key)

    async def _said(self, subject: str) -> _Said:
        """A subject's last message and its stream sequence, 0 for none."""
        found = await self._bus.last(STORE.name, subject)
        if found is None:
            return 0, None
        try:
            return found[0], entries.read(self._tenant, subject, *found)
        except MeshError as exc:
            log.warning("what is on %s is overwritten: %s", subject, exc.message)
            return found[0], None

    async def _append(
        self, write: Write, subject: str, message: StoreItem | StoreDeleted, last: int
    ) -> int:
        body = encode_stored(message)
        limit = min(BODY_BYTES_MAX, self._bus.client.max_payload)
        if len(body) > limit:
            raise MeshError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"{write.name}: {len(body):,} bytes with its vectors, more than {limit:,}",
                remedy="Store a reference to the data, spread it over several keys, or index fewer"
                " fields.",
            )
        headers = {} if write.ttl_s is None else {TTL_HEADER: str(write.ttl_s)}
        if isinstance(message, StoreDeleted):
            headers = _DELETED_HEADERS
        seq = await self._bus.append(subject, body, expected_last=last, headers=headers)
        return seq if isinstance(message, StoreItem) else 0


def ttl_seconds(minutes: Any) -> int | None:
    """LangGraph's minutes as the whole seconds that nats-server counts, rounded up.

    Raises:
        MeshError: INVALID_FIELD.
    """
    if minutes is None:
        return None
    if isinstance(minutes, int | float) and not isinstance(minutes, bool):
        seconds = minutes * 60
        if 0 < seconds <= _TTL_S_MAX:
            return math.ceil(seconds)
    raise MeshError(
        ErrorCode.INVALID_FIELD,
        f"ttl: {minutes!r} is not a number of minutes above 0 and up to 100 years",
        remedy="Leave it out, or give None, for an item that does not expire.",
    )


def _check_revision(write: Write, entry: Entry | None) -> None:
    found = entry.revision if entry is not None else 0
    if write.revision not in (None, found):
        raise MeshError(
            ErrorCode.CONFLICT,
            f"{write.name} has revision {found}, not {write.revision}",
            remedy="Get the item again and decide anew.",
        )


def _overwritten(write: Write) -> int:
    """An acknowledgement was lost, and another write came behind the message, if it was stored.

    A put in any case is as good as done: whoever came last would have won just the same.
    """
    if write.revision is None:
        return 0
    raise MeshError(
        ErrorCode.BROKER_UNAVAILABLE,
        f"{write.name}: no acknowledgement came, and another write followed: the outcome is"
        " unknown",
    )


def _message(write: Write, token: str, entry: Entry | None) -> StoreItem | StoreDeleted:
    time = clock.now_iso()
    namespace = list(write.namespace)
    if write.value is None:
        return StoreDeleted(namespace=namespace, key=write.key, time=time, write=token)
    now = datetime.fromisoformat(time)
    created = entry.created_at if entry is not None else now
    return StoreItem(
        namespace=namespace,
        key=write.key,
        value=write.value,
        created_at=created,
        # Another writer's clock may be ahead of this one's.
        updated_at=max(now, created),
        write=token,
        first_seq=entry.order if entry is not None else 0,
        ttl_s=write.ttl_s,
        vectors=write.vectors,
    )
