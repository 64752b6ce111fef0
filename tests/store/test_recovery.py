"""The store through deaths of nats-server and lost acknowledgements."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.testing import LocalMesh
from langmesh.wire import subjects


async def restart(mesh: LocalMesh) -> None:
    assert mesh.servers.nats is not None
    await mesh.servers.nats.kill()
    await mesh.servers.nats.start()


async def test_what_was_acknowledged_survives_and_replicas_go_on(mesh: LocalMesh, store: NatsStore):
    async with NatsStore.connect(mesh.nats_url) as other:
        for n in range(20):
            await store.aput(("a", f"n{n % 3}"), f"k{n}", {"n": n})
        assert len(await other.asearch((), limit=100)) == 20
        await restart(mesh)
        assert (await other.aget(("a", "n1"), "k1")).value == {"n": 1}
        assert len(await other.asearch((), limit=100)) == 20
        await store.adelete(("a", "n1"), "k1")
        await store.aput(("a", "n1"), "k2", {"n": "new"})
        await restart(mesh)
        await store.adelete(("a", "n2"), "k5")
        expected = {(f"n{n % 3}", f"k{n}"): n for n in range(20) if n not in (1, 5)}
        expected["n1", "k2"] = "new"
        async with NatsStore.connect(mesh.nats_url) as fresh:
            for each in (store, other, fresh):
                items = await each.asearch((), limit=100)
                assert {(i.namespace[1], i.key): i.value["n"] for i in items} == expected


async def test_operations_wait_for_a_broker_that_is_started_anew(mesh: LocalMesh, store: NatsStore):
    assert mesh.servers.nats is not None
    await store.aput(("a",), "k", {"n": 0})
    assert len(await store.asearch(("a",))) == 1
    await mesh.servers.nats.kill()
    waiting = [
        asyncio.create_task(call)
        for call in (
            store.aput(("a",), "k", {"n": 1}),
            store.aput(("a",), "new", {"n": 2}),
            store.aget(("a",), "k"),
            store.asearch(("b",)),
            store.alist_namespaces(),
        )
    ]
    await mesh.servers.nats.start()
    async with asyncio.timeout(60):
        _, _, got, searched, _ = await asyncio.gather(*waiting)
    assert got.value["n"] in (0, 1)
    assert searched == []
    assert [item.value["n"] for item in await store.asearch(("a",))] == [1, 2]


class Lossy:
    """Lets a bus store messages and lose their acknowledgements."""

    def __init__(self, store: NatsStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._append = store._bus.append
        self.lost = 0
        self.losses = 1
        self.before: Any = None
        self.after: Any = None
        monkeypatch.setattr(store._bus, "append", self.append)

    async def append(self, *args: Any, **kwargs: Any) -> int:
        if self.lost == self.losses:
            return await self._append(*args, **kwargs)
        self.lost += 1
        if self.before is not None:
            await self.before()
        else:
            await self._append(*args, **kwargs)
        if self.after is not None:
            await self.after()
        raise MeshError(ErrorCode.BROKER_UNAVAILABLE, "lost")


@pytest.fixture
async def other(mesh: LocalMesh):
    async with NatsStore.connect(mesh.nats_url) as other:
        yield other


async def test_a_lost_acknowledgement_makes_no_second_write(
    store: NatsStore, monkeypatch: pytest.MonkeyPatch
):
    lossy = Lossy(store, monkeypatch)
    revision = await store.aput_if(("a",), "k", {"n": 1}, revision=0)
    assert lossy.lost == 1
    assert (await store.aget(("a",), "k")).revision == revision == 1
    lossy.losses = 2
    assert await store.aput_if(("a",), "k", None, revision=revision) == 0
    assert lossy.lost == 2
    assert await store.aget(("a",), "k") is None


async def test_a_lost_message_is_sent_again(store: NatsStore, monkeypatch: pytest.MonkeyPatch):
    lossy = Lossy(store, monkeypatch)

    async def nothing() -> None:
        pass

    lossy.before = nothing
    await store.aput(("a",), "k", {"n": 1})
    assert lossy.lost == 1
    assert (await store.aget(("a",), "k")).value == {"n": 1}


async def test_another_put_behind_a_lost_acknowledgement_wins(
    store: NatsStore, other: NatsStore, monkeypatch: pytest.MonkeyPatch
):
    lossy = Lossy(store, monkeypatch)
    lossy.after = lambda: other.aput(("a",), "k", {"n": 2})
    await store.aput(("a",), "k", {"n": 1})
    assert (await store.aget(("a",), "k")).value == {"n": 2}
    lossy.losses = 2
    revision = (await store.aget(("a",), "k")).revision
    with pytest.raises(MeshError, match="outcome is unknown"):
        await store.aput_if(("a",), "k", {"n": 3}, revision=revision)


async def test_one_who_heard_nothing_for_long_begins_anew(mesh: LocalMesh, store: NatsStore):
    """After hours without the broker, markers of deletions may be gone: nothing old counts."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    tail = Tail(
        mesh.bus,
        "STORE",
        (subjects.STORE_ALL,),
        lambda subject, body, seq: heard.put_nowait(f"{seq}"),
        stale_after_s=0,
        on_stale=lambda: heard.put_nowait("anew"),
    )
    await store.aput(("a",), "k", {})
    async with tail.run(), asyncio.timeout(60):
        assert await heard.get() == "1"
        await restart(mesh)
        assert await heard.get() == "anew"
        while (again := await heard.get()) == "anew":
            pass
        assert again == "1"


async def test_following_ends_however_often_and_soon(mesh: LocalMesh, store: NatsStore):
    """Window: a cancellation together with the broker's answer was lost, and the end with it."""
    await store.aput(("a",), "k", {})
    async with asyncio.timeout(60):
        for _ in range(100):
            async with store.watch(initial=True) as changes:
                async for change in changes:
                    assert change.key == "k"
                    break
