"""The letters that nobody could use, kept in stream DEAD until they are dropped or grow too old."""

from __future__ import annotations

from collections import deque

import msgspec

from langmesh.bus import Bus
from langmesh.bus.reading import Stored, read_page
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import DeadLetter
from langmesh.wire.streams import DEAD


class KeptLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter with its place."""

    seq: int
    """Its sequence in stream DEAD, by which it is named."""
    graph: str
    node: str
    letter: DeadLetter


async def letters(
    bus: Bus, tenant: str, *, graph: str | None = None, node: str | None = None, limit: int
) -> list[KeptLetter]:
    """A tenant's letters, the newest first.

    Args:
        bus: The connection.
        tenant: Whose letters.
        graph: Only those of this graph.
        node: Only those of this node.
        limit: At most so many.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    newest: deque[KeptLetter] = deque(maxlen=limit)
    start, more = 1, True
    while more:
        page, more = await read_page(
            bus, DEAD.name, subjects.deads(tenant, graph, node), start_seq=start
        )
        for stored in page:
            newest.append(_kept(stored))
            start = stored.seq + 1
    return list(reversed(newest))


async def letter(bus: Bus, tenant: str, seq: int) -> KeptLetter:
    """One letter.

    Raises:
        MeshError: INVALID_FIELD if the tenant has none of that sequence; BROKER_UNAVAILABLE.
    """
    page, _ = await read_page(bus, DEAD.name, subjects.deads(tenant), start_seq=seq)
    if not page or page[0].seq != seq:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"SEQ: there is no dead letter {seq}",
            remedy="`langmesh dead ls` lists them by sequence.",
        )
    return _kept(page[0])


async def drop(bus: Bus, tenant: str, seq: int) -> KeptLetter:
    """Delete one letter, and tell what it was.

    Raises:
        MeshError: As :func:`letter`.
    """
    found = await letter(bus, tenant, seq)
    await bus.delete(DEAD.name, seq)
    return found


def _kept(stored: Stored) -> KeptLetter:
    names = subjects.parse_dead(stored.subject)
    return KeptLetter(
        seq=stored.seq,
        graph=names.graph,
        node=names.node,
        letter=codec.decode_json(DeadLetter, stored.body),
    )
