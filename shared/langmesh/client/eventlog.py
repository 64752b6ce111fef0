"""The events of many runs, and the refusals among them, in the order in which they were stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, NamedTuple

from langmesh.bus import Bus, reading
from langmesh.bus.tail import Tail
from langmesh.errors import MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import AnyEvent, RunRejected
from langmesh.wire.streams import EVENT

log = logging.getLogger(__name__)

_REJECT: Final = f"{subjects.ROOT}.reject."


class Told(NamedTuple):
    """One event with its place."""

    stream_seq: int
    """Its sequence in stream EVENT."""
    graph: str
    event: AnyEvent | codec.UnknownEvent | RunRejected
    body: bytes
    """The event as it is stored, JSON."""


class EventLog:
    """What stream EVENT tells of a tenant's runs.

    Args:
        bus: The connection.
        tenant: Whose runs.
        graph: Only runs of this graph.
        thread: Only runs on this thread.
        run: Only the run of this id.
    """

    def __init__(
        self,
        bus: Bus,
        tenant: str,
        *,
        graph: str | None = None,
        thread: str | None = None,
        run: str | None = None,
    ) -> None:
        self._bus = bus
        self._thread = thread
        self._run = run
        self._filters = (
            subjects.events(tenant, graph, thread, run),
            subjects.rejects(tenant, graph),
        )

    async def stored(self, first: int, last: int) -> AsyncGenerator[Told]:
        """Yield what is stored from one sequence of the stream to another.

        Raises:
            MeshError: BROKER_UNAVAILABLE.
        """
        parts = [
            reading.read(self._bus, EVENT.name, pattern, first=first, last=last)
            for pattern in self._filters
        ]
        try:
            async for message in _in_order(parts):
                if (told := self._told(*message)) is not None:
                    yield told
        finally:
            for each in parts:
                await each.aclose()

    async def follow(self, first: int) -> AsyncGenerator[Told]:
        """Yield what is stored from a sequence on, for ever and as soon as it is.

        Raises:
            MeshError: BROKER_UNAVAILABLE.
        """
        queue: asyncio.Queue[Told] = asyncio.Queue()

        def on_event(subject: str, body: bytes, seq: int) -> None:
            if (told := self._told(subject, seq, body)) is not None:
                queue.put_nowait(told)

        async with Tail(self._bus, EVENT.name, self._filters, on_event, start_seq=first).run():
            while True:
                yield await queue.get()

    def _told(self, subject: str, seq: int, body: bytes) -> Told | None:
        """What a message tells, or None if it is not wanted or anybody's guess."""
        try:
            if not subject.startswith(_REJECT):
                graph = subjects.parse_event(subject).graph
                return Told(seq, graph, codec.decode_event(body), body)
            refusal = codec.decode_json(RunRejected, body)
        except MeshError as exc:
            log.warning("message %d of stream %s is no event: %s", seq, EVENT.name, exc.message)
            return None
        if self._thread not in {None, refusal.thread_id} or self._run not in {None, refusal.run_id}:
            return None
        return Told(seq, subjects.parse_reject(subject).graph, refusal, body)


async def _in_order(
    parts: list[AsyncGenerator[reading.Stored]],
) -> AsyncIterator[reading.Stored]:
    """Merge what comes in order of its sequences, one message of each held."""
    heads = {}
    for each in parts:
        with contextlib.suppress(StopAsyncIteration):
            heads[each] = await anext(each)
    while heads:
        first = min(heads, key=lambda each: heads[each].seq)
        yield heads[first]
        try:
            heads[first] = await anext(first)
        except StopAsyncIteration:
            del heads[first]
