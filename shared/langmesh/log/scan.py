"""Read a chain from its first message on: verified, folded, and compared with what was known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from langmesh.bus import Bus
from langmesh.bus.reading import Stored, read_page
from langmesh.log.chain import BrokenChain, Chain, Link, Tail, empty, is_base, verify
from langmesh.log.patience import patiently
from langmesh.log.state import ThreadState
from langmesh.log.values import Values
from langmesh.wire.log import Record, UnknownRecord, decode_records
from langmesh.wire.streams import LOG


@dataclass(slots=True)
class Known:
    """What memory holds of a chain.

    Attributes:
        tail: Its end.
        origin: The first of its entries that memory has seen; empty if it has seen none.
        sent: Id of the entry whose outcome is open; empty for none.
    """

    tail: Tail
    origin: bytes = b""
    sent: str = ""


@dataclass(slots=True)
class Scan:
    """A chain as it was read.

    Attributes:
        tail: Its end.
        state: The fold of its records.
        origin: Digest of its first entry; empty if there is none.
        first: Number of its first entry, 0 if there is none.
        size: Bytes of its entries.
        has_tail: Whether the known tail is in it.
        epoch: Of the owner that wrote its last entry.
        sent: Where the entry is whose outcome was open.
    """

    tail: Tail
    state: ThreadState = field(default_factory=ThreadState)
    origin: bytes = b""
    first: int = 0
    size: int = 0
    has_tail: bool = False
    epoch: int = 0
    sent: Tail | None = None


async def messages(
    bus: Bus, chain: Chain, *, after_seq: int, patience_s: float
) -> AsyncIterator[tuple[int, bytes]]:
    """The messages of a chain behind a stream sequence as (stream sequence, body).

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    start, more = after_seq + 1, True

    async def read() -> tuple[list[Stored], bool]:
        return await read_page(bus, LOG.name, chain.subject, start_seq=start)

    while more:
        page, more = await patiently(read, patience_s=patience_s)
        for message in page:
            yield message.seq, message.body
        start = page[-1].seq + 1 if page else start


async def records_of(link: Link, values: Values) -> list[Record | UnknownRecord]:
    """An entry's records, wherever they are kept."""
    if not link.entry.stowed:
        return link.records
    return decode_records(await values.get(link.entry.stowed))


async def scan(bus: Bus, values: Values, chain: Chain, known: Known, *, patience_s: float) -> Scan:
    """Read a whole chain.

    Raises:
        BrokenChain: It does not hold together, or lost entries that memory knows to be stored.
        MeshError: BROKER_UNAVAILABLE.
    """
    found = Scan(empty(chain))
    async for seq, body in messages(bus, chain, after_seq=0, patience_s=patience_s):
        link = verify(chain, found.tail, seq, body, first=not found.first)
        records = await records_of(link, values)
        number = link.entry.number
        if not found.first:
            found.first, found.origin = number, link.tail.digest
            if number > 1 and not is_base(records):
                raise BrokenChain(
                    chain, number=1, seq=seq, problem=f"entry {number} was found in its place"
                )
        if is_base(records):
            found.size = 0
        found.state.apply(number, records)
        found.size += len(body)
        found.tail, found.epoch = link.tail, link.entry.epoch
        found.has_tail |= link.tail.digest == known.tail.digest
        if link.entry.id == known.sent:
            found.sent = link.tail
    _compare(chain, known, found)
    return found


def _compare(chain: Chain, known: Known, found: Scan) -> None:
    """A chain may grow, be pruned or be deleted and begin anew, but not lose its end."""
    if not known.tail.number or found.has_tail or not found.first:
        return
    pruned_since = found.first > known.tail.number
    begun_anew = found.first == 1 and found.origin != known.origin
    if not pruned_since and not begun_anew:
        raise BrokenChain(
            chain,
            number=known.tail.number,
            seq=known.tail.seq,
            problem="it was stored and acknowledged, and is gone",
        )
