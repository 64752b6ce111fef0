"""How runs stand: many at a glance, by the last event of each, and one in detail, by all of its."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from langmesh.bus import Bus, reading
from langmesh.client.asking import ask
from langmesh.errors import MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    AnyEvent,
    ErrorInfo,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    RunStarted,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
)
from langmesh.wire.rpc import RunStatus, RunView
from langmesh.wire.streams import EVENT

LOOK_MAX: Final = 100_000
"""Events that a listing looks at; a rare status may be further back."""
_WINDOW: Final = 1_024
_WINDOW_MAX: Final = 32_768
_AT_ONCE: Final = 32
_ENDED: Final = RunEnded.__struct_config__.tag
_STATUS: Final[dict[Any, RunStatus]] = {
    RunAccepted.__struct_config__.tag: "queued",
    RunInterrupted.__struct_config__.tag: "interrupted",
}


class Failure(msgspec.Struct, frozen=True):
    """Why a run failed, without the traceback."""

    type: str
    code: str
    message: str
    node: str = ""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run at a glance."""

    run_id: str
    thread_id: str
    graph: str
    status: RunStatus
    accepted_at: str
    """RFC 3339; of the oldest event that is kept."""
    changed_at: str
    """RFC 3339; of the last event."""
    trace_id: str
    error: Failure | None = None
    """Of a run that failed, or whose last event tells of a failed attempt."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, those that changed last first."""

    runs: list[RunSummary]
    complete: bool
    """Whether there are no others, up to the limit; else the search was given up."""
    looked_at: int
    """Events that were read."""


class TaskSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a run, as its last attempt stands."""

    task_id: str
    node: str
    superstep: int
    status: str
    """``running``, ``waiting`` for an agent, or how it ended, as in ``task.ended.v1``."""
    attempts: int
    started_at: str
    """RFC 3339; of the first attempt."""
    ended_at: str = ""
    instance: str = ""
    queue_ms: float = 0.0
    execute_ms: float = 0.0
    note: str = ""
    """Why it waits, or why the attempt before the last failed."""


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """A run in detail; times are RFC 3339 and empty for what has not happened."""

    run_id: str
    thread_id: str
    graph: str
    status: RunStatus
    revision: str = ""
    coordinator: str = ""
    submit_seq: int = 0
    trace_id: str = ""
    accepted_at: str = ""
    started_at: str = ""
    changed_at: str = ""
    ended_at: str = ""
    supersteps: int = 0
    tasks: list[TaskSummary] = []
    """In the order in which they were sent."""
    events: int = 0
    output: Any = None
    interrupts: list[Any] = []
    error: ErrorInfo | None = None


class _Head(msgspec.Struct, frozen=True):
    """What a listing reads of an event; outputs and streamed values are skipped."""

    type: str
    run_id: str
    thread_id: str
    time: str
    status: str = ""
    trace_id: str = ""
    error: Failure | None = None


async def recent(
    bus: Bus,
    tenant: str,
    *,
    graph: str | None = None,
    thread: str | None = None,
    status: RunStatus | None = None,
    limit: int = 20,
    look_max: int = LOOK_MAX,
) -> Listing:
    """The runs that changed last.

    Reads stream EVENT from its end, a window at a time, until enough runs are found: how many runs
    there are makes no difference.

    Args:
        bus: The connection.
        tenant: Whose runs.
        graph: Only runs of this graph.
        thread: Only runs on this thread.
        status: Only runs that stand like this.
        limit: Runs at most.
        look_max: Events to look at; the window that exceeds them is the last.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    pattern = subjects.events(tenant, graph, thread)
    first, last = await reading.bounds(bus, EVENT.name)
    found: list[tuple[str, _Head]] = []
    seen: set[str] = set()
    looked_at, size = 0, _WINDOW
    while last >= first and len(found) < limit and looked_at < look_max:
        begin = max(first, last - size + 1)
        heads: dict[str, _Head] = {}
        async for message in reading.read(bus, EVENT.name, pattern, first=begin, last=last):
            looked_at += 1
            if message.subject not in seen and (head := _head(message.body)) is not None:
                # What is put in last stands last.
                heads.pop(message.subject, None)
                heads[message.subject] = head
        found += [each for each in reversed(heads.items()) if status in {None, _status(each[1])}]
        seen |= heads.keys()
        last, size = begin - 1, min(2 * size, _WINDOW_MAX)
    del found[limit:]
    return Listing(
        runs=await _summaries(bus, found),
        complete=last < first or len(found) == limit,
        looked_at=looked_at,
    )


