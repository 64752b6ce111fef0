"""The tasks of one run: each goes through the mesh, attempt by attempt, and is told to clients."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from langgraph.types import PregelExecutableTask

from langmesh.bus.blobs import Blobs
from langmesh.clock import new_id, now_ms
from langmesh.coordinator import backoff
from langmesh.coordinator.calls import Calls
from langmesh.coordinator.caps import capability, idempotency_key
from langmesh.coordinator.catalog import Catalog
from langmesh.coordinator.dispatch import Attempt, Dispatcher
from langmesh.coordinator.events import EventWriter
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import functions, seam
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.remote import TaskParts, apply_outcome, plain
from langmesh.service.configuration import Configuration
from langmesh.telemetry import attributes
from langmesh.telemetry.spans import Span
from langmesh.telemetry.tracing import Tracer
from langmesh.wire import codec, subjects
from langmesh.wire.log import AppliedTask
from langmesh.wire.messages import (
    ErrorInfo,
    ExecuteTask,
    Header,
    OutcomePayload,
    TaskContext,
    TaskEnded,
    TaskOutcome,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
    Value,
)
from langmesh.wire.names import partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What all runs of a coordinator share."""

    catalog: Catalog
    dispatcher: Dispatcher
    blobs: Blobs
    tracer: Tracer
    key: bytes
    instance: str
    configuration: Configuration


