"""Items expire at the broker; whoever reads them may prolong their life.

The tests wait for what the broker says, never for a clock; the limits of time are generous.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.store.base import GetOp, SearchOp

from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.testing import LocalMesh
from langmesh.wire import subjects

SECOND = 1 / 60
HOUR = 60.0


class Stream:
    """What the stream gets of one key: body and lifetime in seconds, None for ever."""

    def __init__(self, mesh: LocalMesh, key: str) -> None:
        self._mesh = mesh
        self.subject = subjects.store_item("default", ("a",), key)

    async def last(self) -> tuple[int, str | None, bytes]:
        message = await self._mesh.bus.client.jetstream().get_last_msg("STORE", self.subject)
        assert message.seq is not None
        return message.seq, (message.headers or {}).get("Nats-TTL"), message.data or b""


async def expirations(store: NatsStore, count: int) -> list[str]:
    """The keys of the next items that expire."""
    keys = []
    async with asyncio.timeout(60):
        async for change in store.watch():
            if change.kind == "expire":
                assert change.item is None
                keys.append(change.key)
                if len(keys) == count:
                    break
    return keys


async def test_expired_items_are_gone_for_gets_searches_and_lists(
    mesh: LocalMesh, store: NatsStore
):
    kinds = []
    async with NatsStore.connect(mesh.nats_url) as other, asyncio.timeout(60):
        assert await other.asearch(()) == []
        async with store.watch() as changes:
            await store.aput(("a",), "short", {"n": 1}, ttl=SECOND)
            await store.aput(("b",), "long", {"n": 2}, ttl=HOUR)
            await store.aput(("c",), "ever", {"n": 3})
            async for change in changes:
                kinds.append((change.kind, change.key))
                if change.kind == "expire":
                    break
        for each in (store, other):
            assert await each.aget(("a",), "short") is None
            assert [item.key for item in await each.asearch(())] == ["long", "ever"]
            assert await each.alist_namespaces() == [("b",), ("c",)]
    assert kinds == [("put", "short"), ("put", "long"), ("put", "ever"), ("expire", "short")]
    _, _, body = await Stream(mesh, "short").last()
    assert body == b"", "nothing of it is left but the broker's marker"


async def test_a_new_put_takes_over_the_life_that_it_is_given(mesh: LocalMesh, store: NatsStore):
    kept = Stream(mesh, "k")
    for minutes, seconds in ((SECOND, "1"), (HOUR, "3600"), (0.0201, "2"), (None, None)):
        await store.aput(("a",), "k", {"n": 1}, ttl=minutes)
        assert (await kept.last())[1] == seconds
    await store.aput(("a",), "witness", {}, ttl=2 * SECOND)
    assert await expirations(store, 1) == ["witness"]
    assert await store.aget(("a",), "k") is not None


async def test_reads_prolong_the_life_unless_told_otherwise(mesh: LocalMesh, store: NatsStore):
    kept = Stream(mesh, "k")
    await store.aput(("a",), "k", {"n": 1}, ttl=HOUR)
    seq, life, _ = await kept.last()
    item = await store.aget(("a",), "k", refresh_ttl=False)
    found = await store.asearch(("a",), refresh_ttl=False)
    assert await kept.last() == (seq, life, (await kept.last())[2])

    async def prolonged() -> bool:
        nonlocal seq
        before, (seq, life, _) = seq, await kept.last()
        assert life == "3600"
        return seq > before

    assert await store.aget(("a",), "k") == item
    assert await prolonged()
    assert await store.asearch(("a",)) == found
    assert await prolonged()
    await store.abatch([GetOp(("a",), "k", refresh_ttl=False), SearchOp((), refresh_ttl=False)])
    assert not await prolonged()
    assert await store.asearch(("a",), limit=0) == []
    assert await store.asearch(("a",), filter={"n": 2}) == []
    assert not await prolonged(), "only what is returned was read"
    again = await store.aget(("a",), "k", refresh_ttl=False)
    assert (again.revision, again.updated_at) == (item.revision, item.updated_at)
    await store.aput_if(("a",), "k", {"n": 2}, revision=item.revision)


async def test_defaults_of_the_store(mesh: LocalMesh):
    kept = Stream(mesh, "k")
    ttl: Any = {"default_ttl": 2.0, "refresh_on_read": False}
    async with NatsStore.connect(mesh.nats_url, ttl=ttl) as store:
        await store.aput(("a",), "k", {})
        assert (await kept.last())[1] == "120"
        seq, _, _ = await kept.last()
        await store.aget(("a",), "k")
        await store.asearch(())
        assert (await kept.last())[0] == seq
        await store.aget(("a",), "k", refresh_ttl=True)
        assert (await kept.last())[0] > seq
        revision = (await store.aget(("a",), "k")).revision
        revision = await store.aput_if(("a",), "k", {}, revision=revision)
        assert (await kept.last())[1] == "120"
        await store.aput_if(("a",), "k", {}, revision=revision, ttl=None)
        assert (await kept.last())[1] is None


async def test_read_again_and_again_it_outlives_one_that_is_not(store: NatsStore):
    await store.aput(("a",), "read", {}, ttl=2 * SECOND)
    await store.aput(("a",), "unread", {}, ttl=2 * SECOND)
    watching = asyncio.create_task(expirations(store, 2))
    async with asyncio.timeout(60):
        while await store.aget(("a",), "unread", refresh_ttl=False) is not None:
            assert await store.aget(("a",), "read") is not None
        assert await watching == ["unread", "read"]


async def test_a_prolongation_never_beats_a_put_or_a_deletion(mesh: LocalMesh, store: NatsStore):
    await store.aput(("a",), "k", {"n": 1}, ttl=HOUR)
    stale = await store._writer.last(("a",), "k")
    await store.aput(("a",), "k", {"n": 2}, ttl=HOUR)
    await store._writer.prolong(stale)
    assert (await store.aget(("a",), "k")).value == {"n": 2}
    stale = await store._writer.last(("a",), "k")
    await store.adelete(("a",), "k")
    await store._writer.prolong(stale)
    assert await store.aget(("a",), "k") is None
    readers = [store.asearch(("a",)) for _ in range(20)]
    puts = [store.aput(("a",), "k", {"n": n}, ttl=HOUR) for n in range(20)]
    await asyncio.gather(*readers, *puts)
    await store.aput(("a",), "k", {"n": "last"}, ttl=HOUR)
    assert [item.value for item in await store.asearch(("a",))] == [{"n": "last"}]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "1", True, 1e12])
async def test_a_life_that_cannot_be(mesh: LocalMesh, store: NatsStore, ttl: Any):
    with pytest.raises(MeshError, match=r"^ttl: ") as refused:
        await store.aput(("a",), "k", {}, ttl=ttl)
    assert refused.value.code is ErrorCode.INVALID_FIELD
    with pytest.raises(MeshError, match=r"^ttl: "):
        async with NatsStore.connect(mesh.nats_url, ttl={"default_ttl": ttl}):
            pass


async def test_items_expire_while_the_broker_is_down(mesh: LocalMesh, store: NatsStore):
    nats = mesh.servers.nats
    assert nats is not None
    await store.aput(("a",), "k", {}, ttl=SECOND)
    await store.aput(("a",), "ever", {})
    assert len(await store.asearch((), refresh_ttl=False)) == 2
    seq, _, _ = await Stream(mesh, "k").last()
    await nats.kill()
    await nats.start()
    gone = asyncio.Event()

    def on_message(subject: str, body: bytes, at: int) -> None:
        if at > seq and not body:
            gone.set()

    async with Tail(mesh.bus, "STORE", (subjects.STORE_ALL,), on_message).run():
        async with asyncio.timeout(60):
            await gone.wait()
    assert await store.aget(("a",), "k") is None
    assert [item.key for item in await store.asearch(())] == ["ever"]
