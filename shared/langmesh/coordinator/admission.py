"""From submissions to runs: decode, check, number, queue per thread, drive, acknowledge.

A submission stays unacknowledged until its run's beginning is in the thread's log. From then on the
log is enough to finish the run, whoever owns the thread (ADR 0012); :meth:`Admission.take_over`
goes on with what another owner began.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery
from langmesh.clock import monotonic
from langmesh.coordinator.decisions import Decision, Tell
from langmesh.coordinator.events import EventWriter, Usurped
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.refusal import refuse
from langmesh.coordinator.revival import revived, tell_the_rest, writer_behind
from langmesh.coordinator.run import Again, Run, Submitted
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import NotOwned, Thread, Threads
from langmesh.errors import ErrorCode, MeshError
from langmesh.service.ending import end
from langmesh.service.load import Counts
from langmesh.telemetry import attributes
from langmesh.wire import codec, subjects
from langmesh.wire.messages import RunAccepted, RunEnded
from langmesh.wire.names import to_token
from langmesh.wire.rpc import RunReference
from langmesh.wire.streams import EVENT, SUBMIT, SUBMIT_CONSUMER

log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = SUBMIT_CONSUMER.ack_wait_s / 3
_RETRY_S: Final = 1.0
_STOP_S: Final = 2.0
"""How long the last events of runs that go to another owner are waited for."""


@dataclass(slots=True, eq=False)
class Live:
    """A run that is queued or driven here; one that goes on after an interrupt is a new one."""

    run: Run
    key: object
    """What it is known by: its submission's stream sequence, or the run of another owner."""
    delivery: Delivery | None
    """The submission's; None for a run that another owner began."""
    queued: bool = True
    since: float = field(default_factory=monotonic)
    """When it was accepted."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run's end or its interrupt is stored, or another coordinator has the run."""
    driver: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class Arrival:
    """A submission that is not acknowledged yet."""

    deliveries: list[Delivery]
    tells: list[Tell]
    """Who waits to hear what becomes of it."""
    again: bool
    """Whether another owner may have had it."""
    decision: Decision | None = None

    @property
    def delivery(self) -> Delivery:
        """The first one; the others are the broker's mistakes."""
        return self.deliveries[0]

    def decide(self, decision: Decision) -> None:
        """Tell what became of it."""
        self.decision = decision
        for tell in self.tells:
            tell(decision)
        self.tells.clear()


