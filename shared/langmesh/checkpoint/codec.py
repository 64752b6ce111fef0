"""LangGraph's checkpoints as records of a chain, and back. Encodes and decodes; no I/O.

A checkpoint's channel values and versions stand beside it in its record, so that unchanged values
are found by channel and version and never stored again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)

from langmesh.checkpoint.strict import StrictSerde
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Chain, PendingWrite, ThreadState
from langmesh.wire.log import ChannelWrite, CheckpointRecord, WritesRecord
from langmesh.wire.messages import Value

_BESIDE = ("channel_values", "channel_versions")
DELTA_COUNTERS = "counters_since_delta_snapshot"


class Place(NamedTuple):
    """What a config addresses."""

    thread: str
    namespace: str
    checkpoint_id: str
    """Empty for the latest."""


def place_of(config: RunnableConfig) -> Place:
    """Read a config.

    Raises:
        MeshError: INVALID_FIELD if it names no thread.
    """
    configurable = config.get("configurable") or {}
    if configurable.get("thread_id") is None:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            "config.configurable.thread_id: missing",
            remedy='Pass {"configurable": {"thread_id": …}}.',
        )
    return Place(
        str(configurable["thread_id"]),
        str(configurable.get("checkpoint_ns") or ""),
        str(configurable.get("checkpoint_id") or ""),
    )


def config_of(chain: Chain, checkpoint_id: str) -> RunnableConfig:
    """The config that addresses a checkpoint."""
    return {
        "configurable": {
            "thread_id": chain.thread,
            "checkpoint_ns": chain.namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def encode_checkpoint(
    serde: StrictSerde,
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
) -> CheckpointRecord:
    """A checkpoint's record, without values.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE.
    """
    place = place_of(config)
    core = {key: part for key, part in checkpoint.items() if key not in _BESIDE}
    what = f"thread {place.thread!r}"
    return CheckpointRecord(
        checkpoint_id=checkpoint["id"],
        parent_id=place.checkpoint_id,
        checkpoint=serde.encode(core, what=f"{what}, checkpoint"),
        metadata=serde.encode(
            get_checkpoint_metadata(config, metadata), what=f"{what}, metadata of the checkpoint"
        ),
        versions=dict(checkpoint["channel_versions"]),
    )


def channels_to_store(
    state: ThreadState, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> ChannelVersions:
    """The channels whose values a checkpoint's entry has to hold, with their versions.

    Those that are new, and those that the chain lacks although LangGraph stored them before: the
    thread was deleted or pruned meanwhile.
    """
    versions = {**checkpoint["channel_versions"], **new_versions}
    return {
        channel: version
        for channel, version in versions.items()
        if channel in checkpoint["channel_values"]
        and (channel in new_versions or (channel, version) not in state.values)
    }


def encode_writes(
    serde: StrictSerde,
    place: Place,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
) -> WritesRecord:
    """The record of a task's writes.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE.
    """
    return WritesRecord(
        checkpoint_id=place.checkpoint_id,
        task_id=task_id,
        task_path=task_path,
        writes=[
            ChannelWrite(
                WRITES_IDX_MAP.get(channel, index),
                channel,
                serde.encode(
                    value, what=f"thread {place.thread!r}, task {task_id}: write to {channel!r}"
                ),
            )
            for index, (channel, value) in enumerate(writes)
        ],
    )


class Stored(NamedTuple):
    """One checkpoint as it is stored: what a tuple is decoded from, at one moment."""

    record: CheckpointRecord
    values: Mapping[str, Value]
    writes: Sequence[tuple[str, PendingWrite]]

    @classmethod
    def of(cls, state: ThreadState, checkpoint_id: str) -> Stored:
        """Take a checkpoint out of a state, which may change afterwards."""
        return cls(
            state.checkpoints[checkpoint_id],
            state.values_of(checkpoint_id),
            state.writes_of(checkpoint_id),
        )


def decode_metadata(serde: StrictSerde, chain: Chain, record: CheckpointRecord) -> dict[str, Any]:
    """A checkpoint's metadata.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE.
    """
    what = f"thread {chain.thread!r}, metadata of checkpoint {record.checkpoint_id}"
    metadata: dict[str, Any] = serde.decode(record.metadata, what=what)
    return metadata


def decode_tuple(serde: StrictSerde, chain: Chain, stored: Stored) -> CheckpointTuple:
    """A checkpoint as LangGraph wants it; all values are inline.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE.
    """
    record = stored.record
    what = f"thread {chain.thread!r}, checkpoint {record.checkpoint_id}"
    checkpoint: Any = serde.decode(record.checkpoint, what=what)
    checkpoint["channel_versions"] = dict(record.versions)
    checkpoint["channel_values"] = {
        channel: serde.decode(value, what=f"{what}, channel {channel!r}")
        for channel, value in stored.values.items()
    }
    return CheckpointTuple(
        config=config_of(chain, record.checkpoint_id),
        checkpoint=checkpoint,
        metadata=decode_metadata(serde, chain, record),  # type: ignore[arg-type]
        parent_config=config_of(chain, record.parent_id) if record.parent_id else None,
        pending_writes=[
            (task, write.channel, serde.decode(write.value, what=f"{what}, write of {task}"))
            for task, write in stored.writes
        ],
    )


class DeltaPath(NamedTuple):
    """What one channel's value is replayed from: stored, oldest first."""

    writes: list[tuple[str, PendingWrite]]
    seed: Value | None


def delta_path(state: ThreadState, checkpoint_id: str, channel: str) -> DeltaPath:
    """A channel's writes along the ancestors of a checkpoint, back to its last stored value."""
    newest_first: list[tuple[str, PendingWrite]] = []
    seed = None
    for ancestor in state.ancestors(checkpoint_id):
        newest_first += [
            (task, write)
            for task, write in reversed(state.writes_of(ancestor))
            if write.channel == channel
        ]
        version = state.checkpoints[ancestor].versions.get(channel)
        if version is not None and (seed := state.values.get((channel, version))) is not None:
            break
    return DeltaPath(newest_first[::-1], seed)


def decode_delta(serde: StrictSerde, chain: Chain, path: DeltaPath) -> DeltaChannelHistory:
    """A channel's history as LangGraph wants it; all values are inline.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE.
    """
    what = f"thread {chain.thread!r}, history of a channel"
    history = DeltaChannelHistory(
        writes=[
            (task, write.channel, serde.decode(write.value, what=what))
            for task, write in path.writes
        ]
    )
    if path.seed is not None:
        history["seed"] = serde.decode(path.seed, what=what)
    return history


def latest_to_keep(serde: StrictSerde, chain: Chain, state: ThreadState) -> set[str]:
    """The latest checkpoint, and the ancestors that its delta channels are replayed from."""
    if not state.latest:
        return set()
    keep = {state.latest}
    counters = decode_metadata(serde, chain, state.checkpoints[state.latest]).get(DELTA_COUNTERS)
    open_channels = set(counters or ())
    for ancestor in state.ancestors(state.latest):
        if not open_channels:
            break
        keep.add(ancestor)
        versions = state.checkpoints[ancestor].versions
        open_channels -= {
            channel
            for channel in open_channels
            if (channel, versions.get(channel, "")) in state.values
        }
    return keep
