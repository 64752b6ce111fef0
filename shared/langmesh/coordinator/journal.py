"""How a thread's runs stand, as its log tells. Pure: no I/O, no clock, no entropy.

Rule 1: a run is over when its last record says so, and waits when that says that it asks.
Rule 2: otherwise whoever owns the thread drives it. If no checkpoint followed the record that began
the loop, the loop begins anew with the same submission; else it goes on from the latest checkpoint.
Rule 3: going on is not resuming (R7): gates that the last checkpoint leads to are still closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from langmesh.wire.log import (
    Begun,
    Record,
    RunCancellingRecord,
    RunEndedRecord,
    RunInterruptedRecord,
    RunRecord,
    RunStartedRecord,
    SuperstepRecord,
    UnknownRecord,
)

Phase = Literal["running", "asking", "ended"]


@dataclass(slots=True)
class LastRun:
    """The last run of a thread."""

    started: RunStartedRecord
    begun: Begun
    """What the loop was last given: the start, or the answer to the last question."""
    phase: Phase = "running"
    status: str = ""
    """How it ended, as in ``run.ended.v1``."""
    cancelling: bool = False
    step: SuperstepRecord | None = None
    """The last superstep since `begun`."""
    seq: int = 0
    """Number of the last event that the log fixes."""
    events: list[bytes] = field(default_factory=list)
    """Those of them that were not known to be stored."""
    supersteps: int = 0
    tasks: int = 0


@dataclass(slots=True)
class Journal:
    """The fold of the records about runs."""

    last: LastRun | None = None
    submissions: set[tuple[str, int]] = field(default_factory=set)
    """Epoch and sequence of every submission that began or continued a run."""
    hidden: set[str] = field(default_factory=set)
    """Checkpoints that the thread's history does not show."""

    def apply(self, records: Iterable[Record | UnknownRecord]) -> None:
        """Take in the next records."""
        for record in records:
            if isinstance(record, RunRecord):
                self._take(record)

    def _take(self, record: RunRecord) -> None:
        if isinstance(record, Begun):
            self.submissions.add((record.submit_epoch, record.submit_seq))
        if isinstance(record, RunStartedRecord):
            self.last = LastRun(record, record)
        run = self.last
        if run is None or run.started.run_id != record.run_id:
            return
        if not isinstance(record, RunCancellingRecord):
            run.seq, run.events = record.seq, record.events
        match record:
            case SuperstepRecord():
                self._step(run, record)
            case RunInterruptedRecord():
                run.phase = "asking"
            case RunCancellingRecord():
                run.cancelling = True
            case RunEndedRecord():
                run.phase, run.status = "ended", record.status
            case Begun():
                run.begun, run.phase, run.step = record, "running", None
            case _:
                pass

    def _step(self, run: LastRun, record: SuperstepRecord) -> None:
        if run.step is not None and run.begun.shows_last:
            self.hidden.add(run.step.checkpoint_id)
        run.step = record
        run.supersteps += bool(record.applied)
        run.tasks += len(record.applied)


def gate(
    checkpoint: Any,
    *,
    applied: Collection[str],
    following: Collection[str],
    interrupt_after: Collection[str],
    interrupt_before: Collection[str],
) -> bool:
    """Whether the loop stops for a human at a checkpoint, before it does anything else.

    As LangGraph's ``should_interrupt`` has it: only if a channel was written since the last stop.

    Args:
        checkpoint: LangGraph's checkpoint, as it was stored.
        applied: Nodes of the superstep that made it.
        following: Nodes of the next one.
        interrupt_after: The graph's nodes to stop after.
        interrupt_before: The graph's nodes to stop before.
    """
    if not (set(applied) & set(interrupt_after) or set(following) & set(interrupt_before)):
        return False
    seen = checkpoint["versions_seen"].get("__interrupt__", {})
    return any(
        channel not in seen or version > seen[channel]
        for channel, version in checkpoint["channel_versions"].items()
    )
