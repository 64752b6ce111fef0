"""What keeps the store of threads in order: deleting, copying, pruning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from langmesh.bus import Bus
from langmesh.bus.streams import ensure_streams
from langmesh.checkpoint import codec
from langmesh.checkpoint.strict import StrictSerde
from langmesh.checkpoint.sync import SyncMethods
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Chain, Logs, ThreadState
from langmesh.log.condense import condensed
from langmesh.wire.log import CheckpointRecord, Record, UnknownRecord, WritesRecord
from langmesh.wire.streams import LOG

_COPY_BYTES: Final = 16 * 1024 * 1024
"""About how much of a thread is copied in one entry."""


class Upkeep(SyncMethods):
    """The part of a saver that LangGraph itself never calls."""

    _bus: Bus
    _logs: Logs
    _strict: StrictSerde
    _stream: asyncio.Lock
    _stream_checked: asyncio.Event

    async def setup(self) -> None:
        """Create the stream LOG, or verify that it is as declared; once per saver.

        Raises:
            MeshError: BROKER_UNAVAILABLE, STREAM_MISMATCH.
        """
        if not self._stream_checked.is_set():
            async with self._stream:
                if not self._stream_checked.is_set():
                    await ensure_streams(self._bus, [LOG])
                    self._stream_checked.set()

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints and writes of a thread.

        Raises:
            MeshError: INVALID_NAME, BROKER_UNAVAILABLE.
        """
        await self.setup()
        await self._logs.delete(str(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, by ``run_id`` of their metadata, with their writes.

        Reads every chain of the tenant. A delta channel loses what it was replayed from.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        runs = {str(run_id) for run_id in run_ids}
        if not runs:
            return
        await self.setup()

        def select(chain: Chain, state: ThreadState) -> set[str]:
            return {
                checkpoint_id
                for checkpoint_id, record in state.checkpoints.items()
                if codec.decode_metadata(self._strict, chain, record).get("run_id") not in runs
            }

        for chain in await self._logs.chains():
            await self._keep(chain, select)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread, with their whole history, to another one.

        What the target holds already stays; large values are shared.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        await self.setup()
        source, target = str(source_thread_id), str(target_thread_id)
        if source == target:
            return
        for chain in await self._logs.chains(source):
            state = await self._logs.shared(source, chain.namespace).refresh()
            records = [
                one for one in state.records() if isinstance(one, CheckpointRecord | WritesRecord)
            ]
            for part in _in_parts(records):
                await self._logs.shared(target, chain.namespace).commit(_missing(part))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the history of threads.

        Args:
            thread_ids: Whose.
            strategy: ``keep_latest`` keeps the latest checkpoint of each namespace, with its writes
                and with those ancestors that its delta channels are replayed from; ``delete`` keeps
                nothing.

        Raises:
            MeshError: INVALID_FIELD for another strategy; as :meth:`aget_tuple`.
        """
        if strategy not in ("keep_latest", "delete"):
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"strategy: {strategy!r} is neither 'keep_latest' nor 'delete'",
                remedy="Choose one of them.",
            )
        await self.setup()
        for thread_id in map(str, thread_ids):
            if strategy == "delete":
                await self._logs.delete(thread_id)
                continue
            for chain in await self._logs.chains(thread_id):
                await self._keep(
                    chain, lambda chain, state: codec.latest_to_keep(self._strict, chain, state)
                )

    async def _keep(
        self, chain: Chain, select: Callable[[Chain, ThreadState], Collection[str]]
    ) -> None:
        """Void a chain but for the selected checkpoints; leave it alone if that is all of them."""

        def kept(state: ThreadState) -> list[Record | UnknownRecord] | None:
            keep = select(chain, state)
            if len(keep) == len(state.checkpoints):
                return None
            return state.records(keep, journal=condensed([record for _, record in state.journal]))

        await self._logs.shared(chain.thread, chain.namespace).rebase(kept)


def _in_parts(records: Sequence[CheckpointRecord | WritesRecord]) -> list[list[Any]]:
    """Records in their order, in parts of about ``_COPY_BYTES``."""
    parts: list[list[Any]] = []
    size = _COPY_BYTES
    for record in records:
        if size >= _COPY_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(record)
        held = record.values if isinstance(record, CheckpointRecord) else record.writes
        size += sum(len(one.value.data) for one in held)
    return parts


def _missing(records: Sequence[CheckpointRecord | WritesRecord]) -> Any:
    """What of some records a chain lacks, for :meth:`ThreadLog.commit`."""

    async def build(state: ThreadState) -> list[Record]:
        missing: list[Record] = []
        for record in records:
            if isinstance(record, WritesRecord):
                if new := state.new_writes(record):
                    missing.append(msgspec.structs.replace(record, writes=new))
                continue
            held = all(state.values.get((v.channel, v.version)) == v.value for v in record.values)
            bare = msgspec.structs.replace(record, values=[])
            if not held or state.checkpoints.get(record.checkpoint_id) != bare:
                missing.append(record)
        return missing

    return build
