import asyncio
import base64
import contextlib
import random

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd, put_op
from langmesh.registry.model import Changes, Snapshot
from langmesh.registry.watch import watch

PREFIX = "/w/"


def as_history(changes: Changes) -> list[tuple[int, str, str | None]]:
    return [
        (c.revision, c.key, None if c.entry is None else base64.b64encode(c.entry.value).decode())
        for c in changes.changes
    ]


async def next_of(batches, seconds: float = 20):
    async with asyncio.timeout(seconds):
        return await anext(batches)


async def write(etcd: Etcd, seed: int, count: int) -> None:
    """Write and delete random keys; what a fault swallows is not repeated."""
    rng = random.Random(seed)
    for n in range(count):
        key = f"{PREFIX}{rng.randrange(100)}"
        with contextlib.suppress(MeshError):
            if rng.random() < 0.2:
                await etcd.delete(key)
            else:
                await etcd.put(key, f"{seed}/{n}".encode())


async def test_every_change_arrives_once_and_in_order_across_kills(etcd, server):
    await etcd.put(f"{PREFIX}first", b"")
    seen = []
    snapshots = []

    async def follow() -> None:
        async with (
            Etcd([server.endpoint]) as own,
            contextlib.aclosing(watch(own, PREFIX)) as batches,
        ):
            async for batch in batches:
                if isinstance(batch, Snapshot):
                    snapshots.append(batch)
                    started.set()
                    continue
                seen.extend(as_history(batch))
                if any(change.key == f"{PREFIX}~end" for change in batch.changes):
                    return

    started = asyncio.Event()
    follower = asyncio.create_task(follow())
    await asyncio.wait_for(started.wait(), 30)
    writers = [asyncio.create_task(write(etcd, seed, 250)) for seed in range(8)]
    for at in (100, 400, 700):
        while len(seen) < at:
            await asyncio.sleep(0.01)
        await server.restart()
    await asyncio.gather(*writers)
    await etcd.put(f"{PREFIX}~end", b"")
    await asyncio.wait_for(follower, 60)

    truth = await server.history(PREFIX, until=f"{PREFIX}~end")
    assert [s.revision for s in snapshots] == [snapshots[0].revision]
    assert seen[:-1] == [event for event in truth if event[0] > snapshots[0].revision]
    assert len(seen) > 1000


async def test_a_transaction_arrives_whole(etcd):
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        assert await next_of(batches) == await etcd.list(PREFIX)
        done = await etcd.txn([], [put_op(f"{PREFIX}{n}", b"") for n in range(3)])
        batch = await next_of(batches)
    assert [change.key for change in batch.changes] == [f"{PREFIX}{n}" for n in range(3)]
    assert batch.revision == done.revision


async def test_catching_up_by_more_than_a_default_message(etcd, server):
    await etcd.put(f"{PREFIX}first", b"")
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        await next_of(batches)
        async with Etcd([server.endpoint]) as writer:
            for n in range(1_200):
                await writer.put(f"{PREFIX}{n}", b"x" * 8_000)
        await server.restart()
        keys: list[str] = []
        largest = 0
        while len(keys) < 1_200:
            batch = await next_of(batches)
            assert isinstance(batch, Changes)
            keys += [change.key for change in batch.changes]
            largest = max(largest, len(batch.changes))
    assert keys == [f"{PREFIX}{n}" for n in range(1_200)]
    assert largest * 8_000 > 4 * 1024 * 1024


async def test_compaction_past_the_resume_point_brings_a_new_snapshot(etcd, server):
    await etcd.put(f"{PREFIX}a", b"1")
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        await next_of(batches)
        await etcd.put(f"{PREFIX}a", b"2")
        assert isinstance(await next_of(batches), Changes)
        await server.restart()
        await etcd.put(f"{PREFIX}b", b"1")
        await etcd.delete(f"{PREFIX}a")
        latest = await etcd.put(f"{PREFIX}b", b"2")
        await server.ctl("compact", str(latest))
        # The broken stream is only noticed now, after the compaction.
        batch = await next_of(batches)
        assert isinstance(batch, Snapshot)
        assert {key: e.value for key, e in batch.entries.items()} == {f"{PREFIX}b": b"2"}
        await etcd.put(f"{PREFIX}c", b"")
        batch = await next_of(batches)
        assert [change.key for change in batch.changes] == [f"{PREFIX}c"]


async def test_compaction_before_the_stream_opens_brings_a_new_snapshot(etcd, server):
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        await next_of(batches)
        await etcd.put(f"{PREFIX}a", b"1")
        await server.ctl("compact", str(await etcd.put(f"{PREFIX}a", b"2")))
        batch = await next_of(batches)
        assert isinstance(batch, Snapshot)
        assert batch.entries[f"{PREFIX}a"].value == b"2"


@pytest.mark.parametrize("refill", [0, 40])
async def test_a_wiped_store_brings_a_new_snapshot(etcd, server, refill):
    """Also when the new store has passed the old one's revision before the watch comes back."""
    for n in range(20):
        await etcd.put(f"{PREFIX}old{n}", b"")
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        await next_of(batches)
        await etcd.put(f"{PREFIX}last", b"")
        assert isinstance(await next_of(batches), Changes)
        await server.wipe()
        async with Etcd([server.endpoint]) as writer:
            for n in range(refill):
                await writer.put(f"{PREFIX}new{n % 3}", b"")
        batch = await next_of(batches)
        assert isinstance(batch, Snapshot)
        assert set(batch.entries) == {f"{PREFIX}new{n}" for n in range(min(refill, 3))}
        await etcd.put(f"{PREFIX}after", b"")
        batch = await next_of(batches)
        assert [change.key for change in batch.changes] == [f"{PREFIX}after"]


async def test_nothing_comes_while_etcd_is_away_and_the_watch_resumes(etcd, server):
    await etcd.put(f"{PREFIX}a", b"1")
    async with contextlib.aclosing(watch(etcd, PREFIX)) as batches:
        first = await next_of(batches)
        waiting = asyncio.create_task(anext(batches))
        server.kill()
        done, _ = await asyncio.wait({waiting}, timeout=1.5)
        assert not done
        await server.start()
        revision = await etcd.put(f"{PREFIX}a", b"2")
        assert revision > first.revision
        assert as_history(await asyncio.wait_for(waiting, 30))[0][0] == revision


async def test_a_watch_without_permission_is_refused(server):
    for command in (
        *("user add root:secret", "user grant-role root root"),
        *("user add agent:word", "role add some", "role grant-permission some readwrite /mine"),
        *("user grant-role agent some", "auth enable"),
    ):
        await server.ctl(*command.split())
    async with Etcd([server.endpoint], user="agent", password="word") as etcd:
        with pytest.raises(MeshError, match="denied") as caught:
            await next_of(watch(etcd, PREFIX))
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED
    async with (
        Etcd([server.endpoint], user="root", password="secret") as etcd,
        contextlib.aclosing(watch(etcd, PREFIX)) as batches,
    ):
        await etcd.put(f"{PREFIX}a", b"1")
        assert list((await next_of(batches)).entries) == [f"{PREFIX}a"]
        await server.restart()
        revision = await etcd.put(f"{PREFIX}a", b"2")
        assert (await next_of(batches)).revision == revision