async def _summaries(bus: Bus, found: Sequence[tuple[str, _Head]]) -> list[RunSummary]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def summary(subject: str, head: _Head) -> RunSummary:
        async with places:
            oldest = await bus.first(EVENT.name, subject)
        begin = _head(oldest[1]) if oldest is not None else None
        return RunSummary(
            run_id=head.run_id,
            thread_id=head.thread_id,
            graph=subjects.parse_event(subject).graph,
            status=_status(head),
            accepted_at=begin.time if begin is not None else head.time,
            changed_at=head.time,
            trace_id=head.trace_id or (begin.trace_id if begin is not None else ""),
            error=head.error,
        )

    return list(await asyncio.gather(*(summary(*each) for each in found)))


def _head(body: bytes) -> _Head | None:
    """The head of an event; None for what others may have written there."""
    try:
        return codec.decode_json(_Head, body)
    except MeshError:
        return None


def _status(head: _Head) -> RunStatus:
    if head.type == _ENDED and head.status in {"success", "error", "cancelled"}:
        return head.status  # type: ignore[return-value]
    return _STATUS.get(head.type, "running")


async def report(bus: Bus, tenant: str, run_id: str) -> RunReport:
    """A run in detail: how it stands by its coordinator, what it did by its events.

    Raises:
        MeshError: UNKNOWN_RUN, BROKER_UNAVAILABLE.
    """
    view = msgspec.convert(await ask(bus, tenant, "run.get", {"run_id": run_id}), RunView)
    subject = subjects.event(tenant, view.graph, view.thread_id, run_id)
    story = Story()
    _, last = await reading.bounds(bus, EVENT.name)
    async for message in reading.read(bus, EVENT.name, subject, last=last):
        story.take(codec.decode_event(message.body))
    return RunReport(
        run_id=run_id,
        thread_id=view.thread_id,
        graph=view.graph,
        status=view.status,
        output=view.output,
        interrupts=view.interrupts,
        error=view.error,
        tasks=list(story.tasks.values()),
        **story.facts,
    )


class Story:
    """What a run's events tell, one after the other.

    Attributes:
        facts: Fields of a :class:`RunReport`.
        tasks: The tasks by their ids.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"events": 0}
        self.tasks: dict[str, TaskSummary] = {}

    def take(self, event: AnyEvent | codec.UnknownEvent) -> None:
        """Take the next event."""
        self.facts["events"] += 1
        self.facts["changed_at"] = event.time
        match event:
            case RunAccepted():
                # An answer to an interrupt is accepted, too.
                if "accepted_at" not in self.facts:
                    self._know(accepted_at=event.time, submit_seq=event.submit_seq)
                self._know(trace_id=event.trace_id)
            case RunStarted():
                self._start(event)
            case TaskStarted():
                self._start_task(event)
            case TaskWaiting():
                self._change(event.task_id, status="waiting", note=event.reason)
            case TaskRestarted():
                note = event.error.message if event.error is not None else ""
                self._change(event.task_id, status="running", attempts=event.attempt, note=note)
            case TaskEnded():
                self._end_task(event)
            case RunEnded():
                self._know(ended_at=event.time, supersteps=event.supersteps)
                if event.trace_id:
                    self._know(trace_id=event.trace_id)
            case _:
                pass

    def _know(self, **facts: Any) -> None:
        self.facts.update(facts)

    def _start(self, event: RunStarted) -> None:
        self._know(revision=event.revision, coordinator=event.coordinator)
        if event.restarted:
            # The run began anew: what came before is void.
            self.tasks.clear()
        if event.restarted or "started_at" not in self.facts:
            self._know(started_at=event.time)

    def _start_task(self, event: TaskStarted) -> None:
        self._know(supersteps=max(self.facts.get("supersteps", 0), event.superstep))
        before = self.tasks.get(event.task_id)
        self.tasks[event.task_id] = TaskSummary(
            task_id=event.task_id,
            node=event.node,
            superstep=event.superstep,
            status="running",
            attempts=event.attempt,
            started_at=before.started_at if before is not None else event.time,
        )

    def _end_task(self, event: TaskEnded) -> None:
        self._change(
            event.task_id,
            status=event.status,
            attempts=event.attempt,
            ended_at=event.time,
            instance=event.instance,
            queue_ms=event.queue_ms,
            execute_ms=event.execute_ms,
        )

    def _change(self, task_id: str, **fields: Any) -> None:
        # Its beginning may be older than what the stream keeps.
        if (task := self.tasks.get(task_id)) is not None:
            self.tasks[task_id] = msgspec.structs.replace(task, **fields)
