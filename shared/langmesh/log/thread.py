"""One chain: load it, keep its fold in memory, append to it without losing or repeating anything.

An append is one publish on the condition that the chain's last message is still the one that memory
knows (R1 of the design: the compare-and-set is the fence). While an entry is on its way, whatever is
appended meanwhile waits and then travels together in the next one: with one entry at a time in
flight, no failure can store a later one without an earlier one.

An answer other than success is never a reason to write again elsewhere. A conflict is read back: the
entry's id in the chain means that it was stored and its acknowledgement lost. Silence is answered
with the same message on the same condition, which the broker stores at most once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.reading import purge
from langmesh.clock import monotonic, new_id, now_ms
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.chain import BrokenChain, Chain, Tail, digest_of, empty, follow, seal, verify
from langmesh.log.flight import Answer, Flight, Wanted, board, read_answer
from langmesh.log.patience import PATIENCE_S, PAUSE_S, patiently
from langmesh.log.scan import Known, Scan, messages, records_of, scan
from langmesh.log.state import ThreadState
from langmesh.log.values import Values
from langmesh.wire.codec import BLOB_BYTES_MIN
from langmesh.wire.log import (
    BaseRecord,
    Record,
    UnknownRecord,
    encode_record,
    encode_records,
)
from langmesh.wire.streams import LOG

log = logging.getLogger(__name__)

_SCANS_MAX: Final = 3
_HEADER_ROOM: Final = 16 * 1024
"""What the broker counts beside the records: the entry's own fields and the headers."""

Build = Callable[[ThreadState], Awaitable[Sequence[Record | UnknownRecord]]]


