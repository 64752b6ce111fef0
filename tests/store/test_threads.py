"""The methods without ``await``: from other threads, never from the store's own loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.testing import LocalMesh


async def test_another_thread_works_with_the_store(store: NatsStore):
    def script() -> list[object]:
        store.put(("a", "b"), "k", {"n": 1}, ttl=10)
        store.put(("a", "c"), "k", {"n": 2})
        found = [
            store.get(("a", "b"), "k").value,
            [item.value for item in store.search(("a",), filter={"n": 2})],
            store.list_namespaces(max_depth=1),
        ]
        store.delete(("a", "b"), "k")
        return [*found, store.get(("a", "b"), "k")]

    assert await asyncio.to_thread(script) == [{"n": 1}, [{"n": 2}], [("a",)], None]


async def test_another_event_loop_works_with_the_store(store: NatsStore):
    async def main() -> object:
        await store.aput(("a",), "k", {"n": 1})
        return (await store.asearch(("a",)))[0].value

    assert await asyncio.to_thread(lambda: asyncio.run(main())) == {"n": 1}


async def test_its_own_event_loop_is_told_what_to_call(store: NatsStore):
    for call in (
        lambda: store.get(("a",), "k"),
        lambda: store.put(("a",), "k", {}),
        lambda: store.search(()),
        lambda: store.delete(("a",), "k"),
        store.list_namespaces,
    ):
        with pytest.raises(asyncio.InvalidStateError, match=r"await store\.aget"):
            call()


def test_a_store_whose_event_loop_is_over_says_so():
    from langmesh.testing import local_mesh

    async def main() -> NatsStore:
        async with local_mesh() as mesh, NatsStore.connect(mesh.nats_url) as store:
            return store

    store = asyncio.run(main())
    with pytest.raises(MeshError) as refused:
        store.get(("a",), "k")
    assert refused.value.code is ErrorCode.NOT_RUNNING


async def test_errors_reach_the_other_thread(store: NatsStore):
    with pytest.raises(MeshError, match="a value of type set is not JSON"):
        await asyncio.to_thread(store.put, ("a",), "k", {"n": {1}})


async def test_a_closed_connection_is_an_error_at_once(mesh: LocalMesh):
    async with NatsStore.connect(mesh.nats_url) as store:
        await store.aput(("a",), "k", {})
    for call in (store.aget(("a",), "k"), store.asearch(()), store.aput(("a",), "k", {})):
        with pytest.raises(MeshError) as refused:
            await call
        assert refused.value.code is ErrorCode.BROKER_UNAVAILABLE


async def test_nobody_there_is_an_error_that_names_the_server():
    with pytest.raises(MeshError, match=r"127\.0\.0\.1:1 cannot be reached") as refused:
        async with NatsStore.connect("nats://127.0.0.1:1"):
            pass
    assert refused.value.code is ErrorCode.BROKER_UNAVAILABLE


def test_it_belongs_to_an_event_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        NatsStore(None)  # type: ignore[arg-type]
    assert threading.active_count() >= 1
