"""Calls of ``@task`` functions by nodes under way: each becomes a task of the run's own loop.

LangGraph makes the task, dispatches it through the seam like any other, keeps what it wrote, and
does not execute it again when its caller is interrupted or fails and comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from langgraph.errors import GraphInterrupt
from langgraph.types import PregelExecutableTask

from langmesh.bus.blobs import Blobs
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import functions, seam
from langmesh.graphs.faults import fault_of
from langmesh.graphs.serde import Serde, fetch, stow
from langmesh.wire.messages import CallDone
from langmesh.wire.rpc import CALL_S_MAX, CallResult, CallTask

log = logging.getLogger(__name__)

_NO_RESULT = frozenset({ErrorCode.BROKER_UNAVAILABLE, ErrorCode.FENCED})
"""What says more of this life of the run than of the call."""


@dataclass(slots=True)
class _Open:
    """An attempt that may call."""

    task: PregelExecutableTask
    caller: seam.Caller
    node: str
    invocation: str
    begun: dict[int, asyncio.Future[object]] = field(default_factory=dict)


class Calls:
    """The calls of one life of a run.

    Args:
        serde: The graph's.
        blobs: Where large values are.
    """

    def __init__(self, serde: Serde, blobs: Blobs) -> None:
        self._serde = serde
        self._blobs = blobs
        self._open: dict[str, _Open] = {}

    @contextlib.contextmanager
    def open(
        self,
        cap: str,
        task: PregelExecutableTask,
        caller: seam.Caller | None,
        *,
        node: str,
        invocation: str,
    ) -> Iterator[None]:
        """Let an attempt call while the block runs.

        Args:
            cap: Its capability.
            task: Its task.
            caller: What LangGraph gave the task to call with.
            node: The node whose agents execute what it calls.
            invocation: What tells the attempts of its calls from those of another attempt.
        """
        if caller is not None:
            self._open[cap] = _Open(task, caller, node, invocation)
        try:
            yield
        finally:
            self._open.pop(cap, None)

    async def recall(
        self,
        task: PregelExecutableTask,
        caller: seam.Caller,
        done: Sequence[CallDone],
        *,
        node: str,
        invocation: str,
    ) -> None:
        """Let the loop know what an attempt called that ended under an owner before.

        Args:
            task: Its task.
            caller: What LangGraph gave the task to call with.
            done: What had returned.
            node: The node whose agents executed it.
            invocation: As for :meth:`open`.
        """
        for each in done:
            called = functions.Called(
                each.function,
                each.name,
                node=node,
                invocation=invocation,
                caller=task.id,
                returned=True,
            )
            try:
                await functions.begin_call(task, caller, called, ((), {}), each.index)
            except MeshError as exc:
                if exc.code in _NO_RESULT:
                    raise
                # It is executed once more, if its caller comes to it again.
                log.warning("the result of %s is not known any more: %s", each.name, exc)

    async def result(self, asked: CallTask) -> CallResult:
        """What became of a call, which is begun if it is new; waits for up to ``CALL_S_MAX``.

        Raises:
            MeshError: BUSY if the attempt is not under way here; VALUE_NOT_SERIALIZABLE.
        """
        attempt = self._open.get(asked.cap)
        if attempt is None:
            raise _busy(asked)
        if (future := attempt.begun.get(asked.index)) is None:
            # Before anything is awaited, so that another request finds it.
            future = asyncio.get_running_loop().create_future()
            attempt.begun[asked.index] = future
            work = asyncio.get_running_loop().create_task(self._call(attempt, asked))
            work.add_done_callback(lambda done: _hand_on(done, future))
        await asyncio.wait({future}, timeout=CALL_S_MAX)
        if not future.done():
            return CallResult(status="pending")
        if future.cancelled():
            raise _busy(asked)
        return await self._told(future, asked)

    async def _call(self, attempt: _Open, asked: CallTask) -> object:
        given = self._serde.decode(
            await fetch(asked.input, self._blobs), what=f"arguments of {asked.name!r}"
        )
        called = functions.Called(
            asked.function,
            asked.name,
            node=attempt.node,
            invocation=attempt.invocation,
            caller=attempt.task.id,
        )
        return await functions.begin_call(attempt.task, attempt.caller, called, given, asked.index)

    async def _told(self, future: asyncio.Future[object], asked: CallTask) -> CallResult:
        problem = future.exception()
        if isinstance(problem, MeshError) and problem.code in _NO_RESULT:
            raise _busy(asked)
        if isinstance(problem, GraphInterrupt):
            interrupts = list(problem.args[0]) if problem.args else []
            value = self._serde.encode(interrupts, what="interrupts")
            return CallResult(status="interrupt", value=value)
        if problem is not None:
            fault = fault_of(problem, node=asked.name, serde=self._serde)
            return CallResult(status="error", fault=fault)
        value = self._serde.encode(future.result(), what=f"result of {asked.name!r}")
        (value,) = await stow([value], self._blobs)
        return CallResult(status="ok", value=value)


def _hand_on(done: asyncio.Task[object], future: asyncio.Future[object]) -> None:
    if done.cancelled():
        future.cancel()
    elif (problem := done.exception()) is not None:
        future.set_exception(problem)
        # Whoever asked for it may have gone.
        future.exception()
    else:
        future.set_result(done.result())


def _busy(asked: CallTask) -> MeshError:
    return MeshError(
        ErrorCode.BUSY,
        f"cap: no task of run {asked.run_id[:100]!r} is under way here with it",
        remedy="Ask again in a moment.",
    )
