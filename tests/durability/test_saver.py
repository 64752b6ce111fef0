"""A coordinator's checkpointer at once does what it does in a task of its own."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint

from langmesh.checkpoint.strict import StrictSerde, strict_serializer
from langmesh.coordinator.saver import ThreadSaver
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Fenced, Logs
from langmesh.testing import LocalMesh
from langmesh.wire.codec import BLOB_BYTES_MIN

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
LARGE = "x" * BLOB_BYTES_MIN


def saver_of(mesh: LocalMesh, *, writer: str = "w") -> ThreadSaver:
    logs = Logs(mesh.bus, tenant="default", writer=writer)
    return ThreadSaver(logs.own("t"), logs.values, StrictSerde(strict_serializer()))


def holding(value: Any) -> Checkpoint:
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"text": value}
    checkpoint["channel_versions"] = {"text": "1"}
    return checkpoint


@pytest.mark.parametrize("text", ["small", LARGE], ids=["small", "large"])
async def test_what_is_put_at_once_is_found(mesh: LocalMesh, text: str) -> None:
    saver = saver_of(mesh)
    assert await saver.aget_tuple(CONFIG) is None
    checkpoint = holding(text)
    stored = saver.put_at_once(CONFIG, checkpoint, {"source": "loop"}, {"text": "1"})
    assert stored is not None
    assert not stored.done()
    await saver.committed(checkpoint["id"])
    at = {"configurable": {**CONFIG["configurable"], "checkpoint_id": checkpoint["id"]}}
    await saver.put_writes_at_once(at, [("text", text), ("n", 1)], "task")
    await saver.aput(at, holding(text), {"source": "loop"}, {})
    found = await saver_of(mesh).aget_tuple(at)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"text": text}
    assert found.pending_writes == [("task", "text", text), ("task", "n", 1)]


async def test_a_thread_that_is_not_loaded_is_left_to_the_task(mesh: LocalMesh) -> None:
    assert saver_of(mesh).put_at_once(CONFIG, holding("a"), {}, {"text": "1"}) is None


async def test_what_cannot_be_stored_fails_its_future_and_all_that_follows(mesh: LocalMesh) -> None:
    saver = saver_of(mesh)
    await saver.aget_tuple(CONFIG)
    stored = saver.put_at_once(CONFIG, holding(object()), {}, {"text": "1"})
    assert stored is not None
    with pytest.raises(MeshError) as refused:
        await stored
    assert refused.value.code == ErrorCode.VALUE_NOT_SERIALIZABLE
    assert saver.failed
    assert saver.put_at_once(CONFIG, holding("a"), {}, {"text": "1"}) is None
    with pytest.raises(MeshError):
        await saver.put_writes_at_once(CONFIG, [("text", object())], "task")


async def test_another_owner_fences_what_is_put_at_once(mesh: LocalMesh) -> None:
    saver, rival = saver_of(mesh), saver_of(mesh, writer="rival")
    await saver.aget_tuple(CONFIG)
    await rival.aput(CONFIG, holding("rival's"), {}, {"text": "1"})
    checkpoint = holding("late")
    stored = saver.put_at_once(CONFIG, checkpoint, {}, {"text": "1"})
    assert stored is not None
    with pytest.raises(Fenced):
        await saver.committed(checkpoint["id"])
    with pytest.raises(Fenced):
        await stored


async def test_what_a_task_writes_comes_after_the_checkpoint_that_it_is_of(mesh: LocalMesh) -> None:
    saver = saver_of(mesh)
    await saver.aget_tuple(CONFIG)
    first = holding("first")
    at = {"configurable": {**CONFIG["configurable"], "checkpoint_id": first["id"]}}
    await saver.put_writes_at_once(at, [("text", "early")], "task")
    await saver.aput(CONFIG, first, {"source": "input"}, {"text": "1"})
    successor = saver_of(mesh)
    found = await successor.aget_tuple(at)
    assert found is not None
    assert found.pending_writes == []
    await saver.aput(at, holding("second"), {"source": "loop"}, {})
    found = await saver_of(mesh).aget_tuple(at)
    assert found is not None
    assert found.pending_writes == [("task", "text", "early")]
