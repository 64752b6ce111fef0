"""An entry on its way: what it holds, whom it answers, and what the broker's answers mean for it.

What decides is here; :class:`~langmesh.log.outbox.Outbox` does it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from langmesh.bus import Conflict
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.chain import Tail
from langmesh.wire.log import Record, UnknownRecord


class Overtaken(Exception):
    """Another process appended first; memory has caught up, and what is wanted may be there."""


@dataclass(slots=True, eq=False)
class Wanted:
    """Records that somebody wants to be in the chain.

    Attributes:
        records: The records.
        raws: Their encoding.
        future: Resolves to the chain's tail behind them.
        after: The only tail that they may follow; None for any.
        size: Bytes of the encoding.
    """

    records: Sequence[Record | UnknownRecord]
    raws: list[msgspec.Raw]
    future: asyncio.Future[Tail]
    after: Tail | None = None
    size: int = 0

    def __post_init__(self) -> None:
        self.size = sum(len(memoryview(raw)) for raw in self.raws)

    def resolve(self, tail: Tail) -> None:
        """Answer that the records are stored."""
        if not self.future.done():
            self.future.set_result(tail)

    def refuse(self, problem: BaseException) -> None:
        """Answer with an exception; a waiter that has gone is not told."""
        if not self.future.done():
            self.future.set_exception(problem)


@dataclass(slots=True, eq=False)
class Flight:
    """One entry from its departure until its outcome is known.

    Attributes:
        wanted: Whose records it carries.
        tail: What it follows.
        entry_id: Its id.
        deadline: When to give up finding out, on the monotonic clock; from its first sending on.
        body: The message; empty until its records are stowed.
        digest: SHA-256 of the body.
        problem: The last answer that was not a success.
        answered: Set with each answer that is news for who finds out.
        finding: Whether somebody finds out.
    """

    wanted: list[Wanted]
    tail: Tail
    entry_id: str
    deadline: float = 0.0
    body: bytes = b""
    digest: bytes = b""
    problem: Exception | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    finding: bool = False

    @property
    def records(self) -> list[Record | UnknownRecord]:
        """All its records, in order."""
        return [record for wanted in self.wanted for record in wanted.records]

    @property
    def is_rebase(self) -> bool:
        """Whether it voids what was before it."""
        return any(wanted.after is not None for wanted in self.wanted)

    def land(self, seq: int) -> Tail:
        """The chain's tail behind this entry, given its stream sequence."""
        return Tail(seq, self.tail.number + 1, self.digest)


class Answer(Enum):
    """What an answer other than success means for the entry."""

    CONFLICT = auto()
    """The chain has another end: this entry itself after a lost acknowledgement, or another's."""
    UNKNOWN = auto()
    """It may or may not be stored; sending it again is safe, as its condition holds but once."""
    REFUSED = auto()
    """It is not stored and will not be."""


def read_answer(problem: Exception) -> Answer:
    """Classify what :meth:`langmesh.bus.Bus.append` raises."""
    if isinstance(problem, Conflict):
        return Answer.CONFLICT
    if isinstance(problem, MeshError) and problem.code is ErrorCode.BROKER_UNAVAILABLE:
        return Answer.UNKNOWN
    return Answer.REFUSED


def board(waiting: deque[Wanted], limit: int) -> list[Wanted]:
    """Take from the queue what travels together: in order, at most ``limit`` bytes.

    One that is too large, and one that may only follow a certain tail, travels alone.
    """
    taken = [waiting.popleft()]
    size = taken[0].size
    while waiting and taken[0].after is None and waiting[0].after is None:
        size += waiting[0].size
        if size > limit:
            break
        taken.append(waiting.popleft())
    return taken
