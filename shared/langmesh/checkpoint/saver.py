"""``NatsSaver``: LangGraph's checkpointer on the chains of stream LOG."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Self

import msgspec
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langmesh.bus import Bus, connect
from langmesh.checkpoint import codec
from langmesh.checkpoint.codec import Stored
from langmesh.checkpoint.strict import StrictSerde, strict_serializer
from langmesh.checkpoint.upkeep import Upkeep
from langmesh.clock import new_id, new_instance
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Chain, Logs, PendingWrite, ThreadLog, ThreadState
from langmesh.log.logs import CACHE_BYTES
from langmesh.log.patience import PATIENCE_S
from langmesh.wire.log import (
    ChannelValue,
    ChannelWrite,
    CheckpointRecord,
    Record,
)
from langmesh.wire.messages import Value


class NatsSaver(Upkeep):
    """Keeps checkpoints in JetStream, one hash-linked chain per thread and namespace.

    Several processes may use one thread; a write is durable when its call returns. The methods with
    ``a`` belong to the event loop that the saver was made in, the others to any other thread.

    Example:
        >>> async with NatsSaver.connect("nats://127.0.0.1:4222") as saver:
        ...     graph = builder.compile(checkpointer=saver)
        ...     await graph.ainvoke(values, {"configurable": {"thread_id": "t1"}})

    Args:
        bus: An open connection.
        tenant: Whose threads these are.
        allow: Types that stored values may be of, beside plain data and LangChain's and LangGraph's
            own, or their modules and names; only without ``serde``.
        serde: LangGraph's serializer or an encrypting one around it, both strict; a strict
            ``JsonPlusSerializer`` when omitted.
        cache_bytes: How much of idle threads is kept in memory.
        patience_s: Seconds that a call waits for a broker that is away.

    Raises:
        MeshError: INVALID_SETTING for a serializer that would run code that stored values name;
            NOT_RUNNING outside of an event loop.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        tenant: str = "default",
        allow: Collection[type | tuple[str, ...]] = (),
        serde: SerializerProtocol | None = None,
        cache_bytes: int = CACHE_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if serde is not None and allow:
            raise MeshError(
                ErrorCode.INVALID_SETTING,
                "allow: a serde has its own list",
                remedy="Pass the types as allowed_msgpack_modules of the serializer.",
            )
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError as exc:
            raise MeshError(
                ErrorCode.NOT_RUNNING,
                "NatsSaver is made outside of an event loop",
                remedy="Make it inside of `async with NatsSaver.connect(…)`.",
            ) from exc
        super().__init__(serde=serde or strict_serializer(allow))
        self._bus = bus
        self._logs = Logs(
            bus,
            tenant=tenant,
            writer=new_instance("saver"),
            cache_bytes=cache_bytes,
            patience_s=patience_s,
        )
        # Shared by all clones, which differ in what they allow.
        self._stream = asyncio.Lock()
        self._stream_checked = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        nats_url: str,
        *,
        tenant: str = "default",
        allow: Collection[type | tuple[str, ...]] = (),
        serde: SerializerProtocol | None = None,
        cache_bytes: int = CACHE_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> AsyncIterator[Self]:
        """Connect to a nats-server with JetStream, and disconnect at the end of the block.

        Args:
            nats_url: ``nats://HOST:PORT``.
            tenant: As for the class, like the rest.
            allow: .
            serde: .
            cache_bytes: .
            patience_s: .

        Raises:
            MeshError: BROKER_UNAVAILABLE, STREAM_MISMATCH, INVALID_SETTING.
        """
        async with connect(nats_url, name="langmesh saver") as bus:
            saver = cls(
                bus,
                tenant=tenant,
                allow=allow,
                serde=serde,
                cache_bytes=cache_bytes,
                patience_s=patience_s,
            )
            await saver.setup()
            try:
                yield saver
            finally:
                saver.close()

    def close(self) -> None:
        """Send nothing more; for a saver on a connection that outlives it. Its clones end too."""
        self._logs.close()

    @property
    def serde(self) -> SerializerProtocol:
        """How values are stored; checked whenever it is set."""
        return self._serializer

    @serde.setter
    def serde(self, serializer: SerializerProtocol) -> None:
        self._strict = StrictSerde(serializer)
        self._serializer = serializer

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """The version after one: a growing number, then what tells apart the branches of a fork."""
        number = int(str(current).partition(".")[0]) if current is not None else 0
        return f"{number + 1:016}.{new_id()[:12]}"

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config addresses, or the latest of its thread and namespace.

        Raises:
            MeshError: INVALID_FIELD, INVALID_NAME, BROKEN_CHAIN, BROKER_UNAVAILABLE, or
                VALUE_NOT_SERIALIZABLE naming a type that is not allowed.
        """
        place = codec.place_of(config)
        log = await self._log(place.thread, place.namespace)
        return await self._tuple(log.chain, await log.refresh(), place.checkpoint_id)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints by descending id, which is the newest first.

        Args:
            config: Whose: of a checkpoint, of a namespace, of a thread with all its namespaces, or
                of all threads of the tenant when None.
            filter: What their metadata must hold.
            before: Only those before this checkpoint.
            limit: At most so many.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        found: list[tuple[str, Chain]] = []
        for chain in await self._chains(config):
            state = await self._logs.shared(chain.thread, chain.namespace).refresh()
            found += [
                (checkpoint_id, chain)
                for checkpoint_id, record in state.checkpoints.items()
                if self._matches(chain, record, config, filter, before)
            ]
        found.sort(key=lambda one: one[0], reverse=True)
        for checkpoint_id, chain in found[: None if limit is None else max(limit, 0)]:
            state = await self._logs.shared(chain.thread, chain.namespace).load()
            if (one := await self._tuple(chain, state, checkpoint_id)) is not None:
                yield one

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint with the values that are new, and return the config that addresses it.

        Raises:
            MeshError: As :meth:`aget_tuple`; after BROKER_UNAVAILABLE it may or may not be stored.
        """
        place = codec.place_of(config)
        log = await self._log(place.thread, place.namespace)
        bare = codec.encode_checkpoint(self._strict, config, checkpoint, metadata)
        prepared: dict[str, Value] = {}

        async def build(state: ThreadState) -> list[Record]:
            values: list[ChannelValue] = []
            for channel, version in codec.channels_to_store(
                state, checkpoint, new_versions
            ).items():
                if channel not in prepared:
                    what = f"thread {place.thread!r}, channel {channel!r}"
                    value = self._strict.encode(checkpoint["channel_values"][channel], what=what)
                    prepared[channel] = await self._logs.values.stow(value)
                if state.values.get((channel, version)) != prepared[channel]:
                    values.append(ChannelValue(channel, version, prepared[channel]))
            record = msgspec.structs.replace(bare, values=values)
            return [] if state.checkpoints.get(bare.checkpoint_id) == record else [record]

        await log.commit(build)
        return codec.config_of(log.chain, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote, once: what is there already stays, but for LangGraph's own.

        Raises:
            MeshError: As :meth:`aput`.
        """
        place = codec.place_of(config)
        log = await self._log(place.thread, place.namespace)
        record = codec.encode_writes(self._strict, place, writes, task_id, task_path)
        stowed = [
            ChannelWrite(write.index, write.channel, await self._logs.values.stow(write.value))
            for write in record.writes
        ]
        record = msgspec.structs.replace(record, writes=stowed)

        async def build(state: ThreadState) -> list[Record]:
            new = state.new_writes(record)
            return [msgspec.structs.replace(record, writes=new)] if new else []

        await log.commit(build)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are replayed from: writes along the ancestors, and a stored value.

        Raises:
            MeshError: As :meth:`aget_tuple`.
        """
        place = codec.place_of(config)
        log = await self._log(place.thread, place.namespace)
        state = await log.refresh()
        target = place.checkpoint_id or state.latest
        paths = {channel: codec.delta_path(state, target, channel) for channel in channels}
        histories: dict[str, DeltaChannelHistory] = {}
        for channel, path in paths.items():
            seed = None if path.seed is None else await self._logs.values.fetch(path.seed)
            inline = codec.DeltaPath(await self._fetch_writes(path.writes), seed)
            histories[channel] = codec.decode_delta(self._strict, log.chain, inline)
        return histories

    async def _log(self, thread: str, namespace: str) -> ThreadLog:
        await self.setup()
        return self._logs.shared(thread, namespace)

    async def _chains(self, config: RunnableConfig | None) -> list[Chain]:
        await self.setup()
        configurable = (config or {}).get("configurable") or {}
        if configurable.get("thread_id") is None:
            return await self._logs.chains()
        thread, namespace = str(configurable["thread_id"]), configurable.get("checkpoint_ns")
        if namespace is None:
            return await self._logs.chains(thread)
        return [self._logs.shared(thread, str(namespace)).chain]

    def _matches(
        self,
        chain: Chain,
        record: CheckpointRecord,
        config: RunnableConfig | None,
        wanted: dict[str, Any] | None,
        before: RunnableConfig | None,
    ) -> bool:
        only, bound = _id_of(config), _id_of(before)
        if (only and record.checkpoint_id != only) or (bound and record.checkpoint_id >= bound):
            return False
        if not wanted:
            return True
        metadata = codec.decode_metadata(self._strict, chain, record)
        return all(metadata.get(key) == value for key, value in wanted.items())

    async def _tuple(
        self, chain: Chain, state: ThreadState, checkpoint_id: str
    ) -> CheckpointTuple | None:
        checkpoint_id = checkpoint_id or state.latest
        if checkpoint_id not in state.checkpoints:
            return None
        stored = Stored.of(state, checkpoint_id)
        inline = Stored(
            stored.record,
            {name: await self._logs.values.fetch(one) for name, one in stored.values.items()},
            await self._fetch_writes(stored.writes),
        )
        return codec.decode_tuple(self._strict, chain, inline)

    async def _fetch_writes(
        self, writes: Sequence[tuple[str, PendingWrite]]
    ) -> list[tuple[str, PendingWrite]]:
        return [
            (task, write._replace(value=await self._logs.values.fetch(write.value)))
            for task, write in writes
        ]


def _id_of(config: RunnableConfig | None) -> str:
    return str(((config or {}).get("configurable") or {}).get("checkpoint_id") or "")
