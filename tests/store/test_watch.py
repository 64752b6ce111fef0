"""A watch tells every change below its namespace, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from langmesh.errors import MeshError
from langmesh.store import Change, NatsStore, watching
from langmesh.testing import LocalMesh


async def take(changes: AsyncIterator[Change] | Any, count: int) -> list[Change]:
    taken = []
    async with asyncio.timeout(30):
        async for change in changes:
            taken.append(change)
            if len(taken) == count:
                break
    return taken


def told(changes: list[Change]) -> list[Any]:
    return [
        (change.kind, "/".join(change.namespace), change.key, change.item and change.item.value)
        for change in changes
    ]


async def test_puts_and_deletions_of_anyone_as_they_happen(mesh: LocalMesh, store: NatsStore):
    await store.aput(("a",), "before", {})
    async with NatsStore.connect(mesh.nats_url) as other, other.watch(("a",)) as changes:
        await store.aput(("a", "b"), "k", {"n": 1})
        await store.aput(("ab",), "k", {"n": 2})
        await other.aput(("a",), "k.*", {"n": 3})
        await store.adelete(("a",), "k.*")
        await store.adelete(("a",), "never there")
        await store.aput(("a", "b"), "k", {"n": 4})
        seen = await take(changes, 4)
    assert told(seen) == [
        ("put", "a/b", "k", {"n": 1}),
        ("put", "a", "k.*", {"n": 3}),
        ("delete", "a", "k.*", None),
        ("put", "a/b", "k", {"n": 4}),
    ]
    assert [change.revision for change in seen] == sorted(change.revision for change in seen)
    assert seen[-1].item == await store.aget(("a", "b"), "k")


async def test_beginning_with_what_is_there(store: NatsStore):
    for key in "abc":
        await store.aput(("x",), key, {"key": key})
    await store.adelete(("x",), "b")
    await store.aput(("x",), "a", {"key": "A"})
    async with store.watch(initial=True) as changes:
        seen = await take(changes, 2)
        await store.adelete(("x",), "c")
        seen += await take(changes, 1)
    assert told(seen) == [
        ("put", "x", "c", {"key": "c"}),
        ("put", "x", "a", {"key": "A"}),
        ("delete", "x", "c", None),
    ]


async def test_going_on_behind_the_last_change_that_was_seen(mesh: LocalMesh, store: NatsStore):
    async with store.watch(("x",)) as changes:
        for n in range(3):
            await store.aput(("x",), f"k{n}", {"n": n})
        await take(changes, 1)
        (seen,) = await take(changes, 1)
    assert seen.key == "k1"
    await store.adelete(("x",), "k0")
    await store.aput(("x",), "k1", {"n": "new"}, ttl=60)
    await store.aget(("x",), "k1")
    async with NatsStore.connect(mesh.nats_url) as other:
        missed = await take(other.watch(("x",), after=seen.revision), 3)
        assert told(missed) == [
            ("put", "x", "k2", {"n": 2}),
            ("delete", "x", "k0", None),
            ("put", "x", "k1", {"n": "new"}),
        ]
        await other.aput(("x",), "k3", {})
        assert told(await take(other.watch(("x",), after=missed[-1].revision), 1)) == [
            ("put", "x", "k3", {})
        ]


async def test_to_prolong_a_life_is_no_change(store: NatsStore):
    await store.aput(("x",), "old", {}, ttl=60)
    async with store.watch() as changes:
        await store.aput(("x",), "new", {}, ttl=60)
        for _ in range(3):
            await store.asearch(())
            await store.aget(("x",), "old")
        await store.aput(("x",), "last", {})
        assert [change.key for change in await take(changes, 2)] == ["new", "last"]


async def test_a_name_that_is_only_a_digest_is_told_when_it_expires(store: NatsStore):
    key = "long " * 100
    async with store.watch() as changes:
        await store.aput(("x",), key, {}, ttl=1 / 60)
        await store.aput(("x",), "short", {}, ttl=1 / 60)
        seen = told(await take(changes, 4))
    assert seen[:2] == [("put", "x", key, {}), ("put", "x", "short", {})]
    assert sorted(seen[2:]) == sorted(
        [("expire", "x", key, None), ("expire", "x", "short", None)], key=lambda c: c[2]
    )


async def test_a_reader_that_falls_behind_gets_every_last_value(
    store: NatsStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "INBOX_MAX", 3)
    async with store.watch() as changes:
        for n in range(40):
            await store.aput(("x",), f"k{n % 10}", {"n": n})
        await store.aput(("x",), "end", {})
        last: dict[str, Any] = {}
        revisions = []
        async with asyncio.timeout(30):
            async for change in changes:
                assert change.item is not None
                revisions.append(change.revision)
                last[change.key] = change.item.value.get("n")
                if change.key == "end":
                    break
    assert last == {f"k{n}": 30 + n for n in range(10)} | {"end": None}
    assert revisions == sorted(set(revisions))
    assert len(revisions) < 41


async def test_it_goes_on_when_the_broker_was_killed(mesh: LocalMesh, store: NatsStore):
    nats = mesh.servers.nats
    assert nats is not None
    async with store.watch() as changes:
        await store.aput(("x",), "one", {})
        await nats.kill()
        await nats.start()
        await store.aput(("x",), "two", {})
        assert [change.key for change in await take(changes, 2)] == ["one", "two"]


async def test_who_reads_elsewhere_is_done_when_it_ends(store: NatsStore):
    async with store.watch() as changes:
        reading = asyncio.create_task(take(changes, 2))
        await store.aput(("x",), "k", {})
        async with store.watch(initial=True) as others:
            await take(others, 1)
    assert len(await reading) in (0, 1)


async def test_both_beginnings_at_once_are_refused(store: NatsStore):
    with pytest.raises(MeshError, match=r"^after: "):
        store.watch(initial=True, after=1)
