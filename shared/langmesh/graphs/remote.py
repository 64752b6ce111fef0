"""The coordinator's side of a task: what it sends, and what it does with the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from langgraph.errors import GraphInterrupt
from langgraph.types import Command, PregelExecutableTask

from langmesh.bus.blobs import Blobs
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat, functions
from langmesh.graphs.faults import fault_of, from_fault
from langmesh.graphs.serde import NULL, Serde, fetch, stow
from langmesh.wire.messages import (
    ExecutePayload,
    ExecuteTask,
    OutcomePayload,
    PlainPayload,
    PlainTask,
    Value,
)

_INTERNAL = frozenset({"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"})


def lists(path: Any) -> Any:
    """A task path as nested lists."""
    return [lists(part) for part in path] if isinstance(path, tuple | list) else path


def run_config(serde: Serde, config: Mapping[str, Any]) -> Value:
    """The caller's part of a run's config, encoded once per run."""
    configurable = config.get("configurable", {})
    return serde.encode(
        {
            "configurable": {
                key: value
                for key, value in configurable.items()
                if not key.startswith("__") and key not in _INTERNAL
            },
            "tags": config.get("tags") or [],
            "metadata": config.get("metadata") or {},
            "recursion_limit": config.get("recursion_limit"),
        },
        what="config",
    )


class TaskParts:
    """What of a task does not change between its attempts, encoded once."""

    __slots__ = (
        "channels",
        "checkpoint_id",
        "checkpoint_ns",
        "context",
        "function",
        "input",
        "node_error",
        "null_resume",
        "path",
        "previous",
        "resume",
        "stop",
        "superstep",
        "task_id",
        "triggers",
    )

    def __init__(self, task: PregelExecutableTask, serde: Serde, reads: list[str]) -> None:
        conf = task.config[compat.CONF]
        pad = conf[compat.CONFIG_KEY_SCRATCHPAD]
        runtime = conf[compat.CONFIG_KEY_RUNTIME]
        name = task.name
        self.task_id = task.id
        called = functions.called_of(task)
        self.function = called.function if called is not None else ""
        self.path = lists(task.path)
        self.triggers = list(task.triggers)
        self.superstep: int = pad.step
        self.stop: int = pad.stop
        self.checkpoint_ns: str = conf[compat.CONFIG_KEY_CHECKPOINT_NS]
        info = runtime.execution_info
        self.checkpoint_id: str = info.checkpoint_id if info is not None else ""
        self.input = serde.encode(task.input, what=f"input of node {name!r}")
        self.channels: dict[str, Value] = {}
        if reads:
            channels = compat.channels_of(task)
            for read in reads:
                if read in channels and channels[read].is_available():
                    self.channels[read] = serde.encode(
                        channels[read].checkpoint(), what=f"state channel {read!r}"
                    )
        self.resume = serde.encode(list(pad.resume), what="resume") if pad.resume else None
        null_resume = pad.get_null_resume(False)
        self.null_resume = (
            serde.encode(null_resume, what="resume") if null_resume is not None else None
        )
        self.context = (
            serde.encode(runtime.context, what="context") if runtime.context is not None else None
        )
        self.previous = (
            serde.encode(runtime.previous, what="previous")
            if runtime.previous is not None
            else None
        )
        failed = conf.get(compat.CONFIG_KEY_NODE_ERROR)
        self.node_error = (
            serde.encode(
                msgspec.to_builtins(fault_of(failed.error, node=failed.node, serde=serde)),
                what="error of the failed node",
            )
            if failed is not None
            else None
        )

    async def stow(self, blobs: Blobs) -> None:
        """Move large values to the object store."""
        names = list(self.channels)
        values = [self.input, *self.channels.values()]
        if sum(len(value.data) for value in values) < 64 * 1024:
            return
        stowed = await stow(values, blobs)
        self.input = stowed[0]
        self.channels = dict(zip(names, stowed[1:], strict=True))

    def payload(
        self,
        *,
        attempt: int,
        cap: str,
        slot: str,
        idempotency_key: str,
        config: Value,
        first_attempt_at_ms: int,
        stream_modes: list[str],
    ) -> ExecutePayload:
        """The request for one attempt."""
        return ExecutePayload(
            task_id=self.task_id,
            path=self.path,
            triggers=self.triggers,
            attempt=attempt,
            cap=cap,
            slot=slot,
            idempotency_key=idempotency_key,
            input=self.input,
            channels=self.channels,
            stop=self.stop,
            resume=self.resume,
            null_resume=self.null_resume,
            config=config,
            runtime_context=self.context,
            previous=self.previous,
            node_error=self.node_error,
            function=self.function,
            first_attempt_at_ms=first_attempt_at_ms,
            stream_modes=stream_modes,
        )


async def apply_outcome(
    task: PregelExecutableTask, outcome: OutcomePayload, serde: Serde, blobs: Blobs
) -> None:
    """Give a task the writes of its outcome, or raise what its node raised.

    Raises:
        GraphInterrupt: The node asks a human.
        Exception: What the node raised, rebuilt; MeshError for a timeout, poison or a rejected
            task.
    """
    writes = [
        (
            channel,
            None
            if value == NULL
            else serde.decode(
                await fetch(value, blobs), what=f"node {task.name!r} wrote channel {channel!r}"
            ),
        )
        for channel, value in outcome.writes
    ]
    task.writes.clear()
    task.writes.extend(writes)
    if outcome.null_resume_consumed:
        task.config[compat.CONF][compat.CONFIG_KEY_SCRATCHPAD].get_null_resume(True)
    if outcome.kind == "ok":
        if outcome.update is not None:
            compat.ask(task)
            await _write_update(task, outcome.update, outcome.goto)
        return
    if outcome.kind == "interrupt" and outcome.interrupts is None:
        compat.ask(task, outcome.question)
    if outcome.kind == "interrupt" and outcome.interrupts is not None:
        raise GraphInterrupt(tuple(serde.decode(outcome.interrupts, what="interrupts")))
    if outcome.fault is None:
        raise MeshError(
            ErrorCode.INTERNAL, f"node {task.name!r}: outcome {outcome.kind!r} without a fault"
        )
    raise from_fault(outcome.fault, serde)


async def _write_update(
    task: PregelExecutableTask, update: dict[str, Any], goto: list[str]
) -> None:
    """Make the writes of what a node returned, as its agent would: its writers and branches."""
    try:
        await compat.run_writers(task, Command(update=update, goto=goto) if goto else update)
    except MeshError:
        raise
    except Exception as exc:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"payload.update: node {task.name!r} returned what its graph cannot take:"
            f" {type(exc).__name__}: {exc}",
        ) from exc


def plain(message: ExecuteTask, task: PregelExecutableTask) -> PlainTask:
    """A request as an agent in another language gets it."""
    payload = message.payload
    return PlainTask(
        header=message.header,
        payload=PlainPayload(
            task_id=payload.task_id,
            attempt=payload.attempt,
            cap=payload.cap,
            slot=payload.slot,
            idempotency_key=payload.idempotency_key,
            input=task.input,
            resume=compat.answers_of(task),
            runtime_context=task.config[compat.CONF][compat.CONFIG_KEY_RUNTIME].context,
            first_attempt_at_ms=payload.first_attempt_at_ms,
        ),
        context=message.context,
    )
