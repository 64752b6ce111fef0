"""Take the submissions and deal them out to the owners of their threads.

One coordinator deals, the owner of the first partition, so that submissions of a thread reach its
owner in the order of their stream, and so that one place knows how much more all can drive. What
it does not come to tell, the broker hands over again to whoever deals next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery, PullConsumer
from langmesh.coordinator.admission import Admission
from langmesh.coordinator.decisions import Decision, Decisions
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.ownership import Ownership
from langmesh.coordinator.peers import Peers
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import subjects
from langmesh.wire.names import partition
from langmesh.wire.peers import OwnerLoad, SubmissionDealt, SubmissionDecided
from langmesh.wire.streams import SUBMIT, SUBMIT_CONSUMER

log = logging.getLogger(__name__)

_RETURN_S: Final = 0.25
"""How long what an owner gave back waits, unless another owner shows up earlier."""
_SETTLED_MAX: Final = 4096


class _Thread(msgspec.Struct):
    thread_id: str | None = None


_thread: Final = msgspec.json.Decoder(_Thread)


@dataclass(slots=True, eq=False)
class _Dealt:
    delivery: Delivery
    partition: int
    owner: str | None = None
    again: bool = False
    """Whether another owner may have had it."""


class Dealer:
    """Deals while this coordinator owns the first partition.

    Args:
        bus: The connection.
        instance: This coordinator.
        ownership: Who owns what.
        admission: This coordinator's own.
        runs: What is driven here.
        peers: The others.
        max_runs: How many runs this coordinator drives at once.
    """

    def __init__(
        self,
        bus: Bus,
        instance: str,
        ownership: Ownership,
        admission: Admission,
        runs: LiveRuns,
        peers: Peers,
        *,
        max_runs: int,
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._ownership = ownership
        self._admission = admission
        self._runs = runs
        self._peers = peers
        self._max_runs = max_runs
        self.decisions = Decisions()
        """What becomes of submissions, for who waits in this process."""
        self._undecided: dict[int, _Dealt] = {}
        self._waiting: dict[int, OrderedDict[int, _Dealt]] = {}
        """By partition: what has no owner to go to, by stream sequence."""
        self._loads: dict[str, int] = {}
        self._lent: dict[int, contextlib.ExitStack] = {}
        self._settled: OrderedDict[int, None] = OrderedDict()
        self._consumer: PullConsumer | None = None
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Dealer]:
        """Deal, whenever it is this coordinator's turn, while the block runs."""
        self._peers.on_decided = self._on_decided
        self._peers.on_load = self._on_load
        self._ownership.on_change(self._on_ownership)
        keeper = asyncio.create_task(self._keep(), name="deal submissions")
        try:
            yield self
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def stopped(self) -> None:
        """Wait until this coordinator takes no submissions, when it is not its turn any more."""
        self._changed.set()
        await self._stopped.wait()

    def lend(self) -> contextlib.ExitStack:
        """Take one run more until the stack is closed, or until :meth:`lent_to` closes it."""
        stack = contextlib.ExitStack()
        if self._consumer is not None:
            stack.enter_context(self._consumer.lending())
        return stack

    def lent_to(self, submit_seq: int, stack: contextlib.ExitStack) -> None:
        """Close the stack when the submission's run is over or asks a human."""
        if submit_seq in self._settled:
            stack.close()
        else:
            self._lent[submit_seq] = stack

    @property
    def _is_on(self) -> bool:
        return self._ownership.dealer == self._instance

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            if not self._is_on:
                await self._changed.wait()
                continue
            consumer = self._consumer = PullConsumer(
                self._bus,
                SUBMIT.name,
                SUBMIT_CONSUMER.durable,
                capacity=self._capacity(),
                handler=self._on_delivery,
            )
            self._stopped.clear()
            self._recount()
            alive = asyncio.create_task(self._keep_alive(), name="keep what waits")
            try:
                async with consumer.run():
                    while self._is_on:
                        self._changed.clear()
                        if (capacity := self._capacity()) != consumer.capacity:
                            consumer.resize(capacity)
                        self._look_at_owners()
                        await self._changed.wait()
            finally:
                alive.cancel()
                self._consumer = None
                self._leave_all()
                self._stopped.set()

    async def _keep_alive(self) -> None:
        """Keep what has no owner; owners do so with what they have."""
        while True:
            await asyncio.sleep(SUBMIT_CONSUMER.ack_wait_s / 3)
            for waiting in self._waiting.values():
                for dealt in waiting.values():
                    dealt.delivery.in_progress()

    def _capacity(self) -> int:
        members = self._ownership.members
        others = sum(each.capacity for each in members.values() if each.instance != self._instance)
        return self._max_runs + others

    def _on_delivery(self, delivery: Delivery) -> None:
        seq = delivery.stream_seq
        if (known := self._undecided.get(seq)) is not None:
            known.delivery.leave()
            known.delivery, known.again = delivery, True
            if known.owner is not None:
                self._send(known, known.owner)
            return
        dealt = _Dealt(delivery, self._partition(delivery))
        self._undecided[seq] = dealt
        owner = self._ownership.owner(dealt.partition)
        if owner is None or self._waiting.get(dealt.partition):
            self._wait(dealt)
        else:
            self._send(dealt, owner)

    def _partition(self, delivery: Delivery) -> int:
        """Where a submission's thread belongs; what cannot be read is refused here."""
        if self._ownership.alone:
            return 0
        try:
            tenant = subjects.parse_submit(delivery.subject).tenant
            named = _thread.decode(delivery.body).thread_id
        except (MeshError, msgspec.DecodeError, RecursionError):
            return 0
        return partition(tenant, named or self._admission.derived_thread(delivery.stream_seq))

    def _send(self, dealt: _Dealt, owner: str) -> None:
        dealt.owner = owner
        delivery, again = dealt.delivery, dealt.again
        dealt.again = True
        if owner != self._instance:
            message = SubmissionDealt(
                dealer=self._instance,
                subject=delivery.subject,
                body=delivery.body,
                headers=dict(delivery.headers),
                reply=delivery.reply,
                again=again,
            )
            self._peers.send(owner, message)
            return
        own = Delivery(
            self._bus,
            subject=delivery.subject,
            body=delivery.body,
            headers=delivery.headers,
            reply=delivery.reply,
        )

        def tell(decision: Decision) -> None:
            self._decide(own.stream_seq, owner, decision)

        self._admission.deal(own, tell, again=again)

    def _on_decided(self, decided: SubmissionDecided) -> None:
        fault = decided.error
        self._loads[decided.owner] = decided.in_flight
        decision = Decision(
            run=decided.run,
            error=None
            if fault is None
            else MeshError(ErrorCode.received(fault.code), fault.message, remedy=fault.remedy),
            returned=decided.returned,
        )
        self._decide(decided.seq, decided.owner, decision)

    def _decide(self, seq: int, owner: str, decision: Decision) -> None:
        self.decisions.tell(seq, decision)
        dealt = self._undecided.get(seq)
        if dealt is None:
            return
        if decision.returned:
            if dealt.owner == owner:
                dealt.partition = self._partition(dealt.delivery)
                self._wait(dealt)
                asyncio.get_running_loop().call_later(_RETURN_S, self._flush, dealt.partition)
            return
        del self._undecided[seq]
        self._recount()
        dealt.delivery.leave()

    def _wait(self, dealt: _Dealt) -> None:
        dealt.owner = None
        waiting = self._waiting.setdefault(dealt.partition, OrderedDict())
        waiting[dealt.delivery.stream_seq] = dealt

    def _flush(self, number: int) -> None:
        """Send what waits for the owner of a partition, in the order of the stream."""
        if (owner := self._ownership.owner(number)) is None or self._consumer is None:
            return
        for _, dealt in sorted(self._waiting.pop(number, {}).items()):
            self._send(dealt, owner)

    def _look_at_owners(self) -> None:
        """Deal again what went to a coordinator that does not own its thread any more."""
        for dealt in self._undecided.values():
            if dealt.owner is not None and dealt.owner != self._ownership.owner(dealt.partition):
                self._wait(dealt)
        for number in list(self._waiting):
            self._flush(number)
        gone = self._loads.keys() - self._ownership.members.keys()
        for instance in gone:
            del self._loads[instance]
        if gone:
            # Whose runs they were is not known any more; all go on somewhere.
            for stack in self._lent.values():
                stack.close()
            self._lent.clear()
            self._recount()

    def _on_load(self, load: OwnerLoad) -> None:
        if load.owner != self._instance:
            self._loads[load.owner] = load.in_flight
        for seq in load.settled:
            self._settled[seq] = None
            if (stack := self._lent.pop(seq, None)) is not None:
                stack.close()
        while len(self._settled) > _SETTLED_MAX:
            self._settled.popitem(last=False)
        self._recount()

    def _recount(self) -> None:
        if self._consumer is not None:
            self._consumer.occupy(self._runs.in_flight + sum(self._loads.values()))

    def _leave_all(self) -> None:
        """Give back what went to no owner; the owners answer for the rest."""
        for dealt in self._undecided.values():
            if dealt.owner is None:
                dealt.delivery.release()
            else:
                dealt.delivery.leave()
        self._undecided.clear()
        self._waiting.clear()
        self._loads.clear()
        for stack in self._lent.values():
            stack.close()
        self._lent.clear()

    def _on_ownership(self) -> None:
        self._changed.set()
