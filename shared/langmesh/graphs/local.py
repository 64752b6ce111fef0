"""The agent's side of a task: rebuild it, run it once, describe how it ended."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from langgraph.errors import GraphInterrupt, NodeCancelledError, NodeError, NodeTimeoutError
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import PregelExecutableTask, RetryPolicy, TimeoutPolicy

from langmesh.bus.blobs import Blobs
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat, functions
from langmesh.graphs.faults import from_fault, to_fault
from langmesh.graphs.lazy import lazy_body
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.serde import NULL, fetch, is_stowed, stow
from langmesh.graphs.stores import Stores
from langmesh.registry.policies import NodePolicy
from langmesh.wire.messages import ExecuteTask, Fault, OutcomePayload, Value

WriteChunk = Callable[[str, list[str], Any], None]
"""Receives (stream mode, namespace, data) of each chunk; may be called from any thread."""


@dataclass(slots=True)
class Prepared:
    """A task ready to run at this agent."""

    task: PregelExecutableTask
    null_resume: list[Any]
    asked_null_resume: bool
    policies: tuple[RetryPolicy, ...]
    """When a failure is worth another attempt."""


def tuples(path: Any) -> Any:
    """A task path as LangGraph has it."""
    return tuple(tuples(part) for part in path) if isinstance(path, list) else path


class NodeRunner:
    """Runs the tasks of one node of one graph.

    Args:
        loaded: The graph.
        node: The node.
        blobs: Where large values are.
        body: Replaces the node's function.
        stores: Gives the node its ``runtime.store``; it has none without.
    """

    def __init__(
        self,
        loaded: LoadedGraph,
        node: str,
        blobs: Blobs,
        *,
        body: Callable[..., Any] | None = None,
        stores: Stores | None = None,
    ) -> None:
        if node not in loaded.topology.nodes:
            raise MeshError(
                ErrorCode.UNKNOWN_NODE,
                f"graph {loaded.topology.graph!r} has no node {node!r}; it has"
                f" {', '.join(loaded.topology.nodes)}",
            )
        self.node = node
        self.loaded = loaded
        self._blobs = blobs
        self._proc = loaded.compiled.nodes[node]
        if body is not None:
            self._proc = compat.with_body(self._proc, node, body)
        self._managed = loaded.managed
        self._reads = loaded.topology.nodes[node].reads
        runnable = self._proc.node
        if runnable is None:
            raise MeshError(ErrorCode.GRAPH_NOT_SUPPORTED, f"node {node!r} does nothing")
        self._runnable = runnable
        self._lean = not compat.is_listened_to()
        self._own_policies = tuple(self._proc.retry_policy or loaded.compiled.retry_policy or ())
        self._policies = self._own_policies
        self._timeout = self._proc.timeout
        declared = loaded.compiled.store
        self._store = stores.of(declared) if stores is not None else declared

    def configure(self, policy: NodePolicy) -> None:
        """Let a policy's timeout and retry count before the node's own, from the next attempt."""
        self._timeout = self._proc.timeout
        if policy.timeout_s is not None:
            own = self._timeout or TimeoutPolicy()
            self._timeout = TimeoutPolicy.coerce(replace(own, run_timeout=policy.timeout_s))
        if policy.retry is None:
            self._policies = self._own_policies
            return
        rule = policy.retry
        given: dict[str, Any] = {
            "max_attempts": rule.max_attempts,
            "initial_interval": rule.initial_interval_s,
            "backoff_factor": rule.backoff_factor,
            "max_interval": rule.max_interval_s,
            "jitter": rule.jitter,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        retries = self._own_policies or (RetryPolicy(),)
        self._policies = tuple(each._replace(**fields) for each in retries)

    async def prepare(
        self, message: ExecuteTask, write_chunk: WriteChunk, call: Callable[..., Any]
    ) -> Prepared:
        """Rebuild a task from its request.

        Args:
            message: The request.
            write_chunk: Takes what the task streams.
            call: How the task calls ``@task`` functions.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE for a value that this agent may not decode.
        """
        payload, context = message.payload, message.context
        serde = self.loaded.serde
        resume = await self._value(payload.resume, "resume")
        null_resume = (
            []
            if payload.null_resume is None
            else [await self._value(payload.null_resume, "resume")]
        )
        pad = compat.scratchpad(context.superstep, payload.stop, resume or [], null_resume)
        channels = {
            name: compat.channel(
                self.loaded.compiled,
                name,
                await self._value(payload.channels[name], f"state channel {name!r}")
                if name in payload.channels
                else compat.MISSING,
            )
            for name in self._reads
        }
        path = tuples(payload.path)
        writes: deque[tuple[str, Any]] = deque()
        runtime: Runtime[Any] = Runtime(
            context=await self._value(payload.runtime_context, "context"),
            stream_writer=self._custom_writer(
                payload.stream_modes, write_chunk, context.checkpoint_ns
            ),
            previous=await self._value(payload.previous, "previous"),
            store=self._store,
            execution_info=ExecutionInfo(
                checkpoint_id=context.checkpoint_id,
                checkpoint_ns=context.checkpoint_ns,
                task_id=payload.task_id,
                thread_id=context.thread,
                run_id=context.run,
                node_attempt=payload.attempt,
                node_first_attempt_time=payload.first_attempt_at_ms / 1000,
            ),
        )
        given = serde.decode(payload.config, what="config") if payload.config is not None else {}
        configurable = {
            **given.get("configurable", {}),
            compat.CONFIG_KEY_THREAD_ID: context.thread,
            compat.CONFIG_KEY_TASK_ID: payload.task_id,
            compat.CONFIG_KEY_SEND: writes.extend,
            compat.CONFIG_KEY_READ: compat.reader(
                pad, channels, self._managed, path, self.node, writes, payload.triggers
            ),
            compat.CONFIG_KEY_CHECKPOINT_MAP: {"": context.checkpoint_id},
            compat.CONFIG_KEY_CHECKPOINT_ID: None,
            compat.CONFIG_KEY_CHECKPOINT_NS: context.checkpoint_ns,
            compat.CONFIG_KEY_SCRATCHPAD: pad,
            compat.CONFIG_KEY_RUNTIME: runtime,
            **compat.calls(call),
        }
        if payload.node_error is not None:
            failed = await self._value(payload.node_error, "error of the failed node")
            fault = msgspec.convert(failed, Fault)
            configurable[compat.CONFIG_KEY_NODE_ERROR] = NodeError(
                node=fault.node, error=from_fault(fault, serde)
            )
        name, proc, timeout, policies = self.node, self._runnable, self._timeout, self._policies
        if payload.function:
            function = await self._function(payload.function)
            proc, timeout = functions.runnable_of(function), function.timeout
            name, policies = function.__name__, tuple(function.retry_policy)
        config: dict[str, Any] = {
            "tags": [*given.get("tags", []), *(self._proc.tags or [])],
            "metadata": {
                **given.get("metadata", {}),
                "langgraph_step": context.superstep,
                "langgraph_node": name,
                "langgraph_triggers": tuple(payload.triggers),
                "langgraph_path": path,
                "langgraph_checkpoint_ns": context.checkpoint_ns,
                "thread_id": context.thread,
                **(self._proc.metadata or {}),
            },
            "run_name": name,
            "recursion_limit": given.get("recursion_limit") or 25,
            "callbacks": None,
            "configurable": configurable,
        }
        if "messages" in payload.stream_modes:

            def write_message(part: tuple[tuple[str, ...], str, Any]) -> None:
                write_chunk(part[1], list(part[0]), part[2])

            config["callbacks"] = [compat.StreamMessagesHandler(write_message, subgraphs=False)]
        task = PregelExecutableTask(
            name=name,
            input=await self._value(payload.input, f"input of {name!r}"),
            proc=proc,
            writes=writes,
            config=config,  # type: ignore[arg-type]
            triggers=payload.triggers,
            retry_policy=(),
            cache_key=None,
            id=payload.task_id,
            path=path,
            writers=self._proc.flat_writers,
            subgraphs=self._proc.subgraphs,
            timeout=timeout,
        )
        return Prepared(task, null_resume, bool(null_resume), policies)

    async def _function(self, name: str) -> Any:
        """A ``@task`` function that the node has called; its module may be the node's own."""
        if (body := lazy_body(self._proc.bound)) is not None:
            await asyncio.to_thread(body.resolve)
        return functions.task_function(name)

    async def run(self, prepared: Prepared, attempt: int) -> OutcomePayload:
        """Run a task once; every end but cancellation becomes an outcome."""
        task = prepared.task
        try:
            await compat.run_attempt(task, lean=self._lean and not task.config.get("callbacks"))
            return await self._outcome(prepared, attempt, "ok")
        except GraphInterrupt as exc:
            return await self._outcome(prepared, attempt, "interrupt", interrupts=exc.args[0])
        except asyncio.CancelledError as exc:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            # The node's own code raised it; LangGraph treats that as a failure of the node.
            failure = NodeCancelledError(self.node)
            failure.__cause__ = exc
            return self.failed(failure, task.id, attempt, prepared.policies)
        except Exception as exc:  # noqa: BLE001  whatever user code raises becomes an outcome
            return self.failed(exc, task.id, attempt, prepared.policies)

    def failed(
        self,
        exc: Exception,
        task_id: str,
        attempt: int,
        policies: Sequence[RetryPolicy] | None = None,
    ) -> OutcomePayload:
        """The outcome of a failure: another attempt where a retry policy allows one.

        Args:
            exc: The failure.
            task_id: Of the task.
            attempt: The attempt that failed.
            policies: Of a ``@task`` function; the node's own if they are None.
        """
        policies = self._policies if policies is None else policies
        timed_out = isinstance(exc, NodeTimeoutError)
        fault = to_fault(
            exc,
            node=self.node,
            code=ErrorCode.NODE_TIMED_OUT if timed_out else ErrorCode.NODE_RAISED,
            serde=self.loaded.serde,
        )
        policy = next((p for p in policies if compat.should_retry(p, exc)), None)
        if policy is not None and attempt < policy.max_attempts:
            seconds = min(
                policy.max_interval,
                policy.initial_interval * policy.backoff_factor ** (attempt - 1),
            )
            if policy.jitter:
                seconds += random.uniform(0, 1)  # noqa: S311  spreads load, protects nothing
            return OutcomePayload(
                kind="retry",
                task_id=task_id,
                attempt=attempt,
                fault=fault,
                delay_ms=int(seconds * 1000),
            )
        return OutcomePayload(
            kind="timeout" if timed_out else "error", task_id=task_id, attempt=attempt, fault=fault
        )

    async def _outcome(
        self, prepared: Prepared, attempt: int, kind: Any, interrupts: Any = None
    ) -> OutcomePayload:
        serde = self.loaded.serde
        task = prepared.task
        try:
            channels = [channel for channel, _ in task.writes]
            values = [
                serde.encode(value, what=f"node {self.node!r} wrote channel {channel!r}")
                for channel, value in task.writes
            ]
            asked = (
                serde.encode(tuple(interrupts), what="interrupts")
                if interrupts is not None
                else None
            )
        except MeshError as exc:
            return self.failed(exc, task.id, attempt, prepared.policies)
        if sum(len(value.data) for value in values) > 64 * 1024:
            values = await stow(values, self._blobs)
        return OutcomePayload(
            kind=kind,
            task_id=task.id,
            attempt=attempt,
            writes=list(zip(channels, values, strict=True)),
            interrupts=asked,
            null_resume_consumed=prepared.asked_null_resume and not prepared.null_resume,
        )

    async def _value(self, value: Value | None, what: str) -> Any:
        if value is None or value == NULL:
            return None
        if is_stowed(value):
            value = await fetch(value, self._blobs)
        return self.loaded.serde.decode(value, what=what)

    def _custom_writer(
        self, modes: list[str], write_chunk: WriteChunk, checkpoint_ns: str
    ) -> Callable[[Any], None]:
        if "custom" not in modes:
            return lambda _: None
        namespace = compat.namespace_of(checkpoint_ns)
        return lambda data: write_chunk("custom", namespace, data)
