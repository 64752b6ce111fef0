"""What is on its way into a chain: one entry at a time, and the queue behind it.

While an entry is on its way, whatever is appended meanwhile waits and then travels together in the
next one: with one entry in flight, no failure can store a later one without an earlier one.

An answer other than success is never a reason to write again elsewhere. A conflict is read back:
the entry's id in the chain means that it was stored and its acknowledgement lost. Silence is
answered with the same message on the same condition, which the broker stores at most once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, Protocol

from langmesh.bus import Bus
from langmesh.bus.client import ACK_TIMEOUT_S
from langmesh.clock import monotonic, new_id, now_ms
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.chain import Chain, Tail, follow, seal
from langmesh.log.flight import Answer, Flight, Overtaken, Wanted, board, read_answer
from langmesh.log.patience import PAUSE_S
from langmesh.log.values import Values
from langmesh.wire.codec import BLOB_BYTES_MIN
from langmesh.wire.log import encode_records

log = logging.getLogger(__name__)

_HEADER_ROOM: Final = 16 * 1024
"""What the broker counts beside the records: the entry's own fields and the headers."""


class Memory(Protocol):
    """What the outbox needs of whoever keeps the folded chain."""

    @property
    def tail(self) -> Tail:
        """The chain's end as far as memory knows; another object after each change."""

    def fold(self, flight: Flight, tail: Tail) -> None:
        """Take in an entry that was stored."""

    def forget(self) -> None:
        """Drop everything, since nobody knows what is in the chain."""

    async def catch_up(self) -> None:
        """Take in what others stored; an entry on its way that is found lands."""


