"""What a chain says that its thread is: checkpoints, channel values, pending writes.

Pure: no I/O, no clock, no entropy. Values stay as they were written; only a saver decodes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from langmesh.wire.log import (
    BaseRecord,
    ChannelValue,
    ChannelVersion,
    ChannelWrite,
    CheckpointRecord,
    Record,
    UnknownRecord,
    WritesRecord,
)
from langmesh.wire.messages import Value


class PendingWrite(NamedTuple):
    """One stored write of a task."""

    channel: str
    value: Value
    task_path: str


class ThreadState:
    """The fold of one chain's records.

    Attributes:
        checkpoints: By id, in the order in which they were first written; without their values.
        values: By channel and version.
        writes: By checkpoint id, then by task id and index.
        journal: The records of all other types, in order, with the number of their entry.
        latest: The greatest checkpoint id; empty if there is none.
    """

    __slots__ = ("checkpoints", "journal", "latest", "values", "writes")

    def __init__(self) -> None:
        self.checkpoints: dict[str, CheckpointRecord] = {}
        self.values: dict[tuple[str, ChannelVersion], Value] = {}
        self.writes: dict[str, dict[tuple[str, int], PendingWrite]] = {}
        self.journal: list[tuple[int, Record | UnknownRecord]] = []
        self.latest = ""

    def apply(self, number: int, records: Iterable[Record | UnknownRecord]) -> None:
        """Take in the records of the chain's entry of that number."""
        for record in records:
            match record:
                case CheckpointRecord():
                    self._checkpoint(record)
                case WritesRecord():
                    self._writes(record)
                case BaseRecord():
                    self.__init__()  # type: ignore[misc]
                case _:
                    self.journal.append((number, record))

    def _checkpoint(self, record: CheckpointRecord) -> None:
        for channel, version, value in map(_parts, record.values):
            self.values[channel, version] = value
        self.checkpoints[record.checkpoint_id] = (
            CheckpointRecord(
                checkpoint_id=record.checkpoint_id,
                parent_id=record.parent_id,
                checkpoint=record.checkpoint,
                metadata=record.metadata,
                versions=record.versions,
            )
            if record.values
            else record
        )
        self.latest = max(self.latest, record.checkpoint_id)

    def _writes(self, record: WritesRecord) -> None:
        kept = self.writes.setdefault(record.checkpoint_id, {})
        for write in record.writes:
            key = (record.task_id, write.index)
            if write.index < 0 or key not in kept:
                kept[key] = PendingWrite(write.channel, write.value, record.task_path)

    def new_writes(self, record: WritesRecord) -> list[ChannelWrite]:
        """Those writes of a record that would change anything."""
        kept = self.writes.get(record.checkpoint_id, {})
        return [
            write
            for write in record.writes
            if (found := kept.get((record.task_id, write.index))) is None
            or (write.index < 0 and found != (write.channel, write.value, record.task_path))
        ]

    def writes_of(self, checkpoint_id: str) -> list[tuple[str, PendingWrite]]:
        """A checkpoint's pending writes with their task ids, as a superstep applies them.

        In the order of task path, task id and index, which is LangGraph's ``writes_sort_key``.
        """
        kept = self.writes.get(checkpoint_id, {})
        keys = sorted(kept, key=lambda key: (kept[key].task_path, *key))
        return [(key[0], kept[key]) for key in keys]

    def values_of(self, checkpoint_id: str) -> dict[str, Value]:
        """The values of a checkpoint's channels; an empty channel has none."""
        versions = self.checkpoints[checkpoint_id].versions
        return {
            channel: value
            for channel, version in versions.items()
            if (value := self.values.get((channel, version))) is not None
        }

    def ancestors(self, checkpoint_id: str) -> list[str]:
        """Ids of the checkpoints before one, from its parent on, as far as they are kept."""
        found: dict[str, None] = {}
        current = self.checkpoints.get(checkpoint_id)
        while current is not None and current.parent_id and current.parent_id not in found:
            current = self.checkpoints.get(current.parent_id)
            if current is not None:
                found[current.checkpoint_id] = None
        return list(found)

    def records(
        self,
        keep: Collection[str] | None = None,
        *,
        journal: Collection[Record | UnknownRecord] | None = None,
        stray_writes: bool = True,
    ) -> list[Record | UnknownRecord]:
        """Records whose fold is this state, or the part of it that is kept.

        Args:
            keep: Ids of the checkpoints to keep, with their values and writes; None for all.
            journal: The other records to keep; None for all.
            stray_writes: Whether writes of checkpoints that are not there are kept.
        """
        records = [record for _, record in self.journal] if journal is None else list(journal)
        given: set[tuple[str, ChannelVersion]] = set()
        for checkpoint_id, record in self.checkpoints.items():
            if keep is not None and checkpoint_id not in keep:
                continue
            values = []
            for channel, value in self.values_of(checkpoint_id).items():
                version = record.versions[channel]
                if (channel, version) not in given:
                    given.add((channel, version))
                    values.append(ChannelValue(channel, version, value))
            records.append(
                CheckpointRecord(
                    checkpoint_id=checkpoint_id,
                    parent_id=record.parent_id,
                    checkpoint=record.checkpoint,
                    metadata=record.metadata,
                    versions=record.versions,
                    values=values,
                )
            )
        for checkpoint_id in self.writes:
            stray = checkpoint_id not in self.checkpoints
            if (stray and stray_writes) or (not stray and (keep is None or checkpoint_id in keep)):
                records += self._write_records(checkpoint_id)
        return records

    def _write_records(self, checkpoint_id: str) -> Iterable[WritesRecord]:
        by_task: dict[tuple[str, str], list[ChannelWrite]] = {}
        for (task_id, index), write in self.writes[checkpoint_id].items():
            by_task.setdefault((task_id, write.task_path), []).append(
                ChannelWrite(index, write.channel, write.value)
            )
        for (task_id, path), writes in by_task.items():
            yield WritesRecord(
                checkpoint_id=checkpoint_id, task_id=task_id, task_path=path, writes=writes
            )


def _parts(value: ChannelValue) -> tuple[str, ChannelVersion, Value]:
    return value.channel, value.version, value.value
