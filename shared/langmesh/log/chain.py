"""The links of a chain: making the next entry, and verifying that one follows another.

Pure: no I/O, no clock, no entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.log import (
    BaseRecord,
    Entry,
    Record,
    UnknownRecord,
    decode_entry,
    encode_entry,
)


class Chain(NamedTuple):
    """Which chain: its subject, and the names that its entries say."""

    subject: str
    thread: str
    namespace: str


class Tail(NamedTuple):
    """The end of a chain as far as it is known: what the next entry follows."""

    seq: int
    """Stream sequence of the last entry; 0 for an empty chain."""
    number: int
    """Its number; 0 for an empty chain."""
    digest: bytes
    """SHA-256 of its body; of the subject for an empty chain."""


class Link(NamedTuple):
    """A verified entry."""

    entry: Entry
    records: list[Record | UnknownRecord]
    """Empty for an entry whose ``stowed`` names them."""
    tail: Tail
    """The chain's end behind it."""


class BrokenChain(MeshError):
    """A chain does not hold together at a position."""

    def __init__(self, chain: Chain, *, number: int, seq: int, problem: str) -> None:
        inside = f", namespace {chain.namespace!r}" if chain.namespace else ""
        super().__init__(
            ErrorCode.BROKEN_CHAIN,
            f"thread {chain.thread!r}{inside}: entry {number} at sequence {seq} of stream LOG:"
            f" {problem}",
        )
        self.number = number
        self.seq = seq


def empty(chain: Chain) -> Tail:
    """Where a chain begins; its subject is in the first digest, so that none passes for another."""
    return Tail(0, 0, sha256(chain.subject.encode()).digest())


def follow(
    chain: Chain,
    tail: Tail,
    *,
    entry_id: str,
    writer: str,
    epoch: int,
    time_ms: int,
    stowed: str = "",
) -> Entry:
    """The entry after the tail, without its records."""
    return Entry(
        id=entry_id,
        number=tail.number + 1,
        previous=tail.digest,
        thread=chain.thread,
        namespace=chain.namespace,
        writer=writer,
        epoch=epoch,
        time_ms=time_ms,
        stowed=stowed,
    )


def seal(entry: Entry, records: Sequence[msgspec.Raw]) -> tuple[bytes, bytes]:
    """An entry's body and the digest that its successor names."""
    body = encode_entry(entry, records)
    return body, sha256(body).digest()


def digest_of(body: bytes) -> bytes:
    """What the entry after this one names."""
    return sha256(body).digest()


def verify(chain: Chain, tail: Tail, seq: int, body: bytes, *, first: bool = False) -> Link:
    """Check that an entry follows the tail.

    Args:
        chain: The chain that it was read from.
        tail: The end of what is verified.
        seq: Its stream sequence.
        body: The message.
        first: Whether it is the first message of its subject, which may be a base instead.

    Raises:
        BrokenChain: It does not follow, is of another chain, or cannot be read.
    """
    expected = tail.number + 1
    try:
        entry, records = decode_entry(body)
    except MeshError as exc:
        raise BrokenChain(chain, number=expected, seq=seq, problem=exc.message) from exc
    if (entry.thread, entry.namespace) != (chain.thread, chain.namespace):
        raise BrokenChain(
            chain,
            number=expected,
            seq=seq,
            problem=f"it is of thread {entry.thread[:80]!r}, namespace {entry.namespace[:80]!r}",
        )
    follows = entry.number == expected and entry.previous == tail.digest
    if not follows and not (first and entry.number > 1 and (entry.stowed or is_base(records))):
        raise BrokenChain(chain, number=expected, seq=seq, problem=_difference(entry, tail))
    return Link(entry, records, Tail(seq, entry.number, sha256(body).digest()))


def is_base(records: Sequence[Record | UnknownRecord]) -> bool:
    """Whether an entry with these records may be a chain's first."""
    return bool(records) and isinstance(records[0], BaseRecord)


def _difference(entry: Entry, tail: Tail) -> str:
    if entry.number != tail.number + 1:
        return f"entry {entry.number} was found in its place"
    before = f"entry {tail.number}" if tail.number else "the subject"
    return f"it names another predecessor than {before}, which was changed or replaced"
