"""Execute the tasks of one node: run, write the outcome once, acknowledge after.

Order of effects, for each delivery: 1. the outcome is durable in its slot; 2. the delivery is
acknowledged. A crash between the two costs a redelivery, which finds the slot filled and
acknowledges without running anything.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from langmesh import clock
from langmesh.agent import context as task_context
from langmesh.agent.calls import TaskCalls
from langmesh.agent.chunks import ChunkWriter
from langmesh.agent.context import NodeConfig, TaskInfo, read_only
from langmesh.agent.lifeline import Lifeline
from langmesh.agent.revisions import NodeRevisions
from langmesh.bus import Bus, SlotTaken, nesting
from langmesh.bus.pull import Delivery
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.faults import to_fault
from langmesh.graphs.local import NodeRunner
from langmesh.service import Service
from langmesh.service.configuration import Effective
from langmesh.service.load import Counts
from langmesh.telemetry import attributes
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    CancelTasks,
    ExecuteTask,
    Executor,
    Fault,
    Header,
    OutcomePayload,
    TaskContext,
    TaskOutcome,
)
from langmesh.wire.streams import SLOT

log = logging.getLogger(__name__)

_RETRY_FIRST_S: Final = 0.1
_RETRY_MAX_S: Final = 2.0


@dataclass(slots=True)
class _Work:
    """One attempt in work, with every delivery of it that has come so far."""

    deliveries: list[Delivery]
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    """Whether a coordinator gave the attempt up."""


class NodeExecutor:
    """Turns deliveries of one node into outcomes."""

    def __init__(
        self, service: Service, bus: Bus, lifeline: Lifeline, revisions: NodeRevisions, release: str
    ) -> None:
        self._service = service
        self._bus = bus
        self._lifeline = lifeline
        self._revisions = revisions
        self._release = release
        self._tracer = service.telemetry.tracer
        self._identity = Executor(
            instance=service.instance, pid=os.getpid(), host=socket.gethostname()
        )
        self._working: dict[str, _Work] = {}
        self.counts = Counts()
        self._draining = False
        self._config = NodeConfig()

    @property
    def in_flight(self) -> int:
        """How many tasks are in work; may be read from any thread."""
        return len(self._working)

    def configure(self, effective: Effective) -> None:
        """Let a policy count from the next attempt on."""
        policy = effective.policy
        self._revisions.configure(policy)
        self._config = NodeConfig(
            revision=effective.revision,
            model=policy.model or self._service.settings.model,
            settings=read_only(policy.settings),
        )

    def on_delivery(self, delivery: Delivery) -> None:
        """Begin work on a delivery; one of a task that is in work here already joins it."""
        self._lifeline.watch(delivery.reply)
        message: ExecuteTask | MeshError
        try:
            message = codec.decode(ExecuteTask, delivery.body)
            key = message.payload.cap
        except MeshError as exc:
            message, key = exc, delivery.reply
        if (work := self._working.get(key)) is not None:
            work.deliveries.append(delivery)
            return
        work = self._working[key] = _Work([delivery])
        work.task = asyncio.get_running_loop().create_task(self._work(key, work, message))

    def on_control(self, body: bytes) -> None:
        """Stop the attempts that a coordinator gave up; unknown ones are none of ours."""
        try:
            message = codec.decode(CancelTasks, body)
        except MeshError as exc:
            log.warning("ignored a control message: %s", exc)
            return
        for cap in message.payload.caps:
            if (work := self._working.get(cap)) is not None and work.task is not None:
                work.cancelled = True
                work.task.cancel()

    async def drain(self, grace_s: float) -> None:
        """Let the tasks in work finish; what is not done in time goes back to the broker."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=grace_s)
        self._draining = True
        for task in self._tasks():
            task.cancel()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=2)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [work.task for work in self._working.values() if work.task is not None]

    async def _work(self, key: str, work: _Work, message: ExecuteTask | MeshError) -> None:
        end: Callable[[Delivery], None] = Delivery.ack
        try:
            if isinstance(message, MeshError):
                await self._reject(work.deliveries[0], message)
            else:
                await self._execute(work, message)
        except asyncio.CancelledError:
            end = Delivery.release
        except MeshError as exc:
            log.warning("a delivery goes back to the broker: %s", exc)
            end = functools.partial(Delivery.release, delay_s=_RETRY_MAX_S)
        except Exception:
            log.exception("a delivery could not be handled and goes back to the broker")
            end = functools.partial(Delivery.release, delay_s=_RETRY_MAX_S)
        self._working.pop(key, None)
        for delivery in work.deliveries:
            end(delivery)
            self._lifeline.unwatch(delivery.reply)

    async def _execute(self, work: _Work, message: ExecuteTask) -> None:
        payload, context = message.payload, message.context
        delivery = work.deliveries[0]
        if delivery.deliveries > 1 and await self._bus.last(SLOT.name, payload.slot) is not None:
            return
        if (runner := await self._runner(delivery, message)) is None:
            return
        parent = message.header.traceparent
        span = self._tracer.unrecorded(parent) or self._tracer.begin(
            attributes.process(
                context,
                subject=delivery.subject,
                message_id=message.header.id,
                task_id=payload.task_id,
                attempt=payload.attempt,
                delivery=delivery.deliveries,
                config_revision=self._config.revision,
            ),
            parent=parent,
        )
        queue_ms = max(0, clock.now_ms() - message.header.sent_at_ms)
        self.counts.begin(queue_ms / 1000)
        started = clock.monotonic()
        try:
            if delivery.deliveries > self._service.settings.deliveries_max:
                what = f"the task was delivered {delivery.deliveries - 1} times and never finished"
                outcome = _failure(message, "poison", ErrorCode.NODE_POISONED, what)
            else:
                with span.activate():
                    outcome = await self._run(runner, message, delivery, span.traceparent)
        except asyncio.CancelledError:
            if not work.cancelled or work.task is None:
                span.end("handed back")
                raise
            work.task.uncancel()
            what = "the attempt was cancelled"
            outcome = _failure(message, "error", ErrorCode.RUN_CANCELLED, what)
        execute_s = clock.monotonic() - started
        self.counts.end(execute_s, failed=outcome.fault is not None)
        outcome = msgspec.structs.replace(
            outcome,
            queue_us=queue_ms * 1000,
            execute_us=int(execute_s * 1e6),
            executor=self._identity,
        )
        span.set(attributes.OUTCOME, outcome.kind)
        span.end(outcome.fault.message if outcome.fault is not None else None)
        await self._write(payload.slot, outcome, context, span.traceparent)

    async def _run(
        self, runner: NodeRunner, message: ExecuteTask, delivery: Delivery, traceparent: str
    ) -> OutcomePayload:
        payload, context = message.payload, message.context
        config = self._config
        task_context.enter(
            TaskInfo(
                tenant=context.tenant,
                graph=context.graph,
                node=context.node,
                release=self._release,
                thread=context.thread,
                run=context.run,
                superstep=context.superstep,
                task_id=payload.task_id,
                attempt=payload.attempt,
                idempotency_key=payload.idempotency_key,
                instance=self._service.instance,
                config=config,
            )
        )
        chunks = ChunkWriter(self._bus, message) if payload.stream_modes else None
        span = self._tracer.unrecorded(traceparent) or self._tracer.begin(
            attributes.invoke_agent(
                context,
                task_id=payload.task_id,
                attempt=payload.attempt,
                config_revision=config.revision,
            ),
            parent=traceparent,
        )
        around = nesting.Nesting(
            bus=self._bus,
            loop=asyncio.get_running_loop(),
            traceparent=span.traceparent,
            tenant=context.tenant,
            thread=context.thread,
            run=context.run,
            idempotency_key=payload.idempotency_key,
            lending=delivery.lending,
            keeps_children=lambda: self._draining,
        )
        nesting.enter(around)
        calls = TaskCalls(self._bus, self._revisions.blobs, runner.loaded.serde, message, around)
        try:
            with span.activate():
                prepared = await runner.prepare(
                    message, chunks.write if chunks is not None else _no_chunks, calls
                )
                outcome = await runner.run(prepared, payload.attempt)
        except MeshError as exc:
            outcome = runner.failed(exc, payload.task_id, payload.attempt)
        except asyncio.CancelledError:
            span.end("cancelled")
            if not self._draining:
                await asyncio.shield(asyncio.create_task(around.call_off()))
            raise
        finally:
            calls.close()
        if outcome.kind != "ok" and calls.done:
            outcome = msgspec.structs.replace(outcome, calls=calls.done)
        if outcome.fault is not None:
            await around.call_off()
        span.end(outcome.fault.message if outcome.fault is not None else None)
        if chunks is not None and chunks.count:
            outcome = msgspec.structs.replace(outcome, chunks=await chunks.finish())
        return outcome

    async def _runner(self, delivery: Delivery, message: ExecuteTask) -> NodeRunner | None:
        """The runner of a task's revision; None if the task failed because there is none here.

        Raises:
            MeshError: There is none here, but another agent may have it: the delivery goes back.
        """
        context = message.context
        if (runner := self._revisions.known(context.revision)) is not None:
            return runner
        try:
            return await self._revisions.find(context)
        except MeshError as exc:
            if exc.retryable or delivery.deliveries < self._service.settings.deliveries_max:
                raise
            own = self._revisions.own.loaded.topology.revision
            what = (
                f"its agents have the code of revision {own}, not of {context.revision}, in which"
                f" it leads elsewhere ({exc.message})"
            )
            outcome = _failure(message, "error", ErrorCode.GRAPH_CHANGED, what)
            outcome = msgspec.structs.replace(outcome, executor=self._identity)
            await self._write(message.payload.slot, outcome, context, message.header.traceparent)
            return None

    async def _reject(self, delivery: Delivery, exc: MeshError) -> None:
        """Hand a task that cannot be decoded to the coordinator, which keeps it in DEAD."""
        log.error("a task could not be decoded: %s", exc)
        names = subjects.parse_execution(delivery.subject)
        cap = "rejected" + hashlib.sha256(delivery.body).hexdigest()[:18]
        slot = subjects.slot(0, names.tenant, names.graph, names.node, cap)
        outcome = OutcomePayload(
            kind="rejected",
            task_id="",
            attempt=0,
            fault=Fault(code=exc.code, type="MeshError", message=exc.message, node=names.node),
            executor=self._identity,
            exec_seq=delivery.stream_seq,
            body=delivery.body[: codec.BODY_BYTES_MAX // 2],
        )
        await self._write(slot, outcome, None, "")

    async def _write(
        self, slot: str, outcome: OutcomePayload, context: TaskContext | None, traceparent: str
    ) -> None:
        """Make an outcome durable; returns only when the slot holds a message."""
        pause = _RETRY_FIRST_S
        while True:
            message = TaskOutcome(
                header=Header(
                    id=clock.new_id(),
                    type=TaskOutcome.TYPE,
                    sender=self._service.instance,
                    receiver="coordinator",
                    sent_at_ms=clock.now_ms(),
                    traceparent=traceparent,
                ),
                payload=outcome,
                context=context,
            )
            try:
                await self._bus.append(slot, codec.encode(message))
            except SlotTaken as exc:
                if await self._slot_is_filled(slot):
                    return
                log.warning("the SLOT stream is full, trying again: %s", exc)
            except MeshError as exc:
                if not exc.retryable:
                    outcome = self._unsendable(outcome, exc)
                    continue
                log.warning("an outcome is not durable yet: %s", exc)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_MAX_S)

    async def _slot_is_filled(self, slot: str) -> bool:
        try:
            return await self._bus.last(SLOT.name, slot) is not None
        except MeshError:
            return False

    def _unsendable(self, outcome: OutcomePayload, exc: MeshError) -> OutcomePayload:
        own = self._revisions.own
        return OutcomePayload(
            kind="error",
            task_id=outcome.task_id,
            attempt=outcome.attempt,
            fault=to_fault(exc, node=own.node, code=exc.code, serde=own.loaded.serde),
            executor=self._identity,
        )


def _no_chunks(_mode: str, _namespace: list[str], _data: Any) -> None:
    """Nobody asked for chunks."""


def _failure(
    message: ExecuteTask, kind: Literal["poison", "error"], code: ErrorCode, what: str
) -> OutcomePayload:
    """The outcome of an attempt that ended otherwise than by its node's doing."""
    node = message.context.node
    return OutcomePayload(
        kind=kind,
        task_id=message.payload.task_id,
        attempt=message.payload.attempt,
        fault=Fault(
            code=code,
            type="langmesh.errors.MeshError",
            message=f"node {node!r}: {what}",
            node=node,
        ),
    )
