"""What a pruned chain still says of its thread's runs. Pure: no I/O, no clock, no entropy."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from langmesh.wire.log import (
    Begun,
    Record,
    RunEndedRecord,
    RunRecord,
    SuperstepRecord,
    UnknownRecord,
)


def condensed(records: Sequence[Record | UnknownRecord]) -> list[Record | UnknownRecord]:
    """The records of runs that are worth keeping when the history goes.

    Of a run that is not over all stays. Of those that are over only the last one stays, and of that
    what began it, that it made a checkpoint, and how it ended, with the events that may not be
    stored yet. What is no record of a run stays.
    """
    last: dict[str, RunRecord] = {}
    for record in records:
        if isinstance(record, RunRecord):
            last[record.run_id] = record
    over = {run for run, record in last.items() if isinstance(record, RunEndedRecord)}
    shown = next(reversed(last.values()), None)
    kept: list[Record | UnknownRecord] = []
    step: SuperstepRecord | None = None
    for record in records:
        if not isinstance(record, RunRecord) or record.run_id not in over:
            kept.append(record)
        elif shown is None or record.run_id != shown.run_id:
            continue
        elif isinstance(record, Begun):
            kept.append(msgspec.structs.replace(record, events=[]))
            step = None
        elif isinstance(record, SuperstepRecord):
            step = record
        elif record is shown:
            if step is not None:
                kept.append(msgspec.structs.replace(step, events=[], applied=[]))
            kept.append(record)
    return kept
