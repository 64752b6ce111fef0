"""The API of `MeshGraph` for scripts and for nodes that are plain functions: calls that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from langgraph.types import StateSnapshot

from langmesh.bus import nesting
from langmesh.client.following import Run
from langmesh.client.mesh_graph import MeshGraph
from langmesh.errors import ErrorCode, MeshError

_T = TypeVar("_T")
_CANCEL_S: Final = 10.0
"""How long an interrupted call waits until its run is called off."""


class SyncMeshGraph:
    """Runs a published graph; use it in a ``with`` block, not in an event loop.

    A script's calls run in an event loop of their own thread, a node's in the loop of its agent:
    there it behaves as `MeshGraph` does inside a node. Every method has the arguments and raises
    the errors of its namesake there.

    Args:
        name: Name of the graph.
        nats_url: Server; ``NATS_URL`` by default.
        tenant: ``LANGMESH_TENANT`` by default.

    Example:
        >>> with SyncMeshGraph("research") as graph:
        ...     answer = graph.invoke({"question": "Why?"})
    """

    def __init__(
        self, name: str, *, nats_url: str | None = None, tenant: str | None = None
    ) -> None:
        self._graph = MeshGraph(name, nats_url=nats_url, tenant=tenant)
        around = nesting.current() if nats_url is None else None
        self._loop = around.loop if around is not None else None
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Name of the graph."""
        return self._graph.name

    def __enter__(self) -> Self:
        """Connect, unless there is a connection already."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name=f"graph {self.name}", daemon=True
            )
            self._thread.start()
        try:
            self.wait(self._graph.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection if it was made here."""
        try:
            self.wait(self._graph.__aexit__(kind, exc, traceback))
        finally:
            self._stop()

    def submit(self, input: Any = None, **fields: Any) -> SyncRun:  # noqa: A002  LangGraph's word
        """Submit a run; returns when it is accepted."""
        return SyncRun(self, self.wait(self._graph.submit(input, **fields)))

    def invoke(
        self,
        input: Any = None,  # noqa: A002  LangGraph's word
        config: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Run the graph and return its output; an interrupted call (Ctrl-C) cancels the run."""
        return self.wait(self._graph.ainvoke(input, config, **fields))

    def stream(
        self,
        input: Any = None,  # noqa: A002  LangGraph's word
        config: Mapping[str, Any] | None = None,
        *,
        stream_mode: str | Sequence[str] = "updates",
        **fields: Any,
    ) -> Iterator[Any]:
        """Run the graph and yield what LangGraph yields; to leave early cancels the run."""
        return self.iterate(self._graph.astream(input, config, stream_mode=stream_mode, **fields))

    def get_state(self, config: Mapping[str, Any]) -> StateSnapshot:
        """The latest state of a thread."""
        return self.wait(self._graph.aget_state(config))

    def get_state_history(
        self, config: Mapping[str, Any], *, limit: int = 10
    ) -> Iterator[StateSnapshot]:
        """The states of a thread, newest first."""
        return self.iterate(self._graph.aget_state_history(config, limit=limit))

    def update_state(
        self, config: Mapping[str, Any], values: Any, as_node: str | None = None
    ) -> dict[str, Any]:
        """Write to a thread's state as if a node had."""
        return self.wait(self._graph.aupdate_state(config, values, as_node))

    def wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the graph's loop; an exception here cancels it and waits for its end.

        Raises:
            MeshError: NOT_RUNNING outside of the ``with`` block or inside of an event loop.
        """
        return self._job(coroutine).result()

    def iterate(self, items: AsyncIterator[_T]) -> Iterator[_T]:
        """Yield what an asynchronous iterator yields; closing this one cancels that one."""
        queue: SimpleQueue[tuple[_T] | None] = SimpleQueue()

        async def pump() -> None:
            try:
                async for item in items:
                    queue.put((item,))
            finally:
                queue.put(None)

        job = self._job(pump())
        try:
            while (item := queue.get()) is not None:
                yield item[0]
        except BaseException:
            job.cancel()
            raise
        job.result()

    def _job(self, coroutine: Coroutine[Any, Any, _T]) -> _Job[_T]:
        if self._loop is None or self._loop.is_closed():
            problem = "is not connected", "Use it in a `with` block."
        elif _in_event_loop():
            problem = "blocks the event loop that it is used in", "Use MeshGraph there, with await."
        else:
            return _Job(self._loop, coroutine)
        coroutine.close()
        what, remedy = problem
        raise MeshError(ErrorCode.NOT_RUNNING, f"graph {self.name!r} {what}", remedy=remedy)

    def _stop(self) -> None:
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class SyncRun:
    """A run that was accepted, as `Run` with calls that block."""

    def __init__(self, graph: SyncMeshGraph, run: Run) -> None:
        self.run_id = run.run_id
        self.thread_id = run.thread_id
        self.trace_id = run.trace_id
        self._graph = graph
        self._run = run

    def stream(self, *modes: str) -> Iterator[tuple[str, Any]]:
        """Yield (mode, data) from the run's start, only of some modes if any are named."""
        return self._graph.iterate(self._run.stream(*modes))

    def result(self) -> Any:
        """Wait for the output; after an interrupt, the state and ``__interrupt__``."""
        return self._graph.wait(self._run.result())

    def cancel(self) -> None:
        """End the run; nothing happens if it is over."""
        self._graph.wait(self._run.cancel())

    def status(self) -> str:
        """``queued``, ``running``, ``interrupted``, ``success``, ``error`` or ``cancelled``."""
        return self._graph.wait(self._run.status())


class _Job(Generic[_T]):
    """A coroutine at work in another thread's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, _T]) -> None:
        self._over = threading.Event()
        self._future = asyncio.run_coroutine_threadsafe(self._work(coroutine), loop)

    async def _work(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await coroutine
        finally:
            self._over.set()

    def result(self) -> _T:
        try:
            return self._future.result()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel it, and wait until it has cleaned up; nothing happens if it is over."""
        if self._future.cancel():
            self._over.wait(_CANCEL_S)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
