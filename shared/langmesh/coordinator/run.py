"""One run: LangGraph's own loop, with every task carried through the mesh."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from langgraph.types import Command, PregelExecutableTask

from langmesh.bus.blobs import Blobs
from langmesh.clock import new_id, now_ms
from langmesh.coordinator.caps import capability, idempotency_key
from langmesh.coordinator.catalog import Catalog
from langmesh.coordinator.dispatch import Attempt, Dispatcher
from langmesh.coordinator.events import EventWriter
from langmesh.errors import MeshError
from langmesh.graphs import compat
from langmesh.graphs.faults import error_info
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.remote import TaskParts, apply_outcome, plain, run_config
from langmesh.service.configuration import Configuration
from langmesh.telemetry import attributes
from langmesh.telemetry.spans import Span
from langmesh.telemetry.tracing import Tracer
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    ErrorInfo,
    ExecuteTask,
    Header,
    OutcomePayload,
    RunEnded,
    RunInterrupted,
    RunStarted,
    StreamPart,
    Submission,
    TaskContext,
    TaskEnded,
    TaskOutcome,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
    Value,
)
from langmesh.wire.names import partition

log = logging.getLogger(__name__)

_AGENT_MODES: Final = frozenset({"custom", "messages"})


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
class Run:
    """A run that was accepted; ``loaded`` pins its topology."""

    engine: Engine
    tenant: str
    graph: str
    thread: str
    id: str
    loaded: LoadedGraph
    submission: Submission
    events: EventWriter
    span: Span
    invocation: str
    resumed: bool = False
    restarted: bool = False
    supersteps: set[int] = field(default_factory=set)
    tasks: int = 0
    asking: bool = False
    """Whether it told clients that it waits for a human, and got no answer yet."""
    failed: bool = False
    """Whether it ended with an error."""
    closing: bool = False
    """Whether its last event, or the last one before an answer, is on its way."""
    _called_off: bool = False
    _driver: asyncio.Task[Any] | None = None
    """The task that can be called off, while there is one."""
    _config: Value | None = None
    _agent_modes: list[str] = field(default_factory=list)
    _writers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For each channel, the spans of the tasks that wrote it since a task was triggered by it."""

    async def drive(self) -> None:
        """Run to the end or to an interrupt; every way out is an event.

        Raises:
            CancelledError: The coordinator stops. That is no end of the run and no event: its
                submission goes back, and the next coordinator runs it anew (ADR 0005).
            Usurped: Another coordinator took the run over.
        """
        if self._called_off:
            self._end("cancelled")
        else:
            await self._drive()
        await self.events.flush()

    def call_off(self) -> None:
        """End the run as soon as may be, unless its end or its interrupt is out already."""
        if self.closing or self._called_off:
            return
        self._called_off = True
        if self._driver is not None:
            self._driver.cancel()

    async def abandon(self) -> None:
        """End the run while it waits for a human.

        Raises:
            Usurped: Another coordinator took the run over.
        """
        self.asking = False
        self._end("cancelled")
        await self.events.flush()

    async def _drive(self) -> None:
        self._driver = asyncio.current_task()
        self.events.emit(
            RunStarted,
            graph=self.graph,
            revision=self.loaded.topology.revision,
            coordinator=self.engine.instance,
            resumed=self.resumed,
            restarted=self.restarted,
        )
        try:
            await self._stream()
            state = await self.loaded.compiled.aget_state(self._runnable_config())
            if state.next:
                self.closing = True
                self.events.emit(
                    RunInterrupted, interrupts=list(state.interrupts), next=sorted(set(state.next))
                )
                self.asking = True
                self.span.event("interrupted", {})
            else:
                self._end("success", output=self._output(state.values))
        except asyncio.CancelledError:
            assert self._driver is not None
            if self._called_off:
                self._driver.uncancel()
            elif self._driver.cancelling():
                self.span.end("its coordinator stopped")
                raise
            self._end("cancelled")
        except Exception as exc:  # noqa: BLE001  whatever the graph raises is the run's result
            log.info(
                "run %s failed: %s",
                self.id,
                exc,
                extra={"run_id": self.id, "thread_id": self.thread},
            )
            self._end("error", error=error_info(exc), cause=exc)
        finally:
            self._driver = None

    def _end(
        self,
        status: str,
        *,
        output: Any = None,
        error: ErrorInfo | None = None,
        cause: Exception | None = None,
    ) -> None:
        self.closing = True
        self.failed = status == "error"
        self.span.end(cause if cause is not None else None if status == "success" else status)
        self.events.emit(
            RunEnded,
            status=status,
            output=output,
            error=error,
            supersteps=len(self.supersteps),
            tasks=self.tasks,
            trace_id=self.span.trace_id,
        )

    def _output(self, values: Any) -> Any:
        """The part of the state that the graph's output schema names."""
        keys = self.loaded.compiled.output_channels
        if isinstance(keys, str) or not isinstance(values, dict):
            return values
        return {key: values[key] for key in keys if key in values}

    async def _stream(self) -> None:
        wanted = self.submission.stream_mode
        modes = ["updates"] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        self._agent_modes = sorted(_AGENT_MODES.intersection(modes))
        own: list[Any] = [mode for mode in modes if mode not in _AGENT_MODES]
        config = self._runnable_config()
        self._config = run_config(self.loaded.serde, config)
        async for mode, data in self.loaded.compiled.astream(
            self._input(),
            config,
            context=self.submission.context,
            stream_mode=own,
            durability=self.submission.durability,
        ):
            self.events.emit(StreamPart, mode=mode, namespace=[], data=data)
            await self.events.room()

    def _input(self) -> Any:
        command = self.submission.command
        if command is None:
            return self.submission.input
        return Command(resume=command.resume, goto=command.goto or (), update=command.update)

    def _runnable_config(self) -> Any:
        given = self.submission.config
        config: dict[str, Any] = {
            "configurable": {
                **({} if given is None else given.configurable),
                "thread_id": self.thread,
                compat.DISPATCH_KEY: self._dispatch,
            }
        }
        if given is not None:
            config |= {"tags": given.tags, "metadata": given.metadata}
            if given.recursion_limit is not None:
                config["recursion_limit"] = given.recursion_limit
            if given.max_concurrency is not None:
                config["max_concurrency"] = given.max_concurrency
        return config

    async def _dispatch(self, task: PregelExecutableTask) -> None:
        """The seam: what LangGraph calls instead of running a task."""
        node = self.loaded.topology.nodes.get(task.name)
        parts = TaskParts(task, self.loaded.serde, node.reads if node is not None else [])
        await parts.stow(self.engine.blobs)
        self.supersteps.add(parts.superstep)
        self.tasks += 1
        try:
            outcome = await self._attempts(task, parts)
        except asyncio.CancelledError:
            if not self._stopping:
                self._tell_ended(task, parts.superstep, "cancelled")
            raise
        except MeshError:
            self._tell_ended(task, parts.superstep, "rejected")
            raise
        self._note_writes(task, outcome)
        self._tell_ended(task, parts.superstep, outcome.payload.kind, outcome.payload)
        await apply_outcome(task, outcome.payload, self.loaded.serde, self.engine.blobs)

    @property
    def _stopping(self) -> bool:
        """Whether the coordinator stops: then nothing more is told of the run here."""
        driver = self._driver
        return driver is not None and driver.cancelling() > 0 and not self._called_off

    async def _attempts(self, task: PregelExecutableTask, parts: TaskParts) -> TaskOutcome:
        """Try a task until an attempt's outcome is its last."""
        node = self.loaded.topology.nodes.get(task.name)
        links = self._joined(task)
        first_at = now_ms()
        number = 1
        while True:
            outcome, attempt = await self._attempt(task, parts, number, links, first_at)
            payload = outcome.payload
            if payload.kind == "poison":
                await self.engine.dispatcher.bury_poison(attempt, payload)
            if payload.kind != "retry":
                return outcome
            if attempt.foreign and node is not None and number >= node.attempts_max:
                # A Python agent counts by its node's own policy; others may say retry for ever.
                return msgspec.structs.replace(
                    outcome, payload=msgspec.structs.replace(payload, kind="error")
                )
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
            # No worker is held while the backoff passes.
            await asyncio.sleep(payload.delay_ms / 1000)

    async def _attempt(
        self,
        task: PregelExecutableTask,
        parts: TaskParts,
        number: int,
        links: list[str],
        first_at: int,
    ) -> tuple[TaskOutcome, Attempt]:
        engine = self.engine
        binding = engine.catalog.binding(self.tenant, self.graph, task.name)
        cap = capability(
            engine.key,
            tenant=self.tenant,
            thread=self.thread,
            checkpoint_ns=parts.checkpoint_ns,
            checkpoint_id=parts.checkpoint_id,
            task_id=task.id,
            invocation=self.invocation,
            attempt=number,
        )
        slot = subjects.slot(
            partition(self.tenant, self.thread), self.tenant, self.graph, task.name, cap
        )
        context = TaskContext(
            tenant=self.tenant,
            graph=self.graph,
            revision=self.loaded.topology.revision,
            thread=self.thread,
            run=self.id,
            node=task.name,
            release=binding.release,
            superstep=parts.superstep,
            checkpoint_id=parts.checkpoint_id,
            checkpoint_ns=parts.checkpoint_ns,
            invocation=self.invocation,
        )
        message_id = new_id()
        span = engine.tracer.begin(
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
        assert self._config is not None
        payload = parts.payload(
            attempt=number,
            cap=cap,
            slot=slot,
            idempotency_key=idempotency_key(
                engine.key, tenant=self.tenant, thread=self.thread, task_id=task.id
            ),
            config=self._config,
            first_attempt_at_ms=first_at,
            stream_modes=self._agent_modes,
        )
        message = ExecuteTask(
            header=Header(
                id=message_id,
                type=ExecuteTask.TYPE,
                sender=engine.instance,
                receiver=task.name,
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
            node=task.name,
            release=binding.release,
            run=self.id,
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
            foreign=binding.encoding == "json",
        )
        if number == 1:
            self.events.emit(
                TaskStarted,
                task_id=task.id,
                node=task.name,
                superstep=parts.superstep,
                attempt=number,
                subject=binding.subject,
            )
        try:
            return await engine.dispatcher.perform(attempt), attempt
        except BaseException as exc:
            # It ended when the broker stored the attempt, unless it never came to that.
            span.end(exc)
            raise

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
        if payload is not None:
            fields = {
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
