"""Values that no thread refers to go, and no others."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langmesh.bus.blobs import VALUES_BUCKET
from langmesh.checkpoint import NatsSaver
from langmesh.errors import MeshError
from langmesh.log.collect import Collector
from langmesh.log.values import Values
from langmesh.testing import LocalMesh
from langmesh.wire import subjects
from langmesh.wire.names import partition

LARGE = 400_000


async def put(saver: NatsSaver, thread: str, text: str) -> None:
    """Store a checkpoint with one large value."""
    config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"text": text * LARGE}
    checkpoint["channel_versions"] = {"text": "1"}
    await saver.aput(config, checkpoint, {}, {"text": "1"})


async def kept_bytes(mesh: LocalMesh) -> int:
    info = await mesh.bus.api(f"STREAM.INFO.OBJ_{VALUES_BUCKET}")
    return int(info["state"]["bytes"])


def collector(mesh: LocalMesh, *, age_s: float = 0.0) -> Collector:
    return Collector(mesh.bus, Values(mesh.bus, patience_s=5), age_s=age_s)


async def test_what_no_thread_refers_to_goes_at_the_second_look(mesh: LocalMesh) -> None:
    async with NatsSaver.connect(mesh.nats_url) as saver:
        await put(saver, "gone", "a")
        await put(saver, "kept", "b")
        await put(saver, "shared-1", "c")
        await put(saver, "shared-2", "c")
        both = collector(mesh)
        assert await both.collect() == 0
        assert await both.collect() == 0
        await saver.adelete_thread("gone")
        await saver.adelete_thread("shared-1")
        before = await kept_bytes(mesh)
        assert await both.collect() == 0
        freed = await both.collect()
        assert LARGE < freed < LARGE + 100
        assert await kept_bytes(mesh) < before - LARGE
        for thread, text in (("kept", "b"), ("shared-2", "c")):
            found = await saver.aget({"configurable": {"thread_id": thread}})
            assert found["channel_values"]["text"] == text * LARGE
        # Nothing is left behind, and what is written again is there again.
        await put(saver, "again", "a")
        found = await saver.aget({"configurable": {"thread_id": "again"}})
        assert found["channel_values"]["text"] == "a" * LARGE


async def test_what_is_young_stays(mesh: LocalMesh) -> None:
    async with NatsSaver.connect(mesh.nats_url) as saver:
        await put(saver, "gone", "a")
        await saver.adelete_thread("gone")
    patient = collector(mesh, age_s=3600)
    for _ in range(3):
        assert await patient.collect() == 0


async def test_a_reference_that_comes_between_two_looks_counts(mesh: LocalMesh) -> None:
    async with NatsSaver.connect(mesh.nats_url) as saver:
        await put(saver, "gone", "a")
        await saver.adelete_thread("gone")
        both = collector(mesh)
        assert await both.collect() == 0
        await put(saver, "new", "a")
        assert await both.collect() == 0
        found = await saver.aget({"configurable": {"thread_id": "new"}})
        assert found["channel_values"]["text"] == "a" * LARGE


async def test_nothing_goes_when_an_entry_cannot_be_read(mesh: LocalMesh) -> None:
    async with NatsSaver.connect(mesh.nats_url) as saver:
        await put(saver, "gone", "a")
        await saver.adelete_thread("gone")
        await mesh.bus.append(subjects.log(partition("default", "x"), "default", "x"), b"\xc1")
        both = collector(mesh)
        for _ in range(2):
            with pytest.raises(MeshError):
                await both.collect()


async def test_without_any_values_there_is_nothing_to_do(mesh: LocalMesh) -> None:
    async with asyncio.timeout(20):
        assert await collector(mesh).collect() == 0