@dataclass(slots=True, kw_only=True)
class Tasks:
    """Dispatches the tasks of one life of a run."""

    engine: Engine
    tenant: str
    graph: str
    thread: str
    run: str
    invocation: str
    """What tells the attempts after an answer from those before it (R3)."""
    loaded: LoadedGraph
    events: EventWriter
    span: Span
    config: Value
    agent_modes: list[str]
    logged: Callable[[str], Awaitable[None]]
    """Waits until the checkpoint of an id is stored, and that the run began (R2)."""
    is_left: Callable[[], bool]
    """Whether another life of the run goes on with it: then nothing more is told of it here."""
    taken_over: bool = False
    """Whether attempts may have been sent, or even have ended, before this life of the run."""
    calls: Calls = field(init=False)
    """Of the functions that its nodes call."""
    _applied: list[AppliedTask] = field(default_factory=list)
    _broken: bool = False
    """Whether the broker was away for so long that the run begins again from its log."""
    supersteps: set[int] = field(default_factory=set)
    """Those with a task that ended; one that asks a human is to run once more."""
    count: int = 0
    """How many tasks ended, likewise."""
    _writers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For each channel, the spans of the tasks that wrote it since a task was triggered by it."""

    def __post_init__(self) -> None:
        self.calls = Calls(self.loaded.serde, self.engine.blobs)

    def take_applied(self) -> list[AppliedTask]:
        """The tasks that ended since the last call, in that order."""
        taken, self._applied = self._applied, []
        return taken

    async def dispatch(self, task: PregelExecutableTask, caller: seam.Caller | None) -> None:
        """The seam: what LangGraph calls instead of running a task."""
        called = functions.called_of(task)
        node = None if called is not None else self.loaded.topology.nodes.get(task.name)
        parts = TaskParts(task, self.loaded.serde, node.reads if node is not None else [])
        await parts.stow(self.engine.blobs)
        await self.logged(parts.checkpoint_id)
        await self.events.room()
        try:
            outcome = await self._attempts(task, parts, caller)
        except asyncio.CancelledError:
            if not self._goes_on():
                self._tell_ended(task, parts.superstep, "cancelled")
            raise
        except MeshError as exc:
            self._broken |= exc.code == ErrorCode.BROKER_UNAVAILABLE
            if not self._goes_on():
                self._tell_ended(task, parts.superstep, "rejected")
            raise
        if called is None:
            # What a function returns is its caller's; no checkpoint has it.
            if outcome.payload.kind != "interrupt":
                self.supersteps.add(parts.superstep)
                self.count += 1
            self._note_writes(task, outcome)
            self._applied.append(AppliedTask(task.id, task.name, outcome.payload.attempt))
        self._tell_ended(task, parts.superstep, outcome.payload.kind, outcome.payload)
        await apply_outcome(task, outcome.payload, self.loaded.serde, self.engine.blobs)

    def _goes_on(self) -> bool:
        return self._broken or self.is_left()

    async def _attempts(
        self, task: PregelExecutableTask, parts: TaskParts, caller: seam.Caller | None
    ) -> TaskOutcome:
        """Try a task until an attempt's outcome is its last."""
        called = functions.called_of(task)
        node = None if called is not None else self.loaded.topology.nodes.get(task.name)
        links = self._joined(task)
        first_at = now_ms()
        number = 1
        while True:
            outcome, attempt = await self._attempt(task, parts, number, links, first_at, caller)
            payload = outcome.payload
            if attempt.was_done and payload.calls and caller is not None:
                invocation = self._invocation(called, number)
                await self.calls.recall(
                    task, caller, payload.calls, node=attempt.node, invocation=invocation
                )
            if payload.kind == "poison":
                await self.engine.dispatcher.bury_poison(attempt, payload)
            if payload.kind != "retry":
                return outcome
            if attempt.foreign and node is not None and number >= node.attempts_max:
                # A Python agent counts by its node's own policy; others may say retry for ever.
                return msgspec.structs.replace(
                    outcome, payload=msgspec.structs.replace(payload, kind="error")
                )
            if number == 1 and attempt.was_done:
                first_at = backoff.begun_at_ms(outcome)
            number += 1
            self.events.emit(
                TaskRestarted,
                task_id=task.id,
                node=task.name,
                attempt=number,
                delay_ms=payload.delay_ms,
                error=_attempt_error(outcome),
            )
            links = [outcome.header.traceparent]
            left_ms = payload.delay_ms
            if attempt.was_done:
                left_ms = backoff.left_ms(outcome, now_ms())
            # No worker is held while the backoff passes.
            await asyncio.sleep(left_ms / 1000)

    async def _attempt(
        self,
        task: PregelExecutableTask,
        parts: TaskParts,
        number: int,
        links: list[str],
        first_at: int,
        caller: seam.Caller | None,
    ) -> tuple[TaskOutcome, Attempt]:
        engine = self.engine
        called = functions.called_of(task)
        node = task.name if called is None else called.node
        invocation = self._invocation(called)
        binding = engine.catalog.binding(self.tenant, self.graph, node)
        cap = capability(
            engine.key,
            tenant=self.tenant,
            thread=self.thread,
            checkpoint_ns=parts.checkpoint_ns,
            checkpoint_id=parts.checkpoint_id,
            task_id=task.id,
            invocation=invocation,
            attempt=number,
        )
        slot = subjects.slot(
            partition(self.tenant, self.thread), self.tenant, self.graph, node, cap
        )
        context = TaskContext(
            tenant=self.tenant,
            graph=self.graph,
            revision=self.loaded.topology.revision,
            thread=self.thread,
            run=self.run,
            node=node,
            release=binding.release,
            superstep=parts.superstep,
            checkpoint_id=parts.checkpoint_id,
            checkpoint_ns=parts.checkpoint_ns,
            invocation=invocation,
        )
        message_id = new_id()
        span = engine.tracer.unrecorded(self.span.traceparent) or engine.tracer.begin(
            attributes.send(
                context,
                subject=binding.subject,
                message_id=message_id,
                task_id=task.id,
                attempt=number,
            ),
            parent=self.span.traceparent,
            links=links,
        )
        payload = parts.payload(
            attempt=number,
            cap=cap,
            slot=slot,
            idempotency_key=idempotency_key(
                engine.key, tenant=self.tenant, thread=self.thread, task_id=task.id
            ),
            config=self.config,
            first_attempt_at_ms=first_at,
            stream_modes=self.agent_modes,
        )
        message = ExecuteTask(
            header=Header(
                id=message_id,
                type=ExecuteTask.TYPE,
                sender=engine.instance,
                receiver=node,
                sent_at_ms=now_ms(),
                traceparent=span.traceparent,
            ),
            payload=payload,
            context=context,
        )

        def on_waiting(reason: str) -> None:
            self.events.emit(TaskWaiting, task_id=task.id, node=task.name, reason=reason)

        attempt = Attempt(
            tenant=self.tenant,
            graph=self.graph,
            node=node,
            release=binding.release,
            run=self.run,
            task=task.id,
            cap=cap,
            slot=slot,
            subject=binding.subject,
            body=(
                codec.encode_json(plain(message, task))
                if binding.encoding == "json"
                else codec.encode(message)
            ),
            outcome=asyncio.get_running_loop().create_future(),
            on_waiting=on_waiting,
            on_sent=span.end,
            goes_on=self._goes_on,
            foreign=binding.encoding == "json",
            may_be_done=self.taken_over,
            must_be_done=called is not None and called.returned,
        )
        if number == 1:
            self.events.emit(
                TaskStarted,
                task_id=task.id,
                node=task.name,
                superstep=parts.superstep,
                attempt=number,
                subject=binding.subject,
                caller="" if called is None else called.caller,
            )
        of_calls = self._invocation(called, number)
        try:
            with self.calls.open(cap, task, caller, node=node, invocation=of_calls):
                return await engine.dispatcher.perform(attempt), attempt
        except BaseException as exc:
            # It ended when the broker stored the attempt, unless it never came to that.
            span.end(exc)
            raise

    def _invocation(self, called: functions.Called | None, attempt: int | None = None) -> str:
        """What tells attempts apart beside their number; of an attempt's calls, that as well."""
        own = self.invocation if called is None else called.invocation
        return own if attempt is None else f"{own}#{attempt}"

    def _joined(self, task: PregelExecutableTask) -> list[str]:
        """Spans of the tasks that a task waited for, where they are more than one."""
        spans = [span for trigger in task.triggers for span in self._writers.pop(trigger, [])]
        return spans if len(spans) > 1 else []

    def _note_writes(self, task: PregelExecutableTask, outcome: TaskOutcome) -> None:
        for channel in {channel for channel, _ in outcome.payload.writes}:
            self._writers[channel].append(outcome.header.traceparent)

    def _tell_ended(
        self,
        task: PregelExecutableTask,
        superstep: int,
        status: str,
        payload: OutcomePayload | None = None,
    ) -> None:
        """Tell that a task is over; without an outcome, nobody is known to have executed it."""
        fields: dict[str, Any] = {}
        if (called := functions.called_of(task)) is not None:
            fields["caller"] = called.caller
        if payload is not None:
            fields |= {
                "attempt": payload.attempt,
                "chunks": payload.chunks,
                "queue_ms": payload.queue_us / 1000,
                "execute_ms": payload.execute_us / 1000,
            }
            if payload.executor is not None:
                fields |= {"instance": payload.executor.instance, "pid": payload.executor.pid}
        self.events.emit(
            TaskEnded,
            task_id=task.id,
            node=task.name,
            superstep=superstep,
            status=status,
            **fields,
        )


def _attempt_error(outcome: TaskOutcome) -> ErrorInfo | None:
    fault = outcome.payload.fault
    if fault is None:
        return None
    return ErrorInfo(type=fault.type, code=fault.code, message=fault.message, node=fault.node)