class Outbox:
    """Sends entries of one chain.

    Args:
        bus: The connection.
        values: Where large records are kept.
        chain: Which chain.
        writer: Instance, written into each entry.
        epoch: The writer's epoch, likewise.
        patience_s: Seconds to find out what became of an entry while the broker is away.
        memory: Keeps the folded chain.
    """

    def __init__(
        self,
        bus: Bus,
        values: Values,
        chain: Chain,
        *,
        writer: str,
        epoch: int,
        patience_s: float,
        memory: Memory,
    ) -> None:
        self.flight: Flight | None = None
        self._bus = bus
        self._values = values
        self._chain = chain
        self._writer = writer
        self._epoch = epoch
        self._patience_s = patience_s
        self._memory = memory
        self._limit = min(BLOB_BYTES_MIN, bus.max_payload - _HEADER_ROOM)
        self._waiting: deque[Wanted] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not (self.flight or self._waiting or self._tasks)

    def push(self, wanted: Wanted) -> None:
        """Send records as soon as nothing else is on its way."""
        self._waiting.append(wanted)
        if self.flight is None:
            self._depart()

    def resend(self) -> None:
        """Send the entry on its way once more, as after a reconnection; harmless at any time."""
        if self.flight is not None and self.flight.body:
            self._send(self.flight)

    def landed(self, flight: Flight, tail: Tail) -> None:
        """The entry on its way is stored, and memory holds it."""
        self._end(flight)
        for one in flight.wanted:
            one.resolve(tail)
        if flight.is_rebase:
            # It may have voided values that they rely on.
            self.refuse_waiting(Overtaken())
        self._depart()

    def close(self) -> None:
        """Send nothing more."""
        for task in self._tasks:
            task.cancel()
        if not self.idle:
            self._lose_sight(ConnectionError("the log is closed"))

    def refuse_waiting(self, problem: Exception) -> None:
        """Send nothing of what waits."""
        while self._waiting:
            self._waiting.popleft().refuse(problem)

    def refuse_all(self, problem: Exception) -> None:
        """Likewise, and expect nothing more of the entry on its way."""
        if (flight := self.flight) is not None:
            self._end(flight)
            for one in flight.wanted:
                one.refuse(problem)
        self.refuse_waiting(problem)

    def _depart(self) -> None:
        while self._waiting and self.flight is None:
            tail = self._memory.tail
            wanted = board(self._waiting, self._limit)
            if wanted[0].after not in (None, tail):
                wanted[0].refuse(Overtaken())
                continue
            flight = self.flight = Flight(wanted, tail, new_id())
            if sum(one.size for one in wanted) > self._limit:
                self._spawn(self._stow(flight))
            else:
                self._seal(flight)

    async def _stow(self, flight: Flight) -> None:
        raws = [raw for one in flight.wanted for raw in one.raws]
        try:
            name = await self._values.put(encode_records(raws))
        except MeshError as exc:
            self._refuse(flight, exc)
        else:
            if self.flight is flight:
                self._seal(flight, stowed=name)

    def _seal(self, flight: Flight, *, stowed: str = "") -> None:
        entry = follow(
            self._chain,
            flight.tail,
            entry_id=flight.entry_id,
            writer=self._writer,
            epoch=self._epoch,
            time_ms=now_ms(),
            stowed=stowed,
        )
        raws = [] if stowed else [raw for one in flight.wanted for raw in one.raws]
        flight.body, flight.digest = seal(entry, raws)
        flight.deadline = monotonic() + self._patience_s
        self._send(flight)

    def _send(self, flight: Flight) -> None:
        self._bus.append_nowait(
            self._chain.subject,
            flight.body,
            partial(self._on_answer, flight),
            expected_last=flight.tail.seq,
            timeout_s=ACK_TIMEOUT_S,
        )

    def _on_answer(self, flight: Flight, answer: int | Exception) -> None:
        if self.flight is not flight:
            return  # a late answer to a message that was sent twice
        if isinstance(answer, int):
            tail = flight.land(answer)
            self._memory.fold(flight, tail)
            self.landed(flight, tail)
            return
        flight.problem = answer
        flight.answered.set()
        if not flight.finding:
            flight.finding = True
            self._spawn(self._find_out(flight))

    async def _find_out(self, flight: Flight) -> None:
        """Settle an entry that was not acknowledged."""
        while self.flight is flight:
            problem, flight.problem = flight.problem, None
            flight.answered.clear()
            if problem is None:
                await flight.answered.wait()
                continue
            answer = read_answer(problem)
            if answer is Answer.REFUSED:
                self._refuse(flight, problem)
                return
            if answer is Answer.CONFLICT:
                problem = await self._read_back(flight) or problem
                if self.flight is not flight:
                    return
            if monotonic() > flight.deadline:
                self._lose_sight(problem)
                return
            await asyncio.sleep(PAUSE_S)
            if self.flight is flight:
                self._send(flight)

    async def _read_back(self, flight: Flight) -> MeshError | None:
        """Look whether the entry itself or another one is at the chain's end."""
        try:
            await self._memory.catch_up()
        except MeshError as exc:
            return exc
        if self.flight is flight and self._memory.tail is not flight.tail:
            self._end(flight)
            for one in flight.wanted:
                one.refuse(Overtaken())
            self.refuse_waiting(Overtaken())
        return None

    def _refuse(self, flight: Flight, problem: Exception) -> None:
        """The entry is not stored, for a reason of its own."""
        if self.flight is flight:
            self._end(flight)
            for one in flight.wanted:
                one.refuse(problem)
            self._depart()

    def _lose_sight(self, problem: BaseException) -> None:
        """Nobody knows what became of the entry: memory is no guide any more."""
        reason = problem.message if isinstance(problem, MeshError) else repr(problem)
        self._memory.forget()
        self.refuse_all(
            MeshError(
                ErrorCode.BROKER_UNAVAILABLE,
                f"thread {self._chain.thread!r}: whether its last entry is stored is not known:"
                f" {reason}",
                remedy="Load the thread again when the broker is back; the chain tells.",
            )
        )

    def _end(self, flight: Flight) -> None:
        self.flight = None
        flight.answered.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"outbox {self._chain.subject}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=problem)
            self._lose_sight(problem)
