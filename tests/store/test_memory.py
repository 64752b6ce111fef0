"""Replicas stay within their bound, and few read the stream."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.clock import now_iso
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore, replicas
from langmesh.store.entries import ENTRY_BYTES, Entry
from langmesh.store.tree import Tree
from langmesh.testing import LocalMesh
from langmesh.wire.items import ItemVectors

ROOM = 18_000
PAGE = {"limit": 100}


@pytest.fixture
async def small(mesh: LocalMesh):
    async with NatsStore.connect(mesh.nats_url, replica_bytes_max=ROOM) as small:
        yield small


async def fill(store: NatsStore, *labels: str, count: int = 5) -> None:
    for label in labels:
        for n in range(count):
            await store.aput((label,), f"k{n}", {"n": n})


async def test_a_wide_prefix_takes_the_place_of_narrow_ones(store: NatsStore):
    await fill(store, "a", "b")
    for prefix in (("a",), ("b",), ("a",)):
        assert len(await store.asearch(prefix)) == 5
    assert store._replicas.prefixes == [("b",), ("a",)]
    await store.asearch(("a", "deeper"))
    assert store._replicas.prefixes == [("b",), ("a",)]
    assert len(await store.asearch((), limit=100)) == 10
    assert store._replicas.prefixes == [()]
    await store.alist_namespaces(prefix=("a",))
    assert store._replicas.prefixes == [()]
    size = store._replicas.size
    assert 10 * ENTRY_BYTES < size < 10 * (ENTRY_BYTES + 100)
    await fill(store, "a", "b")
    await store.asearch(())
    assert store._replicas.size == size
    await store.adelete(("a",), "k0")
    await store.asearch(())
    assert store._replicas.size < size


async def test_the_longest_unused_goes_when_memory_runs_out(small: NatsStore):
    await fill(small, "a", "b", "c")
    for label in "abcabc":
        assert len(await small.asearch((label,))) == 5
        assert small._replicas.size <= ROOM
    assert len(small._replicas.prefixes) == 2
    assert small._replicas.prefixes[-1] == ("c",)


async def test_many_at_once_that_do_not_fit_together_all_get_their_answer(small: NatsStore):
    labels = "abcdefgh"
    await fill(small, *labels)
    searches = [small.asearch((label,)) for label in labels * 3]
    async with asyncio.timeout(60):
        found = await asyncio.gather(*searches)
    assert [len(items) for items in found] == [5] * len(searches)
    assert small._replicas.size <= ROOM


async def test_one_prefix_that_does_not_fit_is_an_error_that_says_so(small: NatsStore):
    await fill(small, "a", "b", count=8)
    with pytest.raises(MeshError, match=r"below namespace \(\) take more memory") as refused:
        await small.asearch(())
    assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert "replica_bytes_max" in refused.value.remedy
    assert small._replicas.size == 0
    assert len(await small.asearch(("a",))) == 8
    for n in range(8):
        await small.adelete(("b",), f"k{n}")
    assert len(await small.asearch(())) == 8


async def test_there_are_not_too_many(store: NatsStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replicas, "REPLICAS_MAX", 3)
    for label in "abcde":
        await store.asearch((label,))
    assert store._replicas.prefixes == [("c",), ("d",), ("e",)]


async def test_only_what_is_searched_is_followed(mesh: LocalMesh, store: NatsStore):
    async def consumers() -> int:
        return (await mesh.bus.client.jetstream().stream_info("STORE")).state.consumer_count

    await fill(store, "a")
    await store.aget(("a",), "k1")
    assert await consumers() == 0
    async with NatsStore.connect(mesh.nats_url) as other:
        for _ in range(3):
            await other.asearch(("a",))
            await other.alist_namespaces(prefix=("a",))
        assert await consumers() == 1
    async with asyncio.timeout(30):
        while await consumers():
            pass


async def test_who_searches_while_it_is_closed_is_told(mesh: LocalMesh, store: NatsStore):
    await fill(store, "a")
    searches = [asyncio.create_task(store.asearch((label,))) for label in "abc"]
    while not store._replicas.prefixes:
        await asyncio.sleep(0)
    await store.aclose()
    assert store._replicas.prefixes == []
    assert store._replicas.size == 0
    for done in await asyncio.gather(*searches, return_exceptions=True):
        assert isinstance(done, list) or done.code is ErrorCode.NOT_RUNNING
    await store.aclose()
    info = await mesh.bus.client.jetstream().stream_info("STORE")
    async with asyncio.timeout(30):
        while info.state.consumer_count:
            info = await mesh.bus.client.jetstream().stream_info("STORE")


NOW = datetime.fromisoformat(now_iso())


def entry(subject: int, order: int, seq: int, data: bytes) -> Entry:
    return Entry(
        subject=f"s{subject}",
        seq=seq,
        order=order,
        revision=seq,
        namespace=("n", f"{subject % 3}")[: 1 + subject % 2],
        key=f"k{subject}",
        body=b"{}",
        created_at=NOW,
        updated_at=NOW,
        write="w",
        ttl_s=None,
        vectors=ItemVectors(format="f32", dims=1, data=data) if data else None,
    )


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 7), st.integers(1, 50), st.binary(max_size=8)),
            st.integers(0, 7),
        ),
        max_size=40,
    )
)
def test_a_tree_holds_what_a_table_holds(steps: list):
    tree, table = Tree(), {}
    for seq, step in enumerate(steps, start=1):
        if isinstance(step, int):
            tree.remove(f"s{step}")
            table.pop(f"s{step}", None)
        else:
            # Orders are unique: they are sequences of the stream.
            subject, order, data = step
            each = entry(subject, order * 10 + subject, seq, data)
            tree.put(each)
            table[each.subject] = each
        assert len(tree) == len(table)
        assert tree.size == sum(each.size for each in table.values())
        spaces: dict[tuple[str, ...], list[Entry]] = {}
        for each in sorted(table.values(), key=lambda e: e.order):
            spaces.setdefault(each.namespace, []).append(each)
        assert tree.below(()) == [each for space in spaces.values() for each in space]
        assert tree.below(("n", "1")) == spaces.get(("n", "1"), [])
        assert set(tree.namespaces(())) == set(spaces)
    for subject in list(table):
        tree.remove(subject)
    assert (len(tree), tree.size, tree.below(())) == (0, 0, [])
