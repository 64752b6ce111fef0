"""Prune and delete threads, as their owner: never under a run's feet."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langmesh.bus import Bus
from langmesh.checkpoint.codec import latest_to_keep
from langmesh.checkpoint.strict import StrictSerde, strict_serializer
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.revival import tell_the_rest
from langmesh.coordinator.threads import Thread
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import ThreadState
from langmesh.log.condense import condensed


class Retention:
    """Lets go of what is not to be kept.

    Args:
        bus: The connection.
        runs: What is driven here.
    """

    def __init__(self, bus: Bus, runs: LiveRuns) -> None:
        self._bus = bus
        self._runs = runs
        self._serde = StrictSerde(strict_serializer())

    async def delete(
        self, tenant: str, thread_id: str, *, graph: str | None, unchanged_since: int
    ) -> None:
        """Delete a thread with all that is kept of it.

        Args:
            tenant: Whose thread.
            thread_id: Its name.
            graph: The thread's graph, if that is to be made sure.
            unchanged_since: LOG's sequence of its last entry, likewise; 0 for any.

        Raises:
            MeshError: BUSY while a run is active; INVALID_FIELD if one waits for a human, or the
                thread has changed; UNKNOWN_THREAD.
        """
        async with self._over(tenant, thread_id, graph, unchanged_since) as thread:
            await thread.logs.delete(thread.name)
            thread.log.forget()

    async def prune(
        self, tenant: str, thread_id: str, *, graph: str | None, unchanged_since: int
    ) -> tuple[int, int]:
        """Keep the latest checkpoint of a thread, and what it needs; returns (kept, dropped).

        Raises:
            MeshError: As :meth:`delete`.
        """
        counts = (0, 0)

        def select(state: ThreadState) -> Sequence[Any] | None:
            nonlocal counts
            keep = latest_to_keep(self._serde, thread.log.chain, state)
            counts = (len(keep), len(state.checkpoints) - len(keep))
            journal = [record for _, record in state.journal]
            less = condensed(journal)
            if not counts[1] and len(less) == len(journal):
                return None
            return state.records(keep, journal=less)

        async with self._over(tenant, thread_id, graph, unchanged_since) as thread:
            await thread.log.rebase(select)
        return counts

    @contextlib.asynccontextmanager
    async def _over(
        self, tenant: str, thread_id: str, graph: str | None, unchanged_since: int
    ) -> AsyncIterator[Thread]:
        """A thread whose last run is over, and which gets no other one in the block."""
        async with self._runs.holding(tenant, thread_id) as thread:
            shown = repr(thread_id[:100])
            last = (await thread.journal()).last
            if not thread.log.tail.number or (
                graph is not None and (last is None or last.started.graph != graph)
            ):
                of = "" if graph is None else f" of graph {graph[:100]!r}"
                raise MeshError(ErrorCode.UNKNOWN_THREAD, f"thread_id: no thread {shown}{of}")
            if last is not None and last.phase == "asking":
                raise MeshError(
                    ErrorCode.INVALID_FIELD,
                    f"thread_id: run {last.started.run_id!r} on {shown} waits for a human",
                    remedy="Answer it, or cancel it, first.",
                )
            if unchanged_since and thread.log.tail.seq != unchanged_since:
                raise MeshError(
                    ErrorCode.INVALID_FIELD,
                    f"unchanged_since: thread {shown} has changed since",
                    remedy="Look at it again.",
                )
            if last is not None:
                await tell_the_rest(self._bus, thread, last)
            yield thread
