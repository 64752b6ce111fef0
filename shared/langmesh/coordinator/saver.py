"""The checkpoints of an owned thread: LangGraph's loop writes them through this to the log.

One entry per superstep holds the checkpoint, what its tasks wrote, which tasks were applied and how
far clients were told, all or nothing. What tasks write is in their slots until then (R6), so
``aput_writes`` only remembers it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from langmesh.checkpoint import codec
from langmesh.checkpoint.codec import Stored
from langmesh.checkpoint.strict import StrictSerde
from langmesh.clock import new_id
from langmesh.errors import MeshError
from langmesh.log import ThreadLog, ThreadState
from langmesh.log.chain import Tail
from langmesh.log.values import Values
from langmesh.wire.codec import BLOB_BYTES_MIN
from langmesh.wire.log import (
    ChannelValue,
    ChannelWrite,
    CheckpointRecord,
    Record,
    WritesRecord,
)
from langmesh.wire.messages import Value


class Beside(Protocol):
    """What else is stated in one entry with a checkpoint."""

    @property
    def ready(self) -> bool:
        """Whether the records can be asked for without :meth:`prepare`."""

    async def prepare(self) -> None:
        """Make them ready."""

    def records(self, checkpoint_id: str) -> Sequence[Record]:
        """The records that go with a checkpoint; each is asked for once."""


class ThreadSaver(BaseCheckpointSaver[str]):
    """LangGraph's checkpointer on the log of a thread that this process owns.

    Only the methods with ``a`` are there: the coordinator's loop uses no other.

    Args:
        log: The thread's log, loaded.
        values: Where large values are kept.
        serde: Allows the types of the graph's schemas.
        beside: Asked for what else is stated with each checkpoint.
        stored: Called when a checkpoint is stored.
        hidden: Checkpoints that are not listed, nor told as another one's parent.
    """

    def __init__(
        self,
        log: ThreadLog,
        values: Values,
        serde: StrictSerde,
        *,
        beside: Beside | None = None,
        stored: Callable[[], None] = lambda: None,
        hidden: Collection[str] = (),
    ) -> None:
        super().__init__(serde=serde.serializer)
        self._log = log
        self._values = values
        self._strict = serde
        self._beside = beside
        self._stored = stored
        self._hidden = hidden
        self._writes: list[WritesRecord] = []
        """Writes that are in no entry yet."""
        self._commits: dict[str, asyncio.Future[Tail]] = {}
        """Of the checkpoints that somebody stores or waits for."""
        self._failure: BaseException | None = None

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """The version after one: a growing number, then what tells apart the branches of a fork."""
        number = int(str(current).partition(".")[0]) if current is not None else 0
        return f"{number + 1:016}.{new_id()[:12]}"

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be stored."""
        return self._failure is not None

    async def committed(self, checkpoint_id: str) -> None:
        """Wait until a checkpoint is stored (R2).

        Raises:
            MeshError: FENCED and the like: it never will be.
        """
        if self._failure is not None:
            raise self._failure
        if checkpoint_id not in (await self._log.load()).checkpoints:
            # LangGraph hands it over in the background, perhaps later than its tasks.
            await asyncio.shield(self._commit_of(checkpoint_id))

    def _commit_of(self, checkpoint_id: str) -> asyncio.Future[Tail]:
        if (commit := self._commits.get(checkpoint_id)) is None:
            commit = self._commits[checkpoint_id] = asyncio.get_running_loop().create_future()
        return commit

    def _fail(self, exc: BaseException) -> None:
        """LangGraph hands no checkpoint over after one that could not be stored."""
        self._failure = exc
        for commit in self._commits.values():
            if not commit.done():
                commit.set_exception(exc)
                # Whoever waits for it is told; nobody may be there.
                commit.exception()

    def take_writes(self) -> list[WritesRecord]:
        """The writes that are in no entry yet; whoever takes them appends them."""
        taken, self._writes = self._writes, []
        return taken

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config addresses, or the thread's latest.

        Raises:
            MeshError: FENCED, BROKEN_CHAIN, BROKER_UNAVAILABLE, VALUE_NOT_SERIALIZABLE.
        """
        state = self._with_writes(await self._log.load())
        wanted = codec.place_of(config).checkpoint_id or state.latest
        if wanted not in state.checkpoints:
            return None
        return await self._decoded(Stored.of(state, wanted))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The thread's checkpoints, newest first.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        state = self._with_writes(await self._log.load())
        only = codec.place_of(config).checkpoint_id if config is not None else ""
        bound = codec.place_of(before).checkpoint_id if before is not None else ""
        given = 0
        for checkpoint_id in sorted(state.checkpoints, reverse=True):
            if (only and checkpoint_id != only) or (bound and checkpoint_id >= bound):
                continue
            if checkpoint_id in self._hidden and not only:
                continue
            if limit is not None and given >= limit:
                return
            found = await self._decoded(Stored.of(state, checkpoint_id))
            if all(found.metadata.get(key) == value for key, value in (filter or {}).items()):
                given += 1
                yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, in one entry with all that led to it.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        checkpoint_id = checkpoint["id"]
        self._commit_of(checkpoint_id)
        try:
            record = self._encoded(
                await self._log.load(), config, checkpoint, metadata, new_versions
            )
            tail = await self._append(record)
        except BaseException as exc:
            self._fail(exc)
            raise
        self._commit(checkpoint_id, tail)
        return codec.config_of(self._log.chain, checkpoint_id)

    def put_at_once(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> asyncio.Future[Tail] | None:
        """Like :meth:`aput`, sending before it returns; None, and nothing done, if it has to wait.

        Returns:
            Resolves when the checkpoint is stored, or to what :meth:`aput` would raise.
        """
        state = self._log.state
        if state is None or self._failure is not None:
            return None
        if self._beside is not None and not self._beside.ready:
            return None
        checkpoint_id = checkpoint["id"]
        commit = self._commit_of(checkpoint_id)
        try:
            record = self._encoded(state, config, checkpoint, metadata, new_versions)
            if any(_is_large(each.value) for each in record.values):
                sent: asyncio.Future[Tail] = asyncio.ensure_future(self._append(record))
            else:
                sent = self._send(record)
        except MeshError as exc:
            self._fail(exc)
            return commit
        sent.add_done_callback(functools.partial(self._on_sent, checkpoint_id))
        return commit

    def _on_sent(self, checkpoint_id: str, sent: asyncio.Future[Tail]) -> None:
        if sent.cancelled():
            self._fail(asyncio.CancelledError())
        elif (problem := sent.exception()) is not None:
            self._fail(problem)
        else:
            self._commit(checkpoint_id, sent.result())

    def _commit(self, checkpoint_id: str, tail: Tail) -> None:
        self._stored()
        commit = self._commits.pop(checkpoint_id)
        if not commit.done():
            commit.set_result(tail)

    def _encoded(
        self,
        state: ThreadState,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> CheckpointRecord:
        record = codec.encode_checkpoint(self._strict, config, checkpoint, metadata)
        values = []
        for channel, version in codec.channels_to_store(state, checkpoint, new_versions).items():
            what = f"state channel {channel!r}"
            value = self._strict.encode(checkpoint["channel_values"][channel], what=what)
            values.append(ChannelValue(channel, version, value))
        return msgspec.structs.replace(record, values=values)

    async def _append(self, record: CheckpointRecord) -> Tail:
        values = [
            ChannelValue(each.channel, each.version, await self._stowed(each.value))
            for each in record.values
        ]
        if self._beside is not None:
            await self._beside.prepare()
        return await self._send(msgspec.structs.replace(record, values=values))

    def _send(self, record: CheckpointRecord) -> asyncio.Future[Tail]:
        beside = () if self._beside is None else self._beside.records(record.checkpoint_id)
        # LangGraph's own first task may finish before the checkpoint that it is of is sent; with
        # its writes in that checkpoint's entry, a successor would find nothing left to run.
        early = [each for each in self._writes if each.checkpoint_id == record.checkpoint_id]
        before = [each for each in self._writes if each.checkpoint_id != record.checkpoint_id]
        self._writes = early
        return self._log.append_nowait([*before, record, *beside])

    async def _stowed(self, value: Value) -> Value:
        return await self._values.stow(value) if _is_large(value) else value

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Remember what a task wrote; it goes into the next entry.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE.
        """
        place = codec.place_of(config)
        await self._remember(codec.encode_writes(self._strict, place, writes, task_id, task_path))

    def put_writes_at_once(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> asyncio.Future[None]:
        """Like :meth:`aput_writes`, done when it returns unless a value is large.

        Returns:
            Resolves when it is done, or to what :meth:`aput_writes` would raise.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            place = codec.place_of(config)
            record = codec.encode_writes(self._strict, place, writes, task_id, task_path)
        except MeshError as exc:
            done.set_exception(exc)
            return done
        if any(_is_large(each.value) for each in record.writes):
            return asyncio.ensure_future(self._remember(record))
        self._writes.append(record)
        done.set_result(None)
        return done

    async def _remember(self, record: WritesRecord) -> None:
        stowed = [
            ChannelWrite(each.index, each.channel, await self._stowed(each.value))
            for each in record.writes
        ]
        self._writes.append(msgspec.structs.replace(record, writes=stowed))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are replayed from.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        state = self._with_writes(await self._log.load())
        target = codec.place_of(config).checkpoint_id or state.latest
        found: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            path = codec.delta_path(state, target, channel)
            seed = None if path.seed is None else await self._values.fetch(path.seed)
            writes = [
                (task, write._replace(value=await self._values.fetch(write.value)))
                for task, write in path.writes
            ]
            found[channel] = codec.decode_delta(
                self._strict, self._log.chain, codec.DeltaPath(writes, seed)
            )
        return found

    def _with_writes(self, state: ThreadState) -> ThreadState:
        """The state as it will be when the remembered writes are in the log."""
        if not self._writes:
            return state
        shown = ThreadState()
        shown.checkpoints, shown.values, shown.latest = (
            state.checkpoints,
            state.values,
            state.latest,
        )
        concerned = {record.checkpoint_id for record in self._writes}
        copied = {each: dict(state.writes.get(each, {})) for each in concerned}
        shown.writes = {**state.writes, **copied}
        shown.apply(0, self._writes)
        return shown

    async def _decoded(self, stored: Stored) -> CheckpointTuple:
        inline = Stored(
            stored.record,
            {name: await self._values.fetch(one) for name, one in stored.values.items()},
            [
                (task, write._replace(value=await self._values.fetch(write.value)))
                for task, write in stored.writes
            ],
        )
        if stored.record.parent_id in self._hidden:
            parent = await self._shown_parent(stored.record)
            inline = inline._replace(
                record=msgspec.structs.replace(stored.record, parent_id=parent)
            )
        return codec.decode_tuple(self._strict, self._log.chain, inline)

    async def _shown_parent(self, record: CheckpointRecord) -> str:
        """The nearest ancestor that the history shows; empty if there is none."""
        state = await self._log.load()
        shown = (each for each in state.ancestors(record.checkpoint_id) if each not in self._hidden)
        return next(shown, "")


def _is_large(value: Value) -> bool:
    """Whether a value goes by reference."""
    return len(value.data) >= BLOB_BYTES_MIN
