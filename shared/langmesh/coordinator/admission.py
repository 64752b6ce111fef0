"""From submissions to runs: decode, check, number, acknowledge.

A submission stays unacknowledged until its run's beginning is in the thread's log. From then on the
log is enough to finish the run, whoever owns the thread (ADR 0012).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery
from langmesh.coordinator.decisions import Decision, Tell
from langmesh.coordinator.events import EventWriter
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.refusal import refuse
from langmesh.coordinator.run import Run, Submitted
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import NotOwned, Thread
from langmesh.errors import ErrorCode, MeshError
from langmesh.service.ending import end
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
class Arrival:
    """A submission that is not acknowledged yet."""

    held: dict[int, Arrival]
    """Those that are not acknowledged, by stream sequence."""
    deliveries: list[Delivery]
    tells: list[Tell]
    """Who waits to hear what becomes of it."""
    again: bool
    """Whether another owner may have had it."""
    attached: bool = False
    """Whether its run was in the log, and is gone on with here."""
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

    def begun(self) -> None:
        """Remove the submission from its stream: the log has the run."""
        self._let_go()
        first, *others = self.deliveries
        first.remove()
        for each in others:
            each.ack()

    def over(self) -> None:
        """Remove the submission from its stream and free its place."""
        self._let_go()
        for each in self.deliveries:
            each.ack()

    def left(self, delay_s: float = 0.0) -> None:
        """Give the submission back to the broker, if it was not removed."""
        self._let_go()
        for each in self.deliveries:
            each.release(delay_s)

    def _let_go(self) -> None:
        if self.held.get(self.delivery.stream_seq) is self:
            del self.held[self.delivery.stream_seq]


class Admission:
    """Makes runs of the submissions that it is dealt."""

    def __init__(self, bus: Bus, engine: Engine, runs: LiveRuns) -> None:
        self._bus = bus
        self._engine = engine
        self._runs = runs
        self._threads = runs.threads
        self._held: dict[int, Arrival] = {}
        self._doubtful_until = 0
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
            await end(workers)
            await self._runs.stop()
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
            arrival = self._held[delivery.stream_seq] = Arrival(
                self._held, [delivery], [tell], again
            )
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
                arrival.left(_RETRY_S)
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
            if not arrival.attached:
                arrival.over()
            arrival.decide(Decision())
            return
        if not self._threads.has(run.thread):
            await run.events.stop()
            self._return(arrival)
            return
        reference = RunReference(
            run_id=run.id,
            thread_id=run.thread.name,
            submit_seq=delivery.stream_seq,
            trace_id=run.span.trace_id,
        )
        arrival.decide(Decision(run=reference))
        self._runs.add(run, delivery.stream_seq, arrival)

    def _return(self, arrival: Arrival) -> None:
        self._held.pop(arrival.delivery.stream_seq, None)
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
        async with self._threads.using(names.tenant, thread_id, is_new=is_new) as thread:
            if await self._is_known(thread, submitted, arrival):
                return None
            await self._check_graph(thread, names.graph)
            if not thread.busy and not thread.waiting:
                # What another owner began comes first, though nobody may have looked at it yet.
                await self._runs.take_over(names.tenant, thread_id)
            command = submission.command
            if command is not None and command.resume is not None:
                run = await self._runs.asking(names.tenant, names.graph, thread_id)
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

    async def _is_known(self, thread: Thread, submitted: Submitted, arrival: Arrival) -> bool:
        """Whether a submission is in the log, so that its run goes on or is over.

        Its acknowledgement may be lost; or the mark is, without which nobody finds the run.
        """
        journal = await thread.journal()
        if submitted.key not in journal.submissions:
            return False
        live = await self._runs.take_over(thread.tenant, thread.name)
        if live is not None and live.source is None and live.run.submitted.key == submitted.key:
            arrival.attached = True
            self._runs.attach(live, arrival)
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

    async def _refuse(self, arrival: Arrival, exc: MeshError) -> None:
        delivery = arrival.delivery
        log.info("submission %d refused: %s", delivery.stream_seq, exc)
        arrival.decide(Decision(error=exc))
        await refuse(self._bus, delivery, exc)
        arrival.over()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            for held in list(self._held.values()):
                held.deliveries[-1].in_progress()


def _epoch(created: str) -> str:
    """A short text for the moment a stream was made."""
    import zlib

    return f"{zlib.crc32(created.encode()):08x}"
