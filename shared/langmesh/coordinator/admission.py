"""From submissions to runs: decode, check, number, queue per thread, drive, acknowledge.

A submission stays unacknowledged until its run is over or waits for a human: run state lives in
this coordinator's memory, so if the coordinator dies, the broker hands the submission to the next
one, which begins the run anew under the same ids (ADR 0005).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery, PullConsumer
from langmesh.clock import monotonic, now_iso
from langmesh.coordinator.decisions import Decisions
from langmesh.coordinator.events import EventWriter, Usurped
from langmesh.coordinator.run import Engine, Run
from langmesh.errors import ErrorCode, MeshError
from langmesh.service.load import Counts
from langmesh.telemetry import attributes
from langmesh.wire import codec, subjects
from langmesh.wire.messages import RunAccepted, RunEnded, RunRejected, Submission
from langmesh.wire.names import NAME_BYTES_MAX, to_token
from langmesh.wire.streams import EVENT, SUBMIT, SUBMIT_CONSUMER

log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = SUBMIT_CONSUMER.ack_wait_s / 3
_RETRY_S: Final = 1.0

ThreadKey = tuple[str, str]


@dataclass(slots=True, eq=False)
class Live:
    """A run that is queued or driven here; one that goes on after an interrupt is a new one."""

    run: Run
    delivery: Delivery
    queued: bool = True
    since: float = field(default_factory=monotonic)
    """When it was accepted."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run's end or its interrupt is stored, or another coordinator has the run."""


@dataclass(slots=True)
class _Thread:
    """One thread's queue: its runs go one after the other."""

    waiting: deque[Live] = field(default_factory=deque)
    active: Live | None = None
    held: bool = False
    """Whether something else than a run works on the thread's state."""
    latest: Run | None = None
    """The run that was driven last; a resume command continues it while it asks."""
    graphs: set[str] = field(default_factory=set)

    @property
    def asking(self) -> bool:
        """Whether the thread waits for a human."""
        return self.latest is not None and self.latest.asking

    @property
    def busy(self) -> bool:
        """Whether a run that comes must wait."""
        return self.held or self.active is not None


