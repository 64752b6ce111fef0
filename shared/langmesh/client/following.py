"""One run as its caller follows it: events and chunks as LangGraph's stream, result, end."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

from langgraph.types import Interrupt

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    AnyEvent,
    Chunk,
    ErrorInfo,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    StreamPart,
    TaskEnded,
)
from langmesh.wire.streams import CHUNK, EVENT

_LOST_S: Final = 5.0
"""How long the end of a task waits for its last chunks."""


class RunFailed(MeshError):
    """A run ended with an error or was cancelled.

    Attributes:
        node: The node that failed, if one did.
        error: What the run's last event says.
    """

    def __init__(self, error: ErrorInfo) -> None:
        known = error.code in ErrorCode.__members__.values()
        code = ErrorCode(error.code) if known else ErrorCode.INTERNAL
        super().__init__(code, error.message, remedy=error.remedy or None)
        self.node = error.node
        self.error = error


class _Graph(Protocol):
    name: str
    tenant: str

    @property
    def bus(self) -> Bus: ...

    async def ask(self, verb: str, fields: Mapping[str, Any], timeout_s: float = 10.0) -> Any: ...


class Run:
    """A run that was accepted.

    Attributes:
        run_id: Its id.
        thread_id: Its thread.
        trace_id: Its trace.
    """

    def __init__(
        self, graph: _Graph, run_id: str, thread_id: str, trace_id: str, submit_seq: int | None
    ) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self.trace_id = trace_id
        self._graph = graph
        self._submit_seq = submit_seq

    async def stream(self, *modes: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield (mode, data) from the run's start, only of some modes if any are named.

        Raises:
            RunFailed: The run ended with an error, or was cancelled.
        """
        async for item in self._follow(chunks=True):
            if isinstance(item, StreamPart | Chunk):
                if not modes or item.mode in modes:
                    messages = item.mode == "messages"
                    yield item.mode, tuple(item.data) if messages else item.data
            elif isinstance(item, RunEnded):
                _check(item)

    async def result(self) -> Any:
        """Wait for the output; after an interrupt, the state and ``__interrupt__``.

        Raises:
            RunFailed: The run ended with an error, or was cancelled.
        """
        async for item in self._follow(chunks=False):
            if isinstance(item, RunEnded):
                _check(item)
                return item.output
            if isinstance(item, RunInterrupted):
                asked = {"graph": self._graph.name, "thread_id": self.thread_id}
                state = await self._graph.ask("thread.state", asked)
                values = state["values"] if isinstance(state["values"], dict) else {}
                interrupts = [Interrupt(value=i["value"], id=i["id"]) for i in item.interrupts]
                return {**values, "__interrupt__": interrupts}
        raise AssertionError("a run ends with an event")

    async def cancel(self) -> None:
        """End the run; nothing happens if it is over.

        Raises:
            MeshError: UNKNOWN_RUN, BROKER_UNAVAILABLE.
        """
        await self._graph.ask("run.cancel", {"run_id": self.run_id})

    async def status(self) -> str:
        """``queued``, ``running``, ``interrupted``, ``success``, ``error`` or ``cancelled``.

        Raises:
            MeshError: UNKNOWN_RUN, BROKER_UNAVAILABLE.
        """
        return str((await self._graph.ask("run.get", {"run_id": self.run_id}))["status"])

    async def _follow(self, *, chunks: bool) -> AsyncIterator[AnyEvent | Chunk]:
        """The run's events in order; each task's chunks come before its end."""
        graph = self._graph
        names = (graph.tenant, graph.name, self.thread_id, self.run_id)
        queue: asyncio.Queue[AnyEvent | Chunk] = asyncio.Queue()
        begun = self._submit_seq is None

        def on_event(_subject: str, body: bytes, _seq: int) -> None:
            nonlocal begun
            event = codec.decode_event(body)
            if isinstance(event, codec.UnknownEvent):
                return
            # A run that goes on after an interrupt has a past that belongs to its first caller.
            begun = begun or (
                isinstance(event, RunAccepted) and event.submit_seq == self._submit_seq
            )
            if begun:
                queue.put_nowait(event)

        def on_chunk(_subject: str, body: bytes, _seq: int) -> None:
            queue.put_nowait(codec.decode_json(Chunk, body))

        async with Tail(graph.bus, EVENT.name, (subjects.event(*names),), on_event).run():
            if not chunks:
                async for item in _ordered(queue, chunks=False):
                    yield item
                return
            every = subjects.chunks_of_run(*names)
            async with Tail(graph.bus, CHUNK.name, (every,), on_chunk).run():
                async for item in _ordered(queue, chunks=True):
                    yield item


async def _ordered(
    queue: asyncio.Queue[AnyEvent | Chunk], *, chunks: bool
) -> AsyncIterator[AnyEvent | Chunk]:
    """Hold the end of a task back until its chunks are here; those that got lost are given up."""
    held: deque[AnyEvent] = deque()
    seen: Counter[tuple[str, int]] = Counter()
    while True:
        give_up = False
        try:
            async with asyncio.timeout(_LOST_S if held else None):
                item = await queue.get()
        except TimeoutError:
            give_up = True
        else:
            if isinstance(item, Chunk):
                seen[(item.task_id, item.attempt)] += 1
                yield item
            else:
                held.append(item)
        while held:
            head = held[0]
            if (
                chunks
                and isinstance(head, TaskEnded)
                and not give_up
                and seen[(head.task_id, head.attempt)] < head.chunks
            ):
                break
            give_up = False
            yield held.popleft()
            if isinstance(head, RunEnded | RunInterrupted):
                return


def _check(ended: RunEnded) -> None:
    if ended.status == "success":
        return
    error = ended.error or ErrorInfo(
        type="MeshError", code=ErrorCode.RUN_CANCELLED, message="the run was cancelled"
    )
    raise RunFailed(error)
