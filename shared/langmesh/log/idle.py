"""Find threads that nothing was appended to for long, by the order in which LOG was written.

LOG is read once from its beginning: whoever keeps the place goes on from there, and what is found
later has been written later. So the work depends on what was appended, not on what is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from langmesh.bus import Bus
from langmesh.bus.reading import bounds, read_page, seq_since
from langmesh.clock import ago_iso
from langmesh.errors import MeshError
from langmesh.wire import subjects
from langmesh.wire.log import RunEndedRecord, RunRecord, decode_entry
from langmesh.wire.streams import LOG


class IdleThread(NamedTuple):
    """A thread and the last that was written to it."""

    tenant: str
    thread: str
    seq: int
    """Stream sequence of its last entry."""
    is_over: bool | None
    """Whether its last run is over; None if that entry does not tell."""


class Page(NamedTuple):
    """A part of LOG."""

    idle: list[IdleThread]
    """Threads whose last entry is in it."""
    next_seq: int
    """Where the next part begins."""


async def idle_threads(
    bus: Bus, *, tenant: str | None = None, first_seq: int = 1, idle_s: float
) -> AsyncGenerator[Page]:
    """Go through LOG up to what was written so many seconds ago.

    Args:
        bus: The connection.
        tenant: Whose threads; all if None.
        first_seq: Where to begin.
        idle_s: For how long nothing must have been appended.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    until = await seq_since(bus, LOG.name, ago_iso(idle_s))
    if until is None:
        until = (await bounds(bus, LOG.name))[1] + 1
    pattern = subjects.LOG_ALL if tenant is None else subjects.logs_of_tenant(tenant)
    more = True
    while more and first_seq < until:
        page, more = await read_page(bus, LOG.name, pattern, start_seq=first_seq)
        newest = {message.subject: message for message in page if message.seq < until}
        idle = []
        for subject, message in newest.items():
            last = await bus.last(LOG.name, subject)
            if last is not None and last[0] == message.seq:
                found = _thread(subject, message.seq, message.body)
                if found is not None:
                    idle.append(found)
        first_seq = page[-1].seq + 1 if page else until
        yield Page(idle, min(first_seq, until))


def _thread(subject: str, seq: int, body: bytes) -> IdleThread | None:
    """What an entry tells; None if it is of a namespace, or cannot be read."""
    try:
        names = subjects.parse_log(subject)
        entry, records = decode_entry(body)
    except MeshError:
        # Whoever loads the thread is told so.
        return None
    if entry.namespace:
        return None
    told = [record for record in records if isinstance(record, RunRecord)]
    is_over = isinstance(told[-1], RunEndedRecord) if told else None
    return IdleThread(names.tenant, entry.thread, seq, is_over)
