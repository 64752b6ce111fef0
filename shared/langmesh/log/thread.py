"""One chain: load it, keep its fold in memory, append to it without losing or repeating anything.

An append is one publish on the condition that the chain's last message is still the one that
memory knows: the compare-and-set is the fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.reading import last_at_leader, purge
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.chain import BrokenChain, Chain, Link, Tail, digest_of, empty, verify
from langmesh.log.flight import Flight, Overtaken, Wanted
from langmesh.log.outbox import Outbox
from langmesh.log.patience import PATIENCE_S, patiently
from langmesh.log.scan import Known, Scan, messages, records_of, scan
from langmesh.log.state import ThreadState
from langmesh.log.values import Values
from langmesh.wire.log import BaseRecord, Record, UnknownRecord, encode_record
from langmesh.wire.streams import LOG

_SCANS_MAX: Final = 3

Records = Sequence[Record | UnknownRecord]
Build = Callable[[ThreadState], Awaitable[Records]]


class Fenced(MeshError):
    """Another process wrote to a chain that this one owned."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(
            ErrorCode.FENCED, f"thread {chain.thread!r}: another process wrote to its chain"
        )


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
        self.found_epoch = 0
        """Of the owner that had written last when the chain was read."""
        self._bus = bus
        self._values = values
        self._owner = owner
        self._patience_s = patience_s
        self._on_size = on_size
        self._state: ThreadState | None = None
        self._tail = empty(chain)
        self._origin = b""
        self._failure: MeshError | None = None
        self._reading = asyncio.Lock()
        self._outbox = Outbox(
            bus,
            values,
            chain,
            writer=writer,
            epoch=epoch,
            patience_s=patience_s,
            memory=self,
        )

    @property
    def tail(self) -> Tail:
        """The chain's end as far as memory knows."""
        return self._tail

    @property
    def state(self) -> ThreadState | None:
        """What :meth:`load` returns without reading; None if it would read, or raise."""
        return None if self._failure is not None else self._state

    @property
    def failed(self) -> bool:
        """Whether it is fenced or quarantined, so that it raises for good."""
        return self._failure is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way, so that dropping this object loses nothing."""
        return self._outbox.idle and not self._reading.locked()

    async def load(self) -> ThreadState:
        """The folded chain; read, verified and folded unless memory holds it.

        The same object is returned until the chain is read anew, and takes in what is appended.

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

    def begin(self) -> None:
        """Take the chain for empty without a look, as one that has just been named.

        If it is not, the first append finds out: an owner is fenced then.
        """
        if self._state is None and self._failure is None:
            self._adopt(Scan(empty(self.chain)))

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
            await self.catch_up()
        elif tail is before and not _is(tail, seq, body):
            # A replica may lag behind; only the leader's word counts for a loss.
            seq, body = await self._last(at_leader=True)
            if self._tail is before and not _is(tail, seq, body):
                await self.catch_up(lost_tail=seq <= tail.seq)
        return await self.load()

    def append_nowait(self, records: Records, *, after: Tail | None = None) -> asyncio.Future[Tail]:
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
            self._outbox.push(wanted)
        return future

    async def append(self, records: Records) -> Tail:
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

    def close(self) -> None:
        """Send nothing more; who waits is told that the outcome is unknown."""
        self._outbox.close()

    def resend(self) -> None:
        """Send the entry on its way once more, as after a reconnection; harmless at any time."""
        self._outbox.resend()

    def forget(self) -> None:
        """Drop the state, as after the chain's deletion; the next call reads the chain again."""
        self._resize(-self.size)
        self._state, self._tail, self._origin = None, empty(self.chain), b""

    def fold(self, flight: Flight, tail: Tail) -> None:
        """Take in an own entry that was stored; called by the outbox."""
        if self._state is None:
            return
        if self._tail is not flight.tail:
            self.forget()  # the chain was deleted meanwhile: what memory holds is no guide
            return
        if flight.is_rebase:
            self._resize(-self.size)
        size = sum(one.size for one in flight.wanted)
        self._take(tail, flight.records, size, begins=flight.is_rebase)

    async def catch_up(self, *, lost_tail: bool = False) -> None:
        """Take in what is in the chain behind the known tail.

        Args:
            lost_tail: Whether the tail itself seems to be gone, which takes a whole scan.

        Raises:
            MeshError: As :meth:`load`.
        """
        async with self._reading:
            self._check()
            if self._state is None:
                return
            try:
                lost_tail = lost_tail or await self._read_on()
            except BrokenChain:
                lost_tail = True  # or another chain has begun
            while lost_tail:
                tail = self._tail
                found = await self._scan()
                # An append that was acknowledged meanwhile may not be in what was read.
                lost_tail = self._tail is not tail
                if not lost_tail:
                    self._adopt(found)

    async def _read_on(self) -> bool:
        """Verify and fold new entries; returns whether the chain has lost its known tail."""
        start = self._tail
        async for seq, body in messages(
            self._bus, self.chain, after_seq=start.seq, patience_s=self._patience_s
        ):
            if seq > self._tail.seq:  # else it is ours, and was acknowledged meanwhile
                link = verify(self.chain, self._tail, seq, body)
                records = await records_of(link, self._values)
                if seq > self._tail.seq:
                    self._arrived(link, records, len(body))
        if self._tail is not start or not start.number:
            return False
        seq, _ = await self._last(at_leader=True)
        return self._tail is start and seq == 0

    def _arrived(self, link: Link, records: Records, size: int) -> None:
        flight = self._outbox.flight
        if flight is not None and link.entry.id == flight.entry_id:
            self.fold(flight, link.tail)
            self._outbox.landed(flight, link.tail)
        else:
            self._foreign()
            self._take(link.tail, records, size)

    def _take(self, tail: Tail, records: Records, size: int, *, begins: bool = False) -> None:
        assert self._state is not None
        self._state.apply(tail.number, records)
        self._resize(size)
        self._tail = tail
        if begins or not self._origin:
            self._origin = tail.digest

    async def _last(self, *, at_leader: bool = False) -> tuple[int, bytes]:
        """The chain's last message as (stream sequence, body); (0, empty) if there is none."""
        bus, subject = self._bus, self.chain.subject

        async def read() -> tuple[int, bytes] | None:
            if at_leader:
                return await last_at_leader(bus, LOG.name, subject)
            return await bus.last(LOG.name, subject)

        return await patiently(read, patience_s=self._patience_s) or (0, b"")

    async def _scan(self) -> Scan:
        """Read the whole chain; a break counts when it is there again, as others may prune it."""
        flight = self._outbox.flight
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
        flight = self._outbox.flight if found.sent is not None else None
        ends_with_ours = flight is not None and found.sent == found.tail
        if self._state is not None and not ends_with_ours and found.tail != self._tail:
            self._foreign()
        self._resize(found.size - self.size)
        self._state, self._tail, self._origin = found.state, found.tail, found.origin
        self.found_epoch = found.epoch
        if flight is not None and found.sent is not None:
            self._outbox.landed(flight, found.sent)

    def _foreign(self) -> None:
        """An entry is not from here."""
        if self._owner:
            fenced = Fenced(self.chain)
            self._fail(fenced)
            raise fenced
        self._outbox.refuse_waiting(Overtaken())

    def _fail(self, failure: MeshError) -> None:
        self._failure = failure
        self.forget()
        self._outbox.refuse_all(failure)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _purge(self, before_seq: int) -> None:
        """Delete what a base voids; until then, readers verify more than they need."""
        await patiently(
            lambda: purge(self._bus, LOG.name, self.chain.subject, before_seq=before_seq),
            patience_s=self._patience_s,
        )

    def _resize(self, delta: int) -> None:
        self.size += delta
        self._on_size(delta)


def _is(tail: Tail, seq: int, body: bytes) -> bool:
    """Whether a message is the chain's known end."""
    return seq == tail.seq and (not seq or digest_of(body) == tail.digest)
