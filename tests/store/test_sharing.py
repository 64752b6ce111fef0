"""Stores on several connections are one store."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import pytest
from langgraph.store.base import BaseStore, GetOp, PutOp, SearchOp

from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.store.entries import ENTRY_BYTES
from langmesh.testing import LocalMesh
from langmesh.wire import items, subjects
from langmesh.wire.codec import encode_stored
from langmesh.wire.items import StoreItem


@pytest.fixture
async def other(mesh: LocalMesh):
    async with NatsStore.connect(mesh.nats_url) as other:
        yield other


async def values(store: BaseStore, *prefix: str) -> list[Any]:
    return [item.value for item in await store.asearch(prefix, limit=1000)]


async def test_each_sees_at_once_what_the_other_has_put(store: NatsStore, other: NatsStore):
    for number in range(50):
        writer, reader = (store, other) if number % 2 else (other, store)
        await writer.aput(("shared", f"n{number % 5}"), f"k{number}", {"n": number})
        assert len(await values(reader, "shared")) == number + 1
        assert {"n": number} in await values(reader, "shared", f"n{number % 5}")
    for number in range(50):
        writer, reader = (store, other) if number % 3 else (other, store)
        await writer.adelete(("shared", f"n{number % 5}"), f"k{number}")
        assert len(await values(reader)) == 49 - number
    assert await other.alist_namespaces() == []


async def test_writers_at_once_leave_one_value_and_one_time_of_creation(
    store: NatsStore, other: NatsStore
):
    await store.aput(("a",), "k", {"n": -1})
    born = (await store.aget(("a",), "k")).created_at
    await asyncio.gather(*((store, other)[n % 2].aput(("a",), "k", {"n": n}) for n in range(40)))
    kept = await other.aget(("a",), "k")
    assert kept.value["n"] in range(40)
    assert kept.created_at == born <= kept.updated_at
    await other.adelete(("a",), "k")
    await other.aput(("a",), "k", {"n": 0})
    assert (await store.aget(("a",), "k")).created_at > born


async def test_of_puts_of_one_key_in_one_batch_the_last_counts(store: NatsStore):
    puts = [PutOp(("a",), "k", {"n": n}) for n in range(3)]
    assert await store.abatch([*puts, GetOp(("a",), "k"), SearchOp(())]) == [None] * 4 + [[]]
    assert await values(store) == [{"n": 2}]


async def test_nothing_is_lost_when_all_count_with_the_revision(store: NatsStore, other: NatsStore):
    async def count(store: NatsStore) -> int:
        """Add one, as often as it takes; how often it was beaten."""
        beaten = 0
        while True:
            found = await store.aget(("count",), "n")
            revision = found.revision if found else 0
            value = {"n": (found.value["n"] if found else 0) + 1}
            try:
                done = await store.aput_if(("count",), "n", value, revision=revision)
            except MeshError as exc:
                if exc.code is not ErrorCode.CONFLICT:
                    raise
                beaten += 1
            else:
                assert done > revision
                return beaten

    await asyncio.gather(*(count(each) for each in (store, other) for _ in range(10)))
    assert await values(store) == [{"n": 20}]


async def test_a_revision_decides_over_puts_and_deletions(store: NatsStore):
    put, name = store.aput_if, (("a",), "k")
    first = await put(*name, {"n": 1}, revision=0)
    (found,) = await store.asearch(("a",))
    assert found.revision == first == (await store.aget(*name)).revision
    for stale in (0, first - 1, first + 1):
        with pytest.raises(MeshError, match=f"'k' of namespace .* revision {first}") as refused:
            await put(*name, {"n": 2}, revision=max(stale, 0))
        assert refused.value.code is ErrorCode.CONFLICT
    second = await put(*name, {"n": 2}, revision=first)
    assert await put(*name, None, revision=second) == 0
    with pytest.raises(MeshError, match="revision 0"):
        await put(*name, {"n": 3}, revision=second)
    assert await put(*name, None, revision=0) == 0
    assert await store.aget(*name) is None
    assert await put(*name, {"n": 3}, revision=0) > second


async def test_tenants_do_not_see_each_other(mesh: LocalMesh, store: NatsStore):
    async with NatsStore.connect(mesh.nats_url, tenant="another one") as other:
        await store.aput(("a",), "k", {"n": 1})
        assert await values(other) == []
        await other.aput(("a",), "k", {"n": 2})
        await store.adelete(("a",), "k")
        assert await values(other) == [{"n": 2}]
        assert await values(store) == []


async def test_deletions_leave_only_markers_that_expire(mesh: LocalMesh, store: NatsStore):
    for _ in range(3):
        await store.aput(("a",), "k", {"n": 1})
        await store.adelete(("a",), "k")
        await store.adelete(("a",), "never there")
    js = mesh.bus.client.jetstream()
    left = (await js.stream_info("STORE")).state
    assert left.messages == 1
    marker = await js.get_last_msg("STORE", subjects.store_item("default", ("a",), "k"))
    assert marker.headers is not None
    assert marker.headers["Nats-TTL"] == str(24 * 3600)
    assert marker.headers["Nats-Marker-Reason"] == "Remove"


async def test_thousands_in_one_batch(store: NatsStore):
    await store.abatch([PutOp(("many",), f"k{n}", {"n": n}) for n in range(3000)])
    found = await store.abatch([GetOp(("many",), f"k{n}") for n in range(3000)])
    assert [item.value["n"] for item in found] == list(range(3000))


def foreign(number: int) -> tuple[str, bytes]:
    """An item as a program in another language writes it."""
    name = (("many", f"n{number % 100}"), f"k{number}")
    body = {
        "type": "store.item.v1",
        "namespace": name[0],
        "key": name[1],
        "value": {"n": number, "text": "some words " * 10},
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T13:00:00+01:00",
        "write": str(number),
    }
    return subjects.store_item("default", *name), json.dumps(body).encode()


async def test_ten_thousand_items_are_searched(mesh: LocalMesh, store: NatsStore):
    for start in range(0, 10_000, 1000):
        await asyncio.gather(
            *(mesh.bus.append(*foreign(number)) for number in range(start, start + 1000))
        )
    found = await store.asearch(("many",), filter={"n": {"$gte": 9990}}, limit=100)
    assert sorted(item.value["n"] for item in found) == list(range(9990, 10_000))
    page = await store.asearch(("many",), limit=100, offset=9_950)
    assert [item.value["n"] for item in page] == [n * 100 + 99 for n in range(50, 100)]
    assert len(await store.asearch(("many", "n7"), limit=1000)) == 100
    assert len(await store.alist_namespaces(prefix=("many",), limit=1000)) == 100
    assert 10_000 * ENTRY_BYTES < store._replicas.size < 20_000_000
    await store.aput(("many", "n7"), "k7", {"n": -1})
    assert (await store.asearch(("many", "n7"), limit=1))[0].value == {"n": -1}


CANARY: list[str] = []


def trip(word: str) -> None:
    CANARY.append(word)


class Canary:
    def __reduce__(self):
        return trip, ("unpickled",)


LC_CANARY = {"lc": 2, "type": "constructor", "id": ["tests", "store", "Canary"], "kwargs": {}}


async def test_what_is_stored_is_data_and_never_code(mesh: LocalMesh, store: NatsStore):
    assert pickle.loads(pickle.dumps(Canary())) is None
    assert CANARY.pop() == "unpickled"
    await store.aput(("a",), "lc", {"x": LC_CANARY, "__reduce__": ["os.system", "true"]})
    subject = subjects.store_item("default", ("a",), "evil")
    fitting = StoreItem(
        namespace=["a"],
        key="evil",
        value={},
        created_at=(await store.aget(("a",), "lc")).created_at,
        updated_at=(await store.aget(("a",), "lc")).updated_at,
        write="w",
    )
    for body in (
        pickle.dumps(Canary()),
        b"\x80\x05cos\nsystem\n(S'true'\ntR.",
        b"{}",
        b"[" * 100_000,
        b'{"type":"store.item.v1","value":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        encode_stored(fitting).replace(b'"evil"', b'"other"'),
        encode_stored(fitting).replace(b'"value":{}', b'"value":"text"'),
        encode_stored(fitting).replace(b"Z", b""),
        encode_stored(fitting).replace(
            b'"write"', b'"vectors":{"format":"f32","dims":3,"data":"AAAA"},"write"'
        ),
        encode_stored(fitting).replace(b'"evil"', b'"\xff"'),
    ):
        await mesh.bus.append(subject, body)
        with pytest.raises(MeshError) as refused:
            await store.aget(("a",), "evil")
        assert refused.value.code in (ErrorCode.MALFORMED_BODY, ErrorCode.INVALID_FIELD)
        assert [item.key for item in await store.asearch(("a",))] == ["lc"]
    assert (await store.aget(("a",), "lc")).value["x"] == LC_CANARY
    assert CANARY == []
    await store.aput(("a",), "evil", {"good": True})
    (first, second) = await values(store)
    assert first == {"x": LC_CANARY, "__reduce__": ["os.system", "true"]}
    assert second == {"good": True}


async def test_a_foreign_deletion_and_a_foreign_expiry(mesh: LocalMesh, store: NatsStore):
    subject, body = foreign(1)
    await mesh.bus.append(subject, body)
    assert len(await values(store)) == 1
    deleted = {
        "type": "store.deleted.v1",
        "namespace": ["many", "n1"],
        "key": "k1",
        "time": "2026-01-31T12:00:00Z",
        "write": "w",
    }
    await mesh.bus.append(subject, json.dumps(deleted).encode(), headers={items.TTL_HEADER: "60"})
    assert await values(store) == []
    await mesh.bus.append(subject, body)
    assert (await store.aget(("many", "n1"), "k1")).value["n"] == 1
    await mesh.bus.append(subject, b"")
    assert await store.aget(("many", "n1"), "k1") is None
    assert await values(store) == []