class Admission:
    """Makes runs of the submissions that it is dealt, and drives them."""

    def __init__(self, bus: Bus, engine: Engine, threads: Threads) -> None:
        self._bus = bus
        self._engine = engine
        self.threads = threads
        self._held: dict[int, Arrival] = {}
        self._live: dict[object, Live] = {}
        self.counts = Counts()
        self.on_load: Callable[[int], None] = lambda _: None
        """Told when :attr:`in_flight` changes: the submission that is settled, or 0."""
        self._doubtful_until = 0
        self._drivers: set[asyncio.Task[None]] = set()
        self._epoch = ""
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Admit while the block runs; at its end, others go on with unfinished runs."""
        info = await self._bus.api(f"STREAM.INFO.{SUBMIT.name}")
        # Sequences start again when the stream is made anew; its age keeps derived ids unique.
        self._epoch = _epoch(info["created"])
        self._doubtful_until = info["state"]["last_seq"]
        forget = self._bus.on_reconnect(self._doubt)
        workers = [
            asyncio.create_task(self._keep_alive(), name="keep submissions"),
            asyncio.create_task(self._admit_all(), name="admit submissions"),
        ]
        try:
            yield
        finally:
            forget()
            await end((*workers, *self._drivers))
            self.threads.close()
            for arrival in self._held.values():
                for each in arrival.deliveries:
                    each.release()

    def deal(self, delivery: Delivery, tell: Tell, *, again: bool) -> None:
        """Take a submission.

        Args:
            delivery: It, for this to acknowledge.
            tell: Called with what becomes of it, once.
            again: Whether another owner may have had it.
        """
        arrival = self._held.get(delivery.stream_seq)
        if arrival is None:
            again |= delivery.deliveries > 1
            arrival = self._held[delivery.stream_seq] = Arrival([delivery], [tell], again)
            self._arrivals.put_nowait(arrival)
            return
        # The broker lost track of a delivery that is in work here; its run goes on.
        arrival.deliveries.append(delivery)
        if arrival.decision is not None:
            tell(arrival.decision)
        else:
            arrival.tells.append(tell)

    def derived_thread(self, submit_seq: int) -> str:
        """The thread of a submission that names none."""
        return f"thread-{self._epoch}-{submit_seq}"

    async def release(self, partitions: Collection[int]) -> None:
        """Let go of the threads of partitions, for another owner to go on with."""
        self.threads.drop(partitions)
        gone = [each for each in self._live.values() if each.run.thread.partition in partitions]
        for live in gone:
            live.run.thread.waiting.clear()
        await end(each.driver for each in gone if each.driver is not None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*(each.run.events.stop() for each in gone))
        for live in gone:
            self._settle(live, left=True)

    @property
    def in_flight(self) -> int:
        """How many runs are queued or driven here."""
        return len(self._live)

    def find(self, tenant: str, run_id: str) -> Live | None:
        """The run of an id that is queued or driven here; the last one if there are more."""
        for live in reversed(self._live.values()):
            if live.run.id == run_id and live.run.tenant == tenant:
                return live
        return None

    def cancel(self, live: Live) -> None:
        """Call a run off; nothing happens if its last event is on its way."""
        live.run.call_off()
        if live.queued:
            live.run.thread.waiting.remove(live)
            self._start(live)

    @contextlib.asynccontextmanager
    async def holding(self, tenant: str, thread_id: str) -> AsyncIterator[Thread]:
        """Let the runs of a thread wait while the block works on its state.

        Raises:
            MeshError: BUSY while a run or another such block is at work; as ``Threads.using``.
        """
        async with self.threads.using(tenant, thread_id) as thread:
            while (live := thread.active) is not None and live.run.closing:
                # Clients may know its end before the broker's acknowledgements are here.
                await live.over.wait()
            last = (await thread.journal()).last
            if thread.busy or (last is not None and last.phase == "running"):
                raise MeshError(
                    ErrorCode.BUSY, f"thread_id: a run is active on {thread_id[:100]!r}"
                )
            thread.held = True
            try:
                yield thread
            finally:
                thread.held = False
                self._next(thread)

    async def asking(self, tenant: str, graph: str, thread_id: str) -> Run | None:
        """The run with which a thread waits for a human.

        Raises:
            MeshError: As ``Threads.using``.
        """
        async with self.threads.using(tenant, thread_id) as thread, thread.reviving:
            if thread.latest is None:
                last = (await thread.journal()).last
                if last is None or last.phase != "asking":
                    return None
                thread.latest = await revived(self._bus, self._engine, thread, last)
            run = thread.latest
            return run if run.graph == graph and run.asking else None

    async def take_over(self, tenant: str, thread_id: str, *, mark: int = 0) -> Live | None:
        """Go on with a thread's run that nobody drives; None if there is none.

        Args:
            tenant: Whose thread.
            thread_id: Its name.
            mark: Stream sequence of its mark in ACTIVE; 0 if it is not known.

        Raises:
            MeshError: As ``Threads.using``; UNKNOWN_GRAPH and the like: it cannot be driven here.
        """
        async with self.threads.using(tenant, thread_id) as thread, thread.reviving:
            last = (await thread.journal()).last
            if last is None:
                return None
            if last.phase != "running":
                if mark and not thread.busy:
                    await tell_the_rest(self._bus, thread, last)
                return None
            if (live := thread.active or next(iter(thread.waiting), None)) is not None:
                return live
            run = await revived(self._bus, self._engine, thread, last, mark=mark)
            if not self.threads.has(thread):
                await run.events.stop()
                raise NotOwned(thread_id)
            live = Live(run, last.begun.submit_seq, None)
            if live.key in self._live:
                live.key = run
            self._live[live.key] = live
            thread.waiting.appendleft(live)
            self.on_load(0)
            log.info("going on with run %s of thread %s", run.id, thread_id)
            if not thread.busy:
                self._next(thread)
            return live

    async def _admit_all(self) -> None:
        """Admit one submission after the other, so that those of a thread keep their order."""
        while True:
            await self._take(await self._arrivals.get())

    async def _take(self, arrival: Arrival) -> None:
        delivery = arrival.delivery
        try:
            run = await self._admit(arrival)
        except NotOwned:
            self._return(arrival)
            return
        except MeshError as exc:
            if exc.retryable and exc.code != ErrorCode.UNKNOWN_GRAPH:
                log.warning("a submission is put off: %s", exc)
                del self._held[delivery.stream_seq]
                for each in arrival.deliveries:
                    each.release(_RETRY_S)
                arrival.decide(Decision())
                return
            await self._refuse(arrival, exc)
            return
        except Exception as exc:
            # Whatever it is, a submission that cannot be admitted must not be held for ever.
            log.exception("submission %d cannot be admitted", delivery.stream_seq)
            reason = f"the submission cannot be admitted: {type(exc).__name__}"
            await self._refuse(arrival, MeshError(ErrorCode.INTERNAL, reason))
            return
        if run is None:
            self._finish(delivery)
            arrival.decide(Decision())
            return
        if not self.threads.has(run.thread):
            await run.events.stop()
            self._return(arrival)
            return
        live = self._live[delivery.stream_seq] = Live(run, delivery.stream_seq, delivery)
        run.thread.waiting.append(live)
        reference = RunReference(
            run_id=run.id,
            thread_id=run.thread.name,
            submit_seq=delivery.stream_seq,
            trace_id=run.span.trace_id,
        )
        arrival.decide(Decision(run=reference))
        self.on_load(0)
        if not run.thread.busy:
            self._next(run.thread)

    def _return(self, arrival: Arrival) -> None:
        del self._held[arrival.delivery.stream_seq]
        arrival.decide(Decision(returned=True))

    async def _admit(self, arrival: Arrival) -> Run | None:
        """Make a run of a submission; None if it became one before.

        Raises:
            NotOwned: Its thread is not this coordinator's.
            MeshError: Why it is refused.
        """
        delivery = arrival.delivery
        names = subjects.parse_submit(delivery.subject)
        submission = codec.decode_submission(delivery.body)
        loaded = self._engine.catalog.get(names.tenant, names.graph).loaded
        thread_id = submission.thread_id
        if thread_id is None:
            thread_id = self.derived_thread(delivery.stream_seq)
        to_token(thread_id, field="thread_id")
        submitted = Submitted(
            epoch=self._epoch,
            seq=delivery.stream_seq,
            body=delivery.body,
            submission=submission,
        )
        is_new = submission.thread_id is None and not self._may_be_begun(arrival)
        async with self.threads.using(names.tenant, thread_id, is_new=is_new) as thread:
            if await self._is_known(thread, submitted):
                return None
            await self._check_graph(thread, names.graph)
            if not thread.busy and not thread.waiting:
                # What another owner began comes first, though nobody may have looked at it yet.
                await self.take_over(names.tenant, thread_id)
            command = submission.command
            if command is not None and command.resume is not None:
                run = await self.asking(names.tenant, names.graph, thread_id)
                if run is not None:
                    self._tell_accepted(run, submitted)
                    run.answer(submitted)
                    return run
            if command is None and submission.input is not None:
                loaded.inputs.check(submission.input)
            run_id = submission.run_id
            if run_id is None:
                run_id = f"run-{self._epoch}-{delivery.stream_seq}"
            to_token(run_id, field="run_id")
            subject = subjects.event(names.tenant, names.graph, thread_id, run_id)
            seq, last, restarted, over = await self._earlier(subject, arrival)
            if over:
                return None
            run = Run(
                engine=self._engine,
                thread=thread,
                graph=names.graph,
                id=run_id,
                loaded=loaded,
                submitted=submitted,
                events=EventWriter(
                    self._bus, subject, run_id=run_id, thread_id=thread_id, seq=seq, last=last
                ),
                span=self._engine.tracer.begin(
                    attributes.invoke_workflow(
                        tenant=names.tenant,
                        graph=names.graph,
                        revision=loaded.topology.revision,
                        thread=thread_id,
                        run=run_id,
                    ),
                    parent=delivery.headers.get("traceparent", ""),
                    ratio=self._engine.configuration.sample_ratio(names.graph),
                ),
                mark=Mark(self._bus, names.tenant, thread_id, run_id),
                restarted=restarted,
            )
            if not restarted:
                self._tell_accepted(run, submitted)
            # A thread with a run that waits is not forgotten.
            return run

    @staticmethod
    def _tell_accepted(run: Run, submitted: Submitted) -> None:
        run.events.emit(
            RunAccepted,
            graph=run.graph,
            submit_seq=submitted.seq,
            trace_id=run.span.trace_id,
        )

    async def _is_known(self, thread: Thread, submitted: Submitted) -> bool:
        """Whether a submission is in the log, so that its acknowledgement was lost."""
        journal = await thread.journal()
        if (submitted.epoch, submitted.seq) not in journal.submissions:
            return False
        if not thread.busy and not thread.waiting:
            await self.take_over(thread.tenant, thread.name)
        return True

    @staticmethod
    async def _check_graph(thread: Thread, graph: str) -> None:
        last = (await thread.journal()).last
        if last is not None and last.started.graph != graph:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"thread_id: {thread.name[:100]!r} is a thread of graph {last.started.graph!r}",
                remedy="Use another thread: each holds the state of one graph.",
            )

    async def _earlier(self, subject: str, arrival: Arrival) -> tuple[int, int, bool, bool]:
        """What an earlier life of the run has written: (seq, stream sequence, restarted, over)."""
        if not self._may_exist(arrival):
            return 0, 0, False, False
        last = await self._bus.last(EVENT.name, subject)
        if last is None:
            return 0, 0, False, False
        first = await self._bus.first(EVENT.name, subject)
        opening = codec.decode_event(first[1]) if first is not None else None
        used_by = opening.submit_seq if isinstance(opening, RunAccepted) else 0
        if used_by != arrival.delivery.stream_seq:
            raise MeshError(
                ErrorCode.DUPLICATE_RUN,
                f"run_id: submission {used_by} used it on this thread before",
            )
        event = codec.decode_event(last[1])
        return event.seq, last[0], True, isinstance(event, RunEnded)

    def _may_exist(self, arrival: Arrival) -> bool:
        """Whether what the broker calls a first delivery may be of a run that began before.

        A chosen run_id may have been used; and a broker that crashed may have forgotten deliveries
        of what it held then.
        """
        return self._may_be_begun(arrival) or b'"run_id"' in arrival.delivery.body

    def _may_be_begun(self, arrival: Arrival) -> bool:
        """Whether a submission may have been delivered before."""
        return arrival.again or arrival.delivery.stream_seq <= self._doubtful_until

    def _doubt(self) -> None:
        self._doubtful_until = sys.maxsize

    def _next(self, thread: Thread) -> None:
        if not thread.waiting:
            thread.active = None
            return
        live = thread.waiting.popleft()
        thread.active, thread.latest = live, live.run
        self._start(live)

    def _start(self, live: Live) -> None:
        live.queued = False
        driver = live.driver = asyncio.get_running_loop().create_task(self._drive(live))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)

    async def _drive(self, live: Live) -> None:
        acknowledging = asyncio.create_task(self._acknowledge(live))
        thread, started, left = live.run.thread, monotonic(), False
        self.counts.begin(started - live.since)
        try:
            await self._drive_until_over(live)
        except Usurped as exc:
            log.warning("run %s went to another coordinator: %s", live.run.id, exc)
            left = True
        except asyncio.CancelledError:
            # This coordinator stops: another one goes on with the run, and no other begins.
            raise
        except Exception:
            log.exception("driving run %s failed", live.run.id)
        finally:
            acknowledging.cancel()
        self.counts.end(monotonic() - started, failed=live.run.failed)
        self._settle(live, left=left)
        if thread.active is live:
            self._next(thread)

    async def _drive_until_over(self, live: Live) -> None:
        while True:
            try:
                with live.run.span.activate():
                    await live.run.drive()
            except Again:
                await asyncio.sleep(_RETRY_S)
            else:
                return
            await self._begin_again(live)

    async def _begin_again(self, live: Live) -> None:
        """Make of a run what its log says, as another owner would."""
        run, thread = live.run, live.run.thread
        while True:
            try:
                await run.events.stop()
                last = (await thread.journal()).last
                if last is not None and last.started.run_id == run.id and last.phase == "running":
                    live.run = await revived(self._bus, self._engine, thread, last, mark=run.mark)
                    thread.latest = live.run
                else:
                    run.restart(await writer_behind(self._bus, run))
            except MeshError as exc:
                if not exc.retryable:
                    raise
                log.warning("run %s waits for the broker: %s", run.id, exc.message)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _acknowledge(self, live: Live) -> None:
        """Remove the submission from its stream once the run's beginning is in the log."""
        if live.delivery is None:
            return
        await live.run.log.begun.wait()
        for each in self._take_held(live.delivery):
            if each is live.delivery:
                each.remove()
            else:
                each.ack()

    def _settle(self, live: Live, *, left: bool = False) -> None:
        """Note that a run is over, asks, or is somebody else's.

        Args:
            live: The run.
            left: Whether it is somebody else's: then the submission, if the log does not have it,
                goes back to the broker.
        """
        if self._live.pop(live.key, None) is None:
            return
        live.over.set()
        if live.delivery is not None:
            if left:
                for each in {live.delivery, *self._take_held(live.delivery)}:
                    each.release()
            else:
                self._finish(live.delivery)
        self.on_load(live.key if isinstance(live.key, int) else 0)

    def _take_held(self, delivery: Delivery) -> list[Delivery]:
        arrival = self._held.pop(delivery.stream_seq, None)
        return [] if arrival is None else arrival.deliveries

    def _finish(self, delivery: Delivery) -> None:
        for each in {delivery, *self._take_held(delivery)}:
            each.ack()

    async def _refuse(self, arrival: Arrival, exc: MeshError) -> None:
        delivery = arrival.delivery
        log.info("submission %d refused: %s", delivery.stream_seq, exc)
        arrival.decide(Decision(error=exc))
        await refuse(self._bus, delivery, exc)
        self._finish(delivery)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            for held in list(self._held.values()):
                held.deliveries[-1].in_progress()


def _epoch(created: str) -> str:
    """A short text for the moment a stream was made."""
    import zlib

    return f"{zlib.crc32(created.encode()):08x}"
