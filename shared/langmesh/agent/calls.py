"""Calls of ``@task`` functions: each is a task of its own, which the run's coordinator sends.

The node's agent asks for the result until it is there, whoever drives the run by then; meanwhile
the node's place is another task's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
from langgraph.errors import GraphInterrupt

from langmesh.bus import Bus
from langmesh.bus.blobs import Blobs
from langmesh.bus.nesting import Nesting
from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import functions
from langmesh.graphs.faults import from_fault
from langmesh.graphs.serde import Serde, fetch, stow
from langmesh.wire import codec, subjects
from langmesh.wire.messages import CallDone, ExecuteTask
from langmesh.wire.rpc import CALL_S_MAX, CallResult, CallTask, RpcError

_AGAIN_S: Final = 0.5
_PATIENCE_S: Final = 60.0
"""How long no coordinator may have the run before the task goes back to the broker."""


class TaskCalls:
    """Calls the functions of one attempt; LangGraph takes it for its own way to do so.

    Args:
        bus: The connection.
        blobs: Where large values are.
        serde: The graph's.
        message: The attempt.
        around: The task around the calls.
    """

    def __init__(
        self, bus: Bus, blobs: Blobs, serde: Serde, message: ExecuteTask, around: Nesting
    ) -> None:
        self._bus = bus
        self._blobs = blobs
        self._serde = serde
        self._message = message
        self._around = around
        self._indexes = itertools.count()
        self.done: list[CallDone] = []
        """Those that returned."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def __call__(self, function: Callable[..., Any], given: Any, **_: Any) -> Any:
        """A future of what the function returns, for the thread that calls.

        Raises:
            MeshError: GRAPH_NOT_SUPPORTED if other agents cannot find the function.
        """
        name = functions.name_of_task_function(function)
        result = self._result(next(self._indexes), name, function.__name__, given)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(result, self._around.loop)
        task = loop.create_task(result)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Ask for nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _result(self, index: int, function: str, name: str, given: Any) -> Any:
        with self._around.waiting():
            value = self._serde.encode(given, what=f"arguments of {name!r}")
            (value,) = await stow([value], self._blobs)
            context = self._message.context
            call = CallTask(
                thread_id=context.thread,
                run_id=context.run,
                cap=self._message.payload.cap,
                index=index,
                function=function,
                name=name,
                input=value,
            )
            result = await self._answered(codec.encode_json(call))
        if result.status == "error" and result.fault is not None:
            raise from_fault(result.fault, self._serde, imported=True)
        found = None
        if result.value is not None:
            found = self._serde.decode(
                await fetch(result.value, self._blobs), what=f"result of {name!r}"
            )
        if result.status == "interrupt":
            raise GraphInterrupt(tuple(found or ()))
        self.done.append(CallDone(index, function, name))
        return found

    async def _answered(self, body: bytes) -> CallResult:
        subject = subjects.rpc(self._message.context.tenant, "task.call")
        heard_at = monotonic()
        while True:
            try:
                reply = await self._bus.request(subject, body, timeout_s=CALL_S_MAX + 2)
                result = _read(reply)
            except MeshError as exc:
                if not exc.retryable or monotonic() - heard_at > _PATIENCE_S:
                    raise
                await asyncio.sleep(_AGAIN_S)
                continue
            heard_at = monotonic()
            if result.status != "pending":
                return result


def _read(reply: bytes) -> CallResult:
    """The answer of a coordinator.

    Raises:
        MeshError: What it refuses with.
    """
    if reply.startswith(b'{"error"'):
        fault = msgspec.json.decode(reply, type=RpcError).error
        raise MeshError(ErrorCode.received(fault.code), fault.message, remedy=fault.remedy)
    try:
        return msgspec.json.decode(reply, type=CallResult)
    except msgspec.DecodeError as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"task.call: {exc}") from exc
