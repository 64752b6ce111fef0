"""Checkpoints to put, and a look at what is stored of them."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from langmesh.bus import Bus
from langmesh.bus.reading import subjects_of
from langmesh.checkpoint import NatsSaver
from langmesh.wire.names import partition
from langmesh.wire.subjects import log
from tests.log.kit import bodies, chain_of


def at(thread: str, checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
    where = {"thread_id": thread, "checkpoint_ns": namespace}
    return {"configurable": where | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def put(
    saver: NatsSaver,
    parent: RunnableConfig,
    new: dict[str, Any],
    **metadata: Any,
) -> RunnableConfig:
    """Put a checkpoint after another one, in which some channels have new values."""
    before = await saver.aget_tuple(parent) if "checkpoint_id" in parent["configurable"] else None
    checkpoint = before.checkpoint if before else empty_checkpoint()
    checkpoint["id"] = str(uuid6())
    versions = {
        channel: saver.get_next_version(checkpoint["channel_versions"].get(channel), None)
        for channel in new
    }
    checkpoint["channel_versions"] |= versions
    checkpoint["channel_values"] |= new
    return await saver.aput(parent, checkpoint, {"source": "loop", "step": 1, **metadata}, versions)


async def listed(saver: NatsSaver, *args: Any, **kwargs: Any) -> list[CheckpointTuple]:
    return [one async for one in saver.alist(*args, **kwargs)]


def values_of(found: CheckpointTuple | None) -> dict[str, Any]:
    assert found is not None
    return found.checkpoint["channel_values"]


async def stored(bus: Bus, thread: str, namespace: str = "") -> list[bytes]:
    """The bodies of a chain's entries."""
    return [body for _, body in await bodies(bus, chain_of(thread, namespace))]


async def objects(bus: Bus) -> list[str]:
    """The large values that are stored."""
    return await subjects_of(bus, "OBJ_langmesh-values", "$O.langmesh-values.M.>")


def subject_of(thread: str) -> str:
    return log(partition("default", thread), "default", thread)