class Admission:
    """Takes submissions and drives their runs."""

    def __init__(self, bus: Bus, engine: Engine, *, max_runs: int, threads_max: int) -> None:
        self._bus = bus
        self._engine = engine
        self._threads: OrderedDict[ThreadKey, _Thread] = OrderedDict()
        self._threads_max = threads_max
        self._held: dict[int, list[Delivery]] = {}
        self._live: dict[int, Live] = {}
        self._lent: dict[int, contextlib.ExitStack] = {}
        self.decisions: Decisions[Run] = Decisions()
        """What becomes of submissions, for who waits in this process."""
        self.counts = Counts()
        self._doubtful_until = 0
        self._drivers: set[asyncio.Task[None]] = set()
        self._epoch = ""
        self._arrivals: asyncio.Queue[Delivery] = asyncio.Queue()
        self._consumer = PullConsumer(
            bus,
            SUBMIT.name,
            SUBMIT_CONSUMER.durable,
            capacity=max_runs,
            handler=self._on_delivery,
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Admit while the block runs; at its end, unfinished runs go back to the broker."""
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
            async with self._consumer.run():
                yield
        finally:
            forget()
            for task in (*workers, *self._drivers):
                task.cancel()
            await asyncio.gather(*workers, *self._drivers, return_exceptions=True)
            for held in self._held.values():
                for each in held:
                    each.release()

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

    def asking(self, tenant: str, graph: str, thread: str) -> Run | None:
        """The run with which a thread waits for a human."""
        found = self._threads.get((tenant, thread))
        run = found.latest if found is not None else None
        return run if run is not None and run.graph == graph and run.asking else None

    def cancel(self, live: Live) -> None:
        """Call a run off; nothing happens if its last event is on its way."""
        live.run.call_off()
        if live.queued:
            thread = self._threads[(live.run.tenant, live.run.thread)]
            thread.waiting.remove(live)
            self._start(thread, live)

    @contextlib.contextmanager
    def holding(self, tenant: str, graph: str, thread_id: str) -> Iterator[None]:
        """Let the runs of a thread wait while the block works on its state.

        Raises:
            MeshError: BUSY while a run or another such block is at work.
        """
        thread = self._threads.setdefault((tenant, thread_id), _Thread())
        if thread.busy:
            raise MeshError(ErrorCode.BUSY, f"thread_id: a run is active on {thread_id[:100]!r}")
        thread.held = True
        thread.graphs.add(graph)
        try:
            yield
        finally:
            thread.held = False
            self._next(thread)

    def lend(self) -> contextlib.ExitStack:
        """Take one run more until the stack is closed, or until :meth:`lent_to` closes it."""
        stack = contextlib.ExitStack()
        stack.enter_context(self._consumer.lending())
        return stack

    def lent_to(self, submit_seq: int, stack: contextlib.ExitStack) -> None:
        """Close the stack when the submission's run is over or asks a human."""
        if submit_seq in self._live:
            self._lent[submit_seq] = stack
        else:
            stack.close()

    def _on_delivery(self, delivery: Delivery) -> None:
        if (held := self._held.get(delivery.stream_seq)) is not None:
            # The broker lost track of a delivery that is in work here; its run goes on.
            held.append(delivery)
            return
        self._held[delivery.stream_seq] = [delivery]
        self._arrivals.put_nowait(delivery)

    async def _admit_all(self) -> None:
        """Admit one submission after the other, so that those of a thread keep their order."""
        while True:
            await self._take(await self._arrivals.get())

    async def _take(self, delivery: Delivery) -> None:
        try:
            run = await self._admit(delivery)
        except MeshError as exc:
            if exc.retryable and exc.code != ErrorCode.UNKNOWN_GRAPH:
                log.warning("a submission is put off: %s", exc)
                for each in self._held.pop(delivery.stream_seq):
                    each.release(_RETRY_S)
                return
            await self._refuse(delivery, exc)
            return
        except Exception as exc:
            # Whatever it is, a submission that cannot be admitted must not be held for ever.
            log.exception("submission %d cannot be admitted", delivery.stream_seq)
            reason = f"the submission cannot be admitted: {type(exc).__name__}"
            await self._refuse(delivery, MeshError(ErrorCode.INTERNAL, reason))
            return
        if run is None:
            self._settle(delivery)
            return
        thread = self._threads.setdefault((run.tenant, run.thread), _Thread())
        self._threads.move_to_end((run.tenant, run.thread))
        thread.graphs.add(run.graph)
        live = self._live[delivery.stream_seq] = Live(run, delivery)
        thread.waiting.append(live)
        self.decisions.tell(delivery.stream_seq, run)
        if not thread.busy:
            self._next(thread)

    async def _admit(self, delivery: Delivery) -> Run | None:
        """Make a run of a submission; None if it was run to its end before.

        Raises:
            MeshError: Why it is refused.
        """
        names = subjects.parse_submit(delivery.subject)
        submission = codec.decode_submission(delivery.body)
        entry = self._engine.catalog.get(names.tenant, names.graph)
        loaded = entry.loaded
        derived = f"{self._epoch}-{delivery.stream_seq}"
        thread = f"thread-{derived}" if submission.thread_id is None else submission.thread_id
        to_token(thread, field="thread_id")
        if (run := self._resumable(names.tenant, thread, names.graph, submission)) is not None:
            run.events.emit(
                RunAccepted,
                graph=names.graph,
                submit_seq=delivery.stream_seq,
                trace_id=run.span.trace_id,
            )
            run.submission = submission
            run.resumed = True
            run.closing = False
            run.invocation = f"{run.id}/{delivery.stream_seq}"
            return run
        if submission.command is None and submission.input is not None:
            loaded.inputs.check(submission.input)
        run_id = f"run-{derived}" if submission.run_id is None else submission.run_id
        to_token(run_id, field="run_id")
        subject = subjects.event(names.tenant, names.graph, thread, run_id)
        seq, last, restarted, over = await self._earlier(subject, delivery)
        if over:
            return None
        span = self._engine.tracer.begin(
            attributes.invoke_workflow(
                tenant=names.tenant,
                graph=names.graph,
                revision=loaded.topology.revision,
                thread=thread,
                run=run_id,
            ),
            parent=delivery.headers.get("traceparent", ""),
            ratio=self._engine.configuration.sample_ratio(names.graph),
        )
        events = EventWriter(
            self._bus, subject, run_id=run_id, thread_id=thread, seq=seq, last=last
        )
        if not restarted:
            events.emit(
                RunAccepted,
                graph=names.graph,
                submit_seq=delivery.stream_seq,
                trace_id=span.trace_id,
            )
        return Run(
            engine=self._engine,
            tenant=names.tenant,
            graph=names.graph,
            thread=thread,
            id=run_id,
            loaded=loaded,
            submission=submission,
            events=events,
            span=span,
            invocation=f"{run_id}/{delivery.stream_seq}/{delivery.deliveries}",
            restarted=restarted,
        )

    def _resumable(
        self, tenant: str, thread: str, graph: str, submission: Submission
    ) -> Run | None:
        """The interrupted run that a resume command continues."""
        found = self._threads.get((tenant, thread))
        if submission.command is None or submission.command.resume is None or found is None:
            return None
        run = found.latest
        # The question is out before its run lets go of the thread: an answer may come that early.
        if run is None or run.graph != graph or not run.asking:
            return None
        run.asking = False
        return run

    async def _earlier(self, subject: str, delivery: Delivery) -> tuple[int, int, bool, bool]:
        """What an earlier life of the run has written: (seq, stream sequence, restarted, over)."""
        if delivery.deliveries == 1 and not self._may_exist(delivery):
            return 0, 0, False, False
        last = await self._bus.last(EVENT.name, subject)
        if last is None:
            return 0, 0, False, False
        first = await self._bus.first(EVENT.name, subject)
        opening = codec.decode_event(first[1]) if first is not None else None
        used_by = opening.submit_seq if isinstance(opening, RunAccepted) else 0
        if used_by != delivery.stream_seq:
            raise MeshError(
                ErrorCode.DUPLICATE_RUN,
                f"run_id: submission {used_by} used it on this thread before",
            )
        event = codec.decode_event(last[1])
        return event.seq, last[0], True, isinstance(event, RunEnded)

    def _may_exist(self, delivery: Delivery) -> bool:
        """Whether what the broker calls a first delivery may be of a run that began before.

        A chosen run_id may have been used; and a broker that crashed may have forgotten deliveries
        of what it held then.
        """
        return delivery.stream_seq <= self._doubtful_until or b'"run_id"' in delivery.body

    def _doubt(self) -> None:
        self._doubtful_until = sys.maxsize

    def _next(self, thread: _Thread) -> None:
        if not thread.waiting:
            thread.active = None
            self._forget_idle_threads()
            return
        live = thread.waiting.popleft()
        thread.active, thread.latest = live, live.run
        self._start(thread, live)

    def _start(self, thread: _Thread, live: Live) -> None:
        live.queued = False
        driver = asyncio.get_running_loop().create_task(self._drive(thread, live))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)

    async def _drive(self, thread: _Thread, live: Live) -> None:
        run, started = live.run, monotonic()
        self.counts.begin(started - live.since)
        try:
            with run.span.activate():
                await run.drive()
        except Usurped:
            log.warning("run %s went to another coordinator", run.id)
        except asyncio.CancelledError:
            # This coordinator stops: the submission goes back, and no other run begins.
            raise
        except Exception:
            log.exception("driving run %s failed", run.id)
        self.counts.end(monotonic() - started, failed=run.failed)
        self._settle(live.delivery)
        if thread.active is live:
            self._next(thread)

    def _settle(self, delivery: Delivery) -> None:
        if (live := self._live.pop(delivery.stream_seq, None)) is not None:
            live.over.set()
        if (lent := self._lent.pop(delivery.stream_seq, None)) is not None:
            lent.close()
        for each in self._held.pop(delivery.stream_seq, []):
            each.ack()

    async def _refuse(self, delivery: Delivery, exc: MeshError) -> None:
        log.info("submission %d refused: %s", delivery.stream_seq, exc)
        self.decisions.tell(delivery.stream_seq, exc)
        *_, tenant, graph = delivery.subject.split(".")
        rejected = RunRejected(
            submit_seq=delivery.stream_seq,
            time=now_iso(),
            **_ids(delivery.body),
            code=str(exc.code),
            message=exc.message,
            remedy=exc.remedy,
        )
        subject = f"{subjects.ROOT}.reject.{tenant}.{graph}"
        while True:
            try:
                await self._bus.append(subject, codec.encode_json(rejected))
                break
            except MeshError as failure:
                log.warning("a rejection is not stored yet: %s", failure)
                await asyncio.sleep(_RETRY_S)
        self._settle(delivery)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            for held in list(self._held.values()):
                held[-1].in_progress()

    def _forget_idle_threads(self) -> None:
        """Drop the state of the thread that was idle longest when there are too many."""
        while len(self._threads) > self._threads_max:
            key = next((k for k, t in self._threads.items() if not t.busy and not t.asking), None)
            if key is None:
                return
            for graph in self._threads.pop(key).graphs:
                with contextlib.suppress(MeshError):
                    self._engine.catalog.get(key[0], graph).saver.delete_thread(key[1])


def _ids(body: bytes) -> dict[str, Any]:
    """The ids that a refused submission asked for, where they can be read and told."""
    try:
        submission = codec.decode_submission(body)
    except MeshError:
        return {}
    ids = {"run_id": submission.run_id, "thread_id": submission.thread_id}
    return {name: text for name, text in ids.items() if text and len(text) <= NAME_BYTES_MAX}


def _epoch(created: str) -> str:
    """A short text for the moment a stream was made."""
    import zlib

    return f"{zlib.crc32(created.encode()):08x}"
