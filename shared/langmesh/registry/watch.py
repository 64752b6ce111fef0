"""Following a prefix: one snapshot, then every change in order, across any loss of the connection.

Only two things tell how far a watch has come: the revision of an event, and etcd's own progress
answer. Every other answer's header carries the revision of the *store*; resuming from it would skip
events that were still under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc.aio
from etcd3 import etcdrpc

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd
from langmesh.registry.model import (
    Change,
    Changes,
    Entry,
    Snapshot,
    key_bytes,
    key_text,
    prefix_end,
    to_entry,
)
from langmesh.registry.transport import AnswerTooLarge, HistoryLost

_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0
_DELETED: Final = 1
"""``mvccpb.Event.DELETE``."""

_logger = logging.getLogger(__name__)


async def watch(etcd: Etcd, prefix: str) -> AsyncGenerator[Snapshot | Changes, None]:
    """Yield one Snapshot, then Changes for ever.

    A further Snapshot comes whenever the changes since the last answer cannot be had: etcd
    compacted them, or the store was wiped, restored or replaced. Otherwise every change arrives
    exactly once, in order. While etcd is away nothing is yielded.

    Raises:
        MeshError: REGISTRY_REJECTED when etcd refuses the watch, e.g. for want of permission.
    """
    position: _Position | None = None
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            if position is None or not await position.is_in(etcd):
                position = None
                snapshot = await etcd.list(prefix)
                position = _Position(snapshot)
                yield snapshot
            async with contextlib.aclosing(_follow(etcd, prefix, position)) as batches:
                async for changes in batches:
                    pause_s = _PAUSE_FIRST_S
                    yield changes
        except (HistoryLost, AnswerTooLarge) as exc:
            _logger.info("reading %s anew: %s", prefix, exc.message)
            position = None
        except MeshError as exc:
            if exc.code is not ErrorCode.REGISTRY_UNAVAILABLE:
                raise
            _logger.info("watch of %s broke and will resume: %s", prefix, exc.message)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


class _Position:
    """How far a watch has come, and a sample of what it saw there."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.revision = snapshot.revision
        self.cluster_id = snapshot.cluster_id
        self._sample: Entry | None = max(
            snapshot.entries.values(), key=lambda entry: entry.mod_revision, default=None
        )
        self._sample_deleted = False

    def advance(self, batch: Changes) -> None:
        self.revision = batch.revision
        for change in batch.changes:
            if change.entry is not None:
                self._sample, self._sample_deleted = change.entry, False
            elif self._sample is not None and self._sample.key == change.key:
                self._sample_deleted = True

    async def is_in(self, etcd: Etcd) -> bool:
        """Whether the store still is the one in which this position was reached.

        A wiped store that was filled again may be past our revision without having our history, and
        its cluster id may be the old one. So the sample is read in the past, where it cannot have
        changed.
        """
        if self._sample is None:
            return (
                False  # nothing was there, so there is nothing to compare and nothing much to read
            )
        at = self._sample.mod_revision if self._sample_deleted else self.revision
        return await etcd.get(self._sample.key, revision=at) == self._sample


async def _follow(etcd: Etcd, prefix: str, position: _Position) -> AsyncGenerator[Changes, None]:
    """Yield the changes after `position`, and move it, until the stream ends or breaks."""
    transport = etcd.transport
    call = transport.stubs.watches.Watch(
        # Without this, a member that is cut off from the others keeps its watches open and silent.
        metadata=(*await transport.metadata(), ("hasleader", "true")),
        wait_for_ready=True,
    )
    try:
        await call.write(_create(prefix, position.revision + 1))
        while (answer := await call.read()) is not grpc.aio.EOF:
            _check(answer, prefix, position, etcd)
            if answer.canceled:
                return
            if answer.events:
                # All events of a revision share an answer, so the last one's revision is complete.
                batch = Changes(
                    answer.events[-1].kv.mod_revision,
                    tuple(_to_change(event) for event in answer.events),
                )
                position.advance(batch)
                yield batch
            elif not answer.created:
                position.revision = max(position.revision, answer.header.revision)
    except grpc.aio.AioRpcError as exc:
        if not transport.forget_stale_token(exc.details() or ""):
            transport.fail(exc, f"the watch of {prefix}", transport.timeout_s)
    except asyncio.InvalidStateError as exc:
        raise MeshError(
            ErrorCode.REGISTRY_UNAVAILABLE, f"{transport.where} ended the watch of {prefix}"
        ) from exc
    finally:
        call.cancel()


def _create(prefix: str, revision: int) -> Any:
    start = key_bytes(prefix)
    return etcdrpc.WatchRequest(
        create_request=etcdrpc.WatchCreateRequest(
            key=start or b"\0",
            range_end=prefix_end(start),
            start_revision=revision,
            progress_notify=True,
        )
    )


def _check(answer: Any, prefix: str, position: _Position, etcd: Etcd) -> None:
    """Raise if the answer says that the watch cannot go on."""
    where = etcd.transport.where
    if answer.compact_revision:
        raise HistoryLost(f"{where} compacted up to revision {answer.compact_revision}")
    if answer.header.cluster_id != position.cluster_id:
        raise HistoryLost(f"{where} is another cluster than before")
    if answer.created and answer.header.revision < position.revision:
        raise HistoryLost(f"{where} went back to revision {answer.header.revision}")
    if answer.canceled and not etcd.transport.forget_stale_token(answer.cancel_reason):
        reason = answer.cancel_reason or "no reason given"
        raise MeshError(
            ErrorCode.REGISTRY_REJECTED if "denied" in reason else ErrorCode.REGISTRY_UNAVAILABLE,
            f"{where} cancelled the watch of {prefix} ({reason})",
        )


def _to_change(event: Any) -> Change:
    deleted = event.type == _DELETED
    return Change(
        key=key_text(event.kv.key),
        revision=event.kv.mod_revision,
        entry=None if deleted else to_entry(event.kv),
    )
