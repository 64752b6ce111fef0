"""One run as its caller follows it: events and chunks as LangGraph's stream, result, end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final, Protocol

from langgraph.types import Interrupt

from langmesh.bus import Bus
from langmesh.bus.nesting import Nesting, cancel_run
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
    RunRejected,
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
        code = ErrorCode.received(error.code)
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

    To wait for it inside a node lends the node's place to another task; it does not end with a wait
    that is cancelled, but with the node's attempt if that fails or is cancelled.

    Attributes:
        run_id: Its id.
        thread_id: Its thread.
        trace_id: Its trace.
    """

    def __init__(
        self,
        graph: _Graph,
        run_id: str,
        thread_id: str,
        trace_id: str,
        submit_seq: int | None,
        around: Nesting | None,
    ) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self.trace_id = trace_id
        self._graph = graph
        self._submit_seq = submit_seq
        self._around = around
        self._over = False
        self._key = (graph.tenant, run_id)
        if around is not None:
            around.children.add(self._key)

    async def accepted(self) -> RunAccepted:
        """Wait for its turn, when many runs are before it.

        Raises:
            MeshError: The submission was refused; its code and message are the coordinator's.
        """
        graph = self._graph
        own = subjects.event(graph.tenant, graph.name, self.thread_id, self.run_id)
        refusals = subjects.reject(graph.tenant, graph.name)
        decision: asyncio.Future[RunAccepted] = asyncio.get_running_loop().create_future()

        def on_event(subject: str, body: bytes, _seq: int) -> None:
            if decision.done():
                return
            if subject != refusals:
                event = codec.decode_event(body)
                if isinstance(event, RunAccepted):
                    decision.set_result(event)
                return
            refusal = codec.decode_json(RunRejected, body)
            if refusal.run_id == self.run_id:
                code = ErrorCode.received(refusal.code)
                decision.set_exception(MeshError(code, refusal.message, remedy=refusal.remedy))

        async with Tail(graph.bus, EVENT.name, (own, refusals), on_event).run():
            return await decision

    async def stream(self, *modes: str) -> AsyncGenerator[tuple[str, Any]]:
        """Yield (mode, data) from the run's start, only of some modes if any are named.

        Raises:
            RunFailed: The run ended with an error, or was cancelled.
        """
        async with contextlib.aclosing(self._follow(chunks=True)) as items:
            async for item in items:
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
        async with contextlib.aclosing(self._follow(chunks=False)) as items:
            async for item in items:
                if isinstance(item, RunEnded):
                    _check(item)
                    return item.output
                if isinstance(item, RunInterrupted):
                    return await self._asked(item)
        raise AssertionError("a run ends with an event")

    async def _asked(self, event: RunInterrupted) -> dict[str, Any]:
        asked = {"graph": self._graph.name, "thread_id": self.thread_id}
        state = await self._graph.ask("thread.state", asked)
        values = state["values"] if isinstance(state["values"], dict) else {}
        interrupts = [Interrupt(value=i["value"], id=i["id"]) for i in event.interrupts]
        return {**values, "__interrupt__": interrupts}

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

    def forget(self) -> None:
        """Let the run be, whatever becomes of the node's attempt that started it."""
        if self._around is not None:
            self._around.children.discard(self._key)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Lend the node's place while the block waits for the run."""
        return self._around.waiting() if self._around is not None else contextlib.nullcontext()

    async def call_off(self) -> None:
        """Cancel it unless it is over or moves to another agent together with its caller.

        Takes no longer than a few seconds, also while the caller is being cancelled.
        """
        if self._over or (self._around is not None and self._around.keeps_children()):
            return
        asked = cancel_run(self._graph.bus, self._graph.tenant, self.run_id)
        await asyncio.shield(asyncio.create_task(asked))

    async def _follow(self, *, chunks: bool) -> AsyncGenerator[AnyEvent | Chunk]:
        with self.waiting():
            async for item in self._read(chunks=chunks):
                if isinstance(item, RunEnded | RunInterrupted):
                    self._over = True
                    self.forget()
                yield item

    async def _read(self, *, chunks: bool) -> AsyncIterator[AnyEvent | Chunk]:
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
