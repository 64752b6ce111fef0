"""What one run states in its thread's log, and what has to wait until that is stored.

Rule 1: no task goes out before the run's beginning and the task's checkpoint are stored (R2).
Rule 2: no event goes out before the entry that it comes of; each entry holds those before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from langmesh.coordinator.events import EventWriter
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.saver import ThreadSaver
from langmesh.coordinator.threads import Thread
from langmesh.graphs.loading import LoadedGraph
from langmesh.wire.log import (
    AppliedTask,
    Begun,
    Record,
    RunCancellingRecord,
    RunEndedRecord,
    RunInterruptedRecord,
    SuperstepRecord,
)


class RunLog:
    """Writes one run's records.

    Args:
        thread: The run's thread.
        run_id: The run.
        events: Tells clients of the run.
        loaded: The run's graph.
        mark: Set before the run's beginning is stored.
        known: Whether the log has the run's beginning.
    """

    def __init__(
        self,
        thread: Thread,
        run_id: str,
        events: EventWriter,
        loaded: LoadedGraph,
        mark: Mark,
        *,
        known: bool = False,
    ) -> None:
        self._thread = thread
        self._run_id = run_id
        self._events = events
        self._mark = mark
        self._known = known
        self.saver: ThreadSaver = thread.saver(loaded, beside=self, stored=self._on_stored)
        """LangGraph's checkpointer for the run."""
        self.begun = asyncio.Event()
        """Set when the run needs its submission no more: the log and the mark have it."""
        self.take_applied: Callable[[], Sequence[AppliedTask]] = list
        """Gives the tasks whose writes are in the next checkpoint."""
        self._beginning: Begun | None = None
        """What the next entry has to state first."""
        self._begin_seq = 0
        """Number of the last event before the loop began."""
        self._begins = False
        """Whether the entry on its way has the beginning."""
        self._stated: asyncio.Future[Any] | None = None
        """Resolves when the beginning is stored that was stated in an entry of its own."""
        self._positions: dict[str, int] = {}
        """For each checkpoint that is on its way, the number of the last event before it."""

    def reopen(self) -> None:
        """Let the run begin once more, with an answer."""
        self.begun = asyncio.Event()
        self._stated = None

    def expect_beginning(self) -> None:
        """Let what is emitted from now on wait for the run's beginning."""
        self._begin_seq = self._events.seq
        self._events.hold()

    def begin(self, kind: type[Begun], **fields: Any) -> None:
        """State what begins or continues the run, in the next entry."""
        self._mark.begin()
        self._beginning = kind(run_id=self._run_id, seq=self._begin_seq, **fields)

    def put(self, checkpoint_id: str) -> None:
        """Fix what was emitted so far with a checkpoint; what comes of it waits for its entry."""
        self._positions[checkpoint_id] = self._events.seq
        self._events.hold()

    async def stored(self, checkpoint_id: str) -> None:
        """Wait until the run's beginning and a checkpoint are in the log.

        Raises:
            MeshError: FENCED and the like: they never will be.
        """
        if self._beginning is not None:
            await self._events.encode()
            events = self._events.unstored(self._begin_seq)
            if beginning := self._take_beginning():
                record = msgspec.structs.replace(beginning[0], events=events)
                self._stated = self._thread.log.append_nowait([record])
                self._stated.add_done_callback(self._on_stated)
        if self._stated is not None:
            await asyncio.shield(self._stated)
        await self.saver.committed(checkpoint_id)
        if not self.begun.is_set():
            await self._mark.set()
            self._known = True
            self.begun.set()

    def call_off(self) -> None:
        """State that the run is to be called off, if the log knows it: who drives it next must."""
        if self._known:
            record = RunCancellingRecord(run_id=self._run_id, seq=self._events.seq)
            self._thread.log.append_nowait([record]).add_done_callback(_look_at)

    def hold_last(self) -> None:
        """Let clients hear all but what is emitted next, for :meth:`close` to state."""
        self._events.release_all()
        self._events.hold()

    async def close(self, kind: type[RunInterruptedRecord | RunEndedRecord], **fields: Any) -> None:
        """State where the run stands with all that no entry holds yet, and let clients hear it.

        Raises:
            MeshError: FENCED and the like.
        """
        if self._known or self._beginning is not None:
            await self._events.encode()
            events = self._events.unstored()
            record = kind(run_id=self._run_id, seq=self._events.seq, events=events, **fields)
            writes = self.saver.take_writes()
            await self._thread.append([*self._take_beginning(), *writes, record])
            self._known = True
            self.begun.set()
        self._events.release_all()

    @property
    def ready(self) -> bool:
        """Whether :meth:`records` can be called without :meth:`prepare`."""
        return self._events.encoded

    async def prepare(self) -> None:
        """Have all events in the form in which an entry holds them."""
        await self._events.encode()

    def records(self, checkpoint_id: str) -> list[Record]:
        """What is stated in one entry with a checkpoint."""
        applied = list(self.take_applied())
        seq = self._positions.pop(checkpoint_id, self._events.seq)
        step = SuperstepRecord(
            run_id=self._run_id,
            seq=seq,
            events=self._events.unstored(seq),
            checkpoint_id=checkpoint_id,
            applied=applied,
        )
        beginning = self._take_beginning()
        self._begins = bool(beginning)
        return [*beginning, step]

    def _take_beginning(self) -> list[Begun]:
        """The record of the beginning, if no entry has it yet."""
        beginning, self._beginning = self._beginning, None
        return [] if beginning is None else [beginning]

    def _on_stored(self) -> None:
        """A checkpoint is stored: what comes of it may be told."""
        self._events.release()
        if self._begins:
            self._begins = False
            self._events.release()

    def _on_stated(self, stated: asyncio.Future[Any]) -> None:
        if not stated.cancelled() and stated.exception() is None:
            self._events.release()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Nobody waits for the outcome; a log that failed tells whoever uses it next."""
    if not future.cancelled():
        future.exception()
