"""A published graph as its callers see it: the shapes of a compiled LangGraph graph."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from langgraph.types import Command, Interrupt, StateSnapshot

from langmesh import settings
from langmesh.bus import Bus, connect, nesting
from langmesh.client.asking import ask
from langmesh.client.following import Run, RunFailed
from langmesh.clock import new_id
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import rpc

__all__ = ["MeshGraph", "Run", "RunFailed"]

_DECISION_S: Final = 35.0
_UNSUCCESSFUL: Final = frozenset({"error", "cancelled"})
_CONFIG: Final = ("tags", "metadata", "recursion_limit", "max_concurrency")


class MeshGraph:
    """Runs a published graph; use it in an ``async with`` block.

    Values cross as JSON: what JSON lacks is projected. Inside a node it uses the agent's connection
    and tenant, and its runs belong to the node's trace. An attempt that fails or is cancelled
    cancels those that are not over; another attempt of the node joins those that go on or are done.

    Args:
        name: Name of the graph.
        nats_url: Server; ``NATS_URL`` by default.
        tenant: ``LANGMESH_TENANT`` by default.
        bus: A connection to use instead of making one.

    Example:
        >>> async with MeshGraph("research") as graph:
        ...     answer = await graph.ainvoke({"question": "Why?"})
    """

    def __init__(
        self,
        name: str,
        *,
        nats_url: str | None = None,
        tenant: str | None = None,
        bus: Bus | None = None,
    ) -> None:
        self.name = name
        self._nesting = nesting.current() if bus is None and nats_url is None else None
        self._nats_url = nats_url
        self._bus = bus
        self._stack = contextlib.AsyncExitStack()
        if tenant is None:
            known = self._nesting
            tenant = known.tenant if known is not None else settings.load().tenant
        self.tenant = tenant

    async def __aenter__(self) -> Self:
        """Connect, unless there is a connection already."""
        if self._nesting is not None:
            self._bus = self._nesting.bus
        elif self._bus is None:
            url = self._nats_url or settings.load().nats_url
            self._bus = await self._stack.enter_async_context(
                connect(url, name=f"graph {self.name}")
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection if it was made here."""
        await self._stack.aclose()

    async def submit(
        self,
        input: Any = None,  # noqa: A002  LangGraph's word
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        command: Command[Any] | None = None,
        stream_mode: str | Sequence[str] = "updates",
        durability: str | None = None,
    ) -> Run:
        """Submit a run; returns when it is accepted.

        Args:
            input: The graph's input, or a ``Command``.
            thread_id: The thread; ``config["configurable"]["thread_id"]`` by default, else new.
            run_id: An id for the run; a new one by default.
            config: As LangGraph takes it.
            context: The run's context.
            command: ``Command(resume=…)`` goes on after an interrupt.
            stream_mode: What :meth:`Run.stream` can yield.
            durability: As LangGraph takes it.

        Raises:
            MeshError: The submission was refused; its code and message are the coordinator's.
        """
        if isinstance(input, Command):
            input, command = None, input  # noqa: A001  LangGraph's word
        config, configurable = dict(config or {}), dict((config or {}).get("configurable") or {})
        thread_id = thread_id or configurable.pop("thread_id", None)
        configurable.pop("thread_id", None)
        around = self._nesting
        fresh = around.next_id() if around is not None else new_id()
        if around is not None and thread_id == around.thread:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"thread_id: {thread_id!r} is the thread of the run that calls, which would wait"
                " for itself",
                remedy="Call the graph on another thread, or leave the thread out.",
            )
        body = {
            "graph": self.name,
            "input": input,
            "config": {
                "configurable": configurable,
                **{key: config[key] for key in _CONFIG if config.get(key) is not None},
            },
            "context": context,
            "command": _command(command) if command is not None else None,
            "stream_mode": stream_mode if isinstance(stream_mode, str) else list(stream_mode),
            "durability": durability,
        }
        for again in itertools.count():
            name = f"{fresh}-{again}" if again else fresh
            # A resumed run keeps its id, so that none is given with a command.
            chosen = run_id or (None if command is not None else f"run-{name}")
            names = {"run_id": chosen, "thread_id": thread_id or f"thread-{name}"}
            try:
                return await self._start({**body, **names})
            except MeshError as exc:
                if around is None or run_id or exc.code != ErrorCode.DUPLICATE_RUN or not chosen:
                    raise
            # An earlier attempt of this task started it.
            earlier = await self._ask("run.get", {"run_id": chosen})
            if earlier["status"] not in _UNSUCCESSFUL:
                return self._run(chosen, earlier["thread_id"], around.traceparent[3:35], None)
        raise AssertionError("counting does not end")

    async def _start(self, body: Mapping[str, Any]) -> Run:
        """Submit under the names that the body says; on a cancellation the run is called off."""
        headers = {}
        if (around := self._nesting) is not None:
            headers = {"traceparent": around.traceparent, rpc.PARENT_HEADER: around.run}
        run = self._run(body["run_id"] or "", body["thread_id"], "", None)
        try:
            # It may wait behind runs that need this node's place.
            with run.waiting():
                try:
                    found = await self._ask("run.start", body, _DECISION_S, headers)
                except MeshError as exc:
                    if exc.code is not ErrorCode.TIMED_OUT or not run.run_id:
                        raise
                    accepted = await run.accepted()
                    return self._run(
                        run.run_id, run.thread_id, accepted.trace_id, accepted.submit_seq
                    )
        except MeshError:
            run.forget()
            raise
        except asyncio.CancelledError:
            if run.run_id:
                await run.call_off()
            raise
        run.forget()
        return self._run(
            found["run_id"], found["thread_id"], found["trace_id"], found["submit_seq"]
        )

    def _run(self, run_id: str, thread_id: str, trace_id: str, submit_seq: int | None) -> Run:
        return Run(self, run_id, thread_id, trace_id, submit_seq, self._nesting)

    async def ainvoke(
        self,
        input: Any = None,  # noqa: A002  LangGraph's word
        config: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Run the graph and return its output; on an interrupt, the state and ``__interrupt__``.

        Args:
            input: As for :meth:`submit`.
            config: As for :meth:`submit`.
            fields: Other arguments of :meth:`submit`.

        Raises:
            RunFailed: The run ended with an error, or was cancelled.
            MeshError: The submission was refused.
        """
        run = await self.submit(input, config=config, **{"stream_mode": "values", **fields})
        try:
            return await run.result()
        except asyncio.CancelledError:
            await run.call_off()
            raise

    async def astream(
        self,
        input: Any = None,  # noqa: A002  LangGraph's word
        config: Mapping[str, Any] | None = None,
        *,
        stream_mode: str | Sequence[str] = "updates",
        **fields: Any,
    ) -> AsyncIterator[Any]:
        """Run the graph and yield what LangGraph yields: pairs if ``stream_mode`` is a list.

        Args:
            input: As for :meth:`submit`.
            config: As for :meth:`submit`.
            stream_mode: One mode or several.
            fields: Other arguments of :meth:`submit`.

        Raises:
            RunFailed: The run ended with an error, or was cancelled.
            MeshError: The submission was refused.
        """
        run = await self.submit(input, config=config, stream_mode=stream_mode, **fields)
        try:
            async with contextlib.aclosing(run.stream()) as parts:
                async for mode, data in parts:
                    yield data if isinstance(stream_mode, str) else (mode, data)
        except (asyncio.CancelledError, GeneratorExit):
            await run.call_off()
            raise

    async def aget_state(self, config: Mapping[str, Any]) -> StateSnapshot:
        """The latest state of ``config["configurable"]["thread_id"]``.

        Raises:
            MeshError: UNKNOWN_THREAD, UNKNOWN_GRAPH.
        """
        return _snapshot(await self._ask("thread.state", self._thread(config)))

    async def aget_state_history(
        self, config: Mapping[str, Any], *, limit: int = 10
    ) -> AsyncIterator[StateSnapshot]:
        """The states of a thread, newest first, at most 100.

        Raises:
            MeshError: UNKNOWN_THREAD, UNKNOWN_GRAPH.
        """
        found = await self._ask("thread.history", {**self._thread(config), "limit": limit})
        for state in found["states"]:
            yield _snapshot(state)

    async def aupdate_state(
        self, config: Mapping[str, Any], values: Any, as_node: str | None = None
    ) -> dict[str, Any]:
        """Write to a thread's state as if a node had; returns the config of the new checkpoint.

        Raises:
            MeshError: BUSY while a run is active, INVALID_INPUT, UNKNOWN_NODE.
        """
        asked = {**self._thread(config), "values": values, "as_node": as_node}
        found = await self._ask("thread.update", asked)
        return _config(asked["thread_id"], found["checkpoint_id"])

    @property
    def bus(self) -> Bus:
        """The connection.

        Raises:
            MeshError: NOT_RUNNING outside of the ``async with`` block.
        """
        if self._bus is None:
            raise MeshError(
                ErrorCode.NOT_RUNNING,
                f"graph {self.name!r} is not connected",
                remedy="Use it in an `async with` block.",
            )
        return self._bus

    async def ask(self, verb: str, fields: Mapping[str, Any], timeout_s: float = 10.0) -> Any:
        """Ask the coordinator one of the protocol's verbs.

        Raises:
            MeshError: What it answers, or BROKER_UNAVAILABLE when nobody does.
        """
        return await self._ask(verb, fields, timeout_s)

    async def _ask(
        self,
        verb: str,
        fields: Mapping[str, Any],
        timeout_s: float = 10.0,
        headers: dict[str, str] | None = None,
    ) -> Any:
        return await ask(self.bus, self.tenant, verb, fields, timeout_s=timeout_s, headers=headers)

    def _thread(self, config: Mapping[str, Any]) -> dict[str, Any]:
        thread = (config.get("configurable") or {}).get("thread_id")
        if thread is None:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                "config: configurable.thread_id is missing",
                remedy='Pass {"configurable": {"thread_id": …}}.',
            )
        return {"graph": self.name, "thread_id": thread}


def _command(command: Command[Any]) -> dict[str, Any]:
    fields = {"resume": command.resume, "goto": command.goto or None, "update": command.update}
    return {name: value for name, value in fields.items() if value is not None}


def _config(thread: str, checkpoint_id: str) -> dict[str, Any]:
    return {
        "configurable": {
            "thread_id": thread,
            "checkpoint_ns": "",
            "checkpoint_id": checkpoint_id,
        }
    }


def _snapshot(state: Mapping[str, Any]) -> StateSnapshot:
    config: Any = _config(state["thread_id"], state["checkpoint_id"])
    return StateSnapshot(
        values=state["values"],
        next=tuple(state["next"]),
        config=config,
        metadata={"step": state["superstep"]},
        created_at=state["created_at"],
        parent_config=None,
        tasks=(),
        interrupts=tuple(Interrupt(value=i["value"], id=i["id"]) for i in state["interrupts"]),
    )