class Fenced(MeshError):
    """Another process wrote to a chain that this one owned."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(
            ErrorCode.FENCED, f"thread {chain.thread!r}: another process wrote to its chain"
        )


class Overtaken(Exception):
    """Another process appended first; memory has caught up, and what is wanted may be there."""


class ThreadLog:
    """The chain of one thread or namespace; used in one event loop.

    As an *owner* it takes an entry that it did not write for the end of its ownership: it forgets
    its state and raises :class:`Fenced` for good. Otherwise it catches up and raises
    :class:`Overtaken`, or does both for its caller in :meth:`commit`. A chain that does not hold
    together is quarantined: everything raises :class:`BrokenChain` from then on.

    Args:
        bus: The connection.
        values: Where large records are kept.
        chain: Which chain.
        writer: Instance, written into each entry.
        epoch: The writer's epoch, likewise.
        owner: Whether nobody else may write.
        patience_s: Seconds to find out what became of an entry while the broker is away.
        on_size: Told by how many bytes the folded state grows or shrinks.
    """

    def __init__(
        self,
        bus: Bus,
        values: Values,
        chain: Chain,
        *,
        writer: str,
        epoch: int = 0,
        owner: bool = False,
        patience_s: float = PATIENCE_S,
        on_size: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.chain = chain
        self.size = 0
        self._bus = bus
        self._values = values
        self._writer = writer
        self._epoch = epoch
        self._owner = owner
        self._patience_s = patience_s
        self._on_size = on_size
        self._limit = min(BLOB_BYTES_MIN, bus.max_payload - _HEADER_ROOM)
        self._state: ThreadState | None = None
        self._tail = empty(chain)
        self._origin = b""
        self._failure: MeshError | None = None
        self._waiting: deque[Wanted] = deque()
        self._flight: Flight | None = None
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tail(self) -> Tail:
        """The chain's end as far as memory knows."""
        return self._tail

    @property
    def failed(self) -> bool:
        """Whether it is fenced or quarantined, so that it raises for good."""
        return self._failure is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, so that dropping this object loses nothing."""
        return not (self._flight or self._waiting or self._tasks or self._reading.locked())

    async def load(self) -> ThreadState:
        """The folded chain; read, verified and folded unless memory holds it.

        Raises:
            BrokenChain: The chain does not hold together.
            Fenced: This object lost its ownership.
            MeshError: BROKER_UNAVAILABLE.
        """
        self._check()
        if self._state is None:
            async with self._reading:
                self._check()
                if self._state is None:
                    self._adopt(await self._scan())
        assert self._state is not None
        return self._state

    async def refresh(self) -> ThreadState:
        """The folded chain as of now: one request, and the rest only if another process wrote.

        Raises:
            MeshError: As :meth:`load`.
        """
        if self._state is None:
            return await self.load()
        self._check()
        before = self._tail
        seq, body = await self._last()
        tail = self._tail
        if seq > tail.seq:
            await self._catch_up()
        elif tail is before and (seq < tail.seq or (body and digest_of(body) != tail.digest)):
            await self._catch_up(begins_anew=True)
        return await self.load()

    def append_nowait(
        self, records: Sequence[Record | UnknownRecord], *, after: Tail | None = None
    ) -> asyncio.Future[Tail]:
        """Append records, all in one entry; nothing but the future tells what became of them.

        Needs a loaded chain. Calls take effect in their order; those made while an entry is on its
        way travel together in the next.

        Args:
            records: What happened.
            after: Append only if this is the chain's tail then.

        Returns:
            Resolves to the chain's tail behind the records once they are stored, and then the state
            holds them; or to :class:`Fenced`, :class:`Overtaken` or :class:`BrokenChain` (nothing
            was stored), to BROKER_UNAVAILABLE (the outcome is unknown: load again), or to the
            broker's refusal.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE.
        """
        future: asyncio.Future[Tail] = asyncio.get_running_loop().create_future()
        wanted = Wanted(records, [encode_record(record) for record in records], future, after)
        if self._failure is not None:
            wanted.refuse(self._failure)
        elif self._state is None:
            wanted.refuse(Overtaken())
        else:
            self._waiting.append(wanted)
            if self._flight is None:
                self._depart()
        return future

    async def append(self, records: Sequence[Record | UnknownRecord]) -> Tail:
        """Append records and wait until they are stored; raises what the future would."""
        await self.load()
        return await self.append_nowait(records)

    async def commit(self, build: Build) -> None:
        """Append what is still missing, whatever other processes append meanwhile.

        Args:
            build: Gets the folded chain and returns the records to append, none if all is there;
                called again after each entry that another process appended first.

        Raises:
            MeshError: As :meth:`load`; BROKER_UNAVAILABLE when the outcome is unknown.
        """
        while True:
            records = await build(await self.load())
            if not records:
                return
            try:
                await self.append_nowait(records)
            except Overtaken:
                continue
            return

    async def rebase(self, select: Callable[[ThreadState], Sequence[Any] | None]) -> bool:
        """Void the chain but for some of it, and delete the messages before.

        Args:
            select: Gets the folded chain and returns the records that say again what is kept; None
                to leave the chain as it is.

        Returns:
            Whether anything was voided.

        Raises:
            MeshError: As :meth:`load`.
        """
        while True:
            state, tail = await self.refresh(), self._tail
            kept = select(state) if tail.number else None
            if kept is None:
                return False
            base = BaseRecord(pruned=tail.number)
            try:
                landed = await self.append_nowait([base, *kept], after=tail)
            except Overtaken:
                continue
            await self._purge(landed.seq)
            return True

    async def _purge(self, before_seq: int) -> None:
        """Delete what a base voids; until then, readers verify more than they need."""
        await patiently(
            lambda: purge(self._bus, LOG.name, self.chain.subject, before_seq=before_seq),
            patience_s=self._patience_s,
        )

    def resend(self) -> None:
        """Send the entry on its way once more, as after a reconnection; harmless at any time."""
        if self._flight is not None and self._flight.body:
            self._send(self._flight)

    def forget(self) -> None:
        """Drop the state, as after the chain's deletion; what is on its way will be overtaken."""
        self._resize(-self.size)
        self._state, self._tail, self._origin = None, empty(self.chain), b""

    # What waits goes, one entry at a time.

    def _depart(self) -> None:
        while self._waiting and self._flight is None:
            wanted = board(self._waiting, self._limit)
            if wanted[0].after not in (None, self._tail):
                wanted[0].refuse(Overtaken())
                continue
            flight = Flight(wanted, self._tail, new_id())
            self._flight = flight
            if sum(one.size for one in wanted) > self._limit:
                self._spawn(self._stow(flight))
            else:
                self._seal(flight)

    async def _stow(self, flight: Flight) -> None:
        raws = [raw for one in flight.wanted for raw in one.raws]
        try:
            name = await self._values.put(encode_records(raws))
        except MeshError as exc:
            self._refused(flight, exc)
        else:
            if self._flight is flight:
                self._seal(flight, stowed=name)

    def _seal(self, flight: Flight, *, stowed: str = "") -> None:
        entry = follow(
            self.chain,
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
            self.chain.subject,
            flight.body,
            partial(self._on_answer, flight),
            expected_last=flight.tail.seq,
        )

    # What the broker answers.

    def _on_answer(self, flight: Flight, answer: int | Exception) -> None:
        if self._flight is not flight:
            return  # a late answer to a message that was sent twice
        if isinstance(answer, int):
            self._landed(flight, flight.land(answer))
            return
        flight.problem = answer
        flight.answered.set()
        if not flight.finding:
            flight.finding = True
            self._spawn(self._find_out(flight))

    def _landed(self, flight: Flight, tail: Tail, *, folded: bool = False) -> None:
        self._settle(flight)
        if self._state is not None and not folded:
            if self._tail is flight.tail:
                self._fold(flight, tail)
            else:
                self.forget()  # the chain was deleted meanwhile; what memory holds is no guide
        for one in flight.wanted:
            if not one.future.done():
                one.future.set_result(tail)
        if flight.is_rebase:
            # It may have voided values that they rely on.
            self._refuse_waiting(Overtaken())
        self._depart()

    def _fold(self, flight: Flight, tail: Tail) -> None:
        assert self._state is not None
        if flight.is_rebase:
            self._resize(-self.size)
        self._state.apply(tail.number, flight.records)
        self._resize(sum(one.size for one in flight.wanted))
        self._tail = tail
        self._origin = tail.digest if flight.is_rebase else self._origin or tail.digest

    def _settle(self, flight: Flight) -> None:
        """The entry is not on its way any more."""
        self._flight = None
        flight.answered.set()

    async def _find_out(self, flight: Flight) -> None:
        """Settle an entry that was not acknowledged."""
        while self._flight is flight:
            problem, flight.problem = flight.problem, None
            flight.answered.clear()
            if problem is None:
                await flight.answered.wait()
                continue
            answer = read_answer(problem)
            if answer is Answer.REFUSED:
                self._refused(flight, problem)
                return
            if answer is Answer.CONFLICT:
                try:
                    await self._catch_up()
                except MeshError as exc:
                    problem = exc
                if self._flight is not flight:
                    return
                if self._tail is not flight.tail:
                    self._overtaken(flight)
                    return
            if monotonic() > flight.deadline:
                self._lost_sight(problem)
                return
            await asyncio.sleep(PAUSE_S)
            if self._flight is flight:
                self._send(flight)

    def _refused(self, flight: Flight, problem: Exception) -> None:
        if self._flight is not flight:
            return
        self._settle(flight)
        for one in flight.wanted:
            one.refuse(problem)
        self._depart()

    def _overtaken(self, flight: Flight) -> None:
        self._settle(flight)
        for one in flight.wanted:
            one.refuse(Overtaken())
        self._refuse_waiting(Overtaken())

    def _lost_sight(self, problem: BaseException) -> None:
        """Nobody knows what became of the entry: memory is no guide any more."""
        reason = problem.message if isinstance(problem, MeshError) else str(problem)
        self._abandon(
            MeshError(
                ErrorCode.BROKER_UNAVAILABLE,
                f"thread {self.chain.thread!r}: whether its last entry is stored is not known:"
                f" {reason}",
                remedy="Load the thread again when the broker is back; the chain tells.",
            )
        )

    def _abandon(self, problem: MeshError) -> None:
        self.forget()
        if (flight := self._flight) is not None:
            self._settle(flight)
            for one in flight.wanted:
                one.refuse(problem)
        self._refuse_waiting(problem)

    def _refuse_waiting(self, problem: Exception) -> None:
        while self._waiting:
            self._waiting.popleft().refuse(problem)

    # What others wrote.

    async def _catch_up(self, *, begins_anew: bool = False) -> None:
        """Take in what is in the chain behind the known tail.

        Args:
            begins_anew: Whether the tail itself seems to be gone, which takes a whole scan.
        """
        async with self._reading:
            self._check()
            if self._state is None:
                return
            try:
                if not begins_anew:
                    begins_anew = await self._read_on()
            except BrokenChain:
                begins_anew = True
            while begins_anew:
                tail = self._tail
                found = await self._scan()
                # An append that was acknowledged meanwhile is not in what was read.
                if begins_anew := self._tail is not tail:
                    continue
                self._adopt(found)

    async def _read_on(self) -> bool:
        """Verify and fold new entries; returns whether the chain has lost its known tail."""
        start = self._tail
        async for seq, body in messages(
            self._bus, self.chain, after_seq=start.seq, patience_s=self._patience_s
        ):
            if seq <= self._tail.seq:
                continue  # ours, acknowledged meanwhile
            link = verify(self.chain, self._tail, seq, body)
            records = await records_of(link, self._values)
            if seq <= self._tail.seq:
                continue
            flight = self._flight
            if flight is not None and link.entry.id == flight.entry_id:
                self._landed(flight, link.tail)
                continue
            self._foreign()
            assert self._state is not None
            self._state.apply(link.tail.number, records)
            self._resize(len(body))
            self._tail = link.tail
            self._origin = self._origin or link.tail.digest
        if self._tail is not start or not start.number:
            return False
        seq, _ = await self._last()
        return self._tail is start and seq == 0

    async def _last(self) -> tuple[int, bytes]:
        """The chain's last message as (stream sequence, body); (0, empty) if there is none."""
        found = await patiently(
            lambda: self._bus.last(LOG.name, self.chain.subject), patience_s=self._patience_s
        )
        return found or (0, b"")

    async def _scan(self) -> Scan:
        """Read the whole chain; a break counts when it is there again, as others may prune it."""
        flight = self._flight
        known = Known(self._tail, self._origin, flight.entry_id if flight else "")
        for left in reversed(range(_SCANS_MAX)):
            try:
                return await scan(
                    self._bus, self._values, self.chain, known, patience_s=self._patience_s
                )
            except BrokenChain as exc:
                if not left:
                    self._fail(exc)
                    raise
        raise AssertionError

    def _adopt(self, found: Scan) -> None:
        """Take what was read in place of what memory holds."""
        flight = self._flight if found.sent is not None else None
        ends_with_ours = flight is not None and found.sent == found.tail
        if self._state is not None and not ends_with_ours and found.tail != self._tail:
            self._foreign()
        self._resize(found.size - self.size)
        self._state, self._tail, self._origin = found.state, found.tail, found.origin
        if flight is not None:
            assert found.sent is not None
            self._landed(flight, found.sent, folded=True)

    def _foreign(self) -> None:
        """An entry is not from here."""
        if self._owner:
            fenced = Fenced(self.chain)
            self._fail(fenced)
            raise fenced
        self._refuse_waiting(Overtaken())

    def _fail(self, failure: MeshError) -> None:
        self._failure = failure
        self._abandon(failure)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _resize(self, delta: int) -> None:
        self.size += delta
        self._on_size(delta)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"log {self.chain.subject}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("%s: %r", task.get_name(), problem, exc_info=problem)
            self._lost_sight(problem)
