"""Submissions and their events over one subscription per graph."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import AnyEvent, RunAccepted, RunEnded, RunInterrupted, RunRejected
from langmesh.wire.streams import EVENT


class RunHandle:
    """One submitted run: its events, in order, until it ended or waits for a human."""

    def __init__(self, submit_seq: int) -> None:
        self.submit_seq = submit_seq
        self.run_id = ""
        self.thread_id = ""
        self.trace_id = ""
        self._queue: asyncio.Queue[AnyEvent | MeshError] = asyncio.Queue()

    async def events(self) -> AsyncIterator[AnyEvent]:
        """Yield the events up to run.ended.v1 or run.interrupted.v1.

        Raises:
            MeshError: The submission was rejected; its code and message are the coordinator's.
        """
        while True:
            event = await self._queue.get()
            if isinstance(event, MeshError):
                raise event
            yield event
            if isinstance(event, RunEnded | RunInterrupted):
                return

    async def result(self) -> RunEnded | RunInterrupted:
        """Wait for the end of the run.

        Raises:
            MeshError: The submission was rejected.
        """
        async for event in self.events():
            if isinstance(event, RunEnded | RunInterrupted):
                return event
        raise AssertionError("events() ends with a terminal event")

    def put(self, event: AnyEvent | MeshError) -> None:
        """Take an event; called by the client that follows the graph."""
        if isinstance(event, RunAccepted):
            self.run_id, self.thread_id = event.run_id, event.thread_id
            self.trace_id = event.trace_id
        self._queue.put_nowait(event)


class Client:
    """Submits to one graph and follows all its runs; use :meth:`open`."""

    def __init__(self, bus: Bus, graph: str, tenant: str) -> None:
        self._bus = bus
        self._graph = graph
        self._tenant = tenant
        self._by_seq: dict[int, RunHandle] = {}
        self._by_run: dict[str, RunHandle] = {}
        self._early: dict[int, list[AnyEvent | MeshError]] = {}
        self._publishing = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, bus: Bus, graph: str, *, tenant: str = "default") -> AsyncIterator[Client]:
        """Follow a graph while the block runs."""
        client = cls(bus, graph, tenant)
        filters = (subjects.events_of_graph(tenant, graph), subjects.reject(tenant, graph))
        async with Tail(bus, EVENT.name, filters, client._on_event, start_seq=None).run():
            yield client

    async def submit(self, input: Any = None, **fields: Any) -> RunHandle:  # noqa: A002  LangGraph's word
        """Submit a run; returns when the broker has stored the submission.

        Args:
            input: The graph's input, anything that JSON can hold.
            fields: Other fields of a submission: ``thread_id``, ``run_id``, ``stream_mode`` …

        Raises:
            MeshError: BROKER_UNAVAILABLE; before anything is sent, PAYLOAD_TOO_LARGE,
                INVALID_FIELD, MALFORMED_BODY (nested too deeply) or VALUE_NOT_SERIALIZABLE.
        """
        self._publishing += 1
        try:
            fields["input"] = input
            seq = await publish(self._bus, self._tenant, self._graph, fields)
            handle = self._by_seq[seq] = RunHandle(seq)
            for event in self._early.pop(seq, []):
                self._take(handle, event)
            return handle
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._early.clear()

    def _on_event(self, subject: str, body: bytes, _seq: int) -> None:
        event: AnyEvent | MeshError
        if subject.startswith(f"{subjects.ROOT}.reject."):
            refusal = codec.decode_json(RunRejected, body)
            seq = refusal.submit_seq
            code = ErrorCode.received(refusal.code)
            event = MeshError(code, refusal.message, remedy=refusal.remedy)
        else:
            found = codec.decode_event(body)
            if isinstance(found, codec.UnknownEvent):
                return
            if not isinstance(found, RunAccepted):
                self._route(found)
                return
            event, seq = found, found.submit_seq
        handle = self._by_seq.get(seq)
        if handle is not None:
            self._take(handle, event)
        elif self._publishing:
            # The event can be here before the acknowledgement that tells us our sequence.
            self._early.setdefault(seq, []).append(event)
            if isinstance(event, RunAccepted):
                self._by_run.setdefault(event.run_id, _Orphan(self._early[seq]))

    def _route(self, event: AnyEvent) -> None:
        handle = self._by_run.get(event.run_id)
        if handle is not None:
            handle.put(event)
            if isinstance(event, RunEnded):
                self._by_run.pop(event.run_id, None)
                self._by_seq.pop(handle.submit_seq, None)

    def _take(self, handle: RunHandle, event: AnyEvent | MeshError) -> None:
        handle.put(event)
        if isinstance(event, RunAccepted):
            self._by_run[event.run_id] = handle
        elif isinstance(event, MeshError):
            self._by_seq.pop(handle.submit_seq, None)


class _Orphan(RunHandle):
    """Collects a run's events until its submitter knows its sequence."""

    def __init__(self, events: list[AnyEvent | MeshError]) -> None:
        super().__init__(0)
        self._events = events

    def put(self, event: AnyEvent | MeshError) -> None:
        self._events.append(event)


async def publish(bus: Bus, tenant: str, graph: str, fields: Mapping[str, Any]) -> int:
    """Submit a run, whether or not a coordinator is up; the submission's sequence.

    Args:
        bus: The connection.
        tenant: The graph's tenant.
        graph: Name of the graph.
        fields: Those of a :class:`~langmesh.wire.messages.Submission`.

    Raises:
        MeshError: As for :meth:`Client.submit`.
    """
    body = _encode(fields)
    codec.decode_submission(body)
    return await bus.append(subjects.submit(tenant, graph), body)


def _encode(fields: Mapping[str, Any]) -> bytes:
    """A submission's body; strict: a projection could not be told from what was meant."""
    try:
        return msgspec.json.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise MeshError(
            ErrorCode.VALUE_NOT_SERIALIZABLE,
            f"{_unsendable(fields)}: cannot be sent as JSON: {exc}",
            remedy="Submit what JSON can hold: objects, lists, text, numbers, booleans, null.",
        ) from exc


def _unsendable(fields: Mapping[str, Any]) -> str:
    """The first field that JSON cannot hold."""
    for name, value in fields.items():
        try:
            msgspec.json.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return name
    return "the submission"
