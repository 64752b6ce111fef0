"""One chain: appends are stored once and in order, whoever else writes and whatever gets lost."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import msgspec
import pytest

from langmesh.bus import Bus, connect
from langmesh.embedded.nats import EmbeddedNats
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import BrokenChain, Fenced, Overtaken, ThreadState
from langmesh.wire.log import BaseRecord, UnknownRecord
from tests.log.kit import (
    bodies,
    chain_of,
    checkpoint,
    entries,
    logs_on,
    proxy_before,
    state_of,
    writes,
)

CHAIN = chain_of("t")


async def test_an_entry_is_one_message_and_says_where_it_stands(bus: Bus):
    log = logs_on(bus, writer="me").own("t", epoch=7)
    tails = [await log.append([checkpoint("c1"), writes("x", b"1")]), await log.append([])]
    found = await entries(bus, CHAIN)
    assert [entry.number for entry in found] == [1, 2]
    assert {(entry.writer, entry.epoch, entry.thread) for entry in found} == {("me", 7, "t")}
    assert len({entry.id for entry in found}) == 2
    assert [tail.seq for tail in tails] == [seq for seq, _ in await bodies(bus, CHAIN)]
    assert log.tail == tails[-1]


async def test_appends_made_while_one_is_on_its_way_travel_together(bus: Bus):
    log = logs_on(bus).own("t")
    await log.load()
    futures = [log.append_nowait([checkpoint(f"c{n}")]) for n in range(20)]
    tails = await asyncio.gather(*futures)
    found = await entries(bus, CHAIN)
    assert [len(entry.records) for entry in found] == [1, 19]
    assert [tail.number for tail in tails] == [1] + [2] * 19
    assert list((await state_of(bus, CHAIN)).checkpoints) == [f"c{n}" for n in range(20)]
    assert list((await log.load()).checkpoints) == [f"c{n}" for n in range(20)]


async def test_memory_is_the_fold_of_the_chain(bus: Bus):
    log = logs_on(bus).shared("t")
    await log.append([checkpoint("c1")])
    await log.append([writes("x", b"1", b"2", checkpoint_id="c1"), checkpoint("c2", "c1")])
    await log.append([writes("x", b"other", checkpoint_id="c1")])
    memory, read = await log.load(), await state_of(bus, CHAIN)
    for name in ThreadState.__slots__:
        assert getattr(memory, name) == getattr(read, name)
    assert [write.value.data for _, write in memory.writes_of("c1")] == [b"1", b"2"]


async def test_a_reader_sees_what_another_process_wrote_and_loads_only_that(
    server: EmbeddedNats, bus: Bus
):
    async with connect(server.url, name="other") as elsewhere:
        here, there = logs_on(bus).shared("t"), logs_on(elsewhere).shared("t")
        for n in range(3):
            await there.append([checkpoint(f"c{n}")])
            state = await here.refresh()
            assert state.latest == f"c{n}"
        assert await here.refresh() is state, "nothing was read anew"


async def test_a_chain_of_many_pages_is_read_whole(bus: Bus):
    log = logs_on(bus).own("t")
    for n in range(600):
        await log.append([checkpoint(f"c{n:03}")])
    assert len((await state_of(bus, CHAIN)).checkpoints) == 600


async def test_the_second_owner_fences_the_first(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        first, second = logs_on(bus).own("t", epoch=1), logs_on(elsewhere).own("t", epoch=2)
        await first.append([checkpoint("c1")])
        await second.append([checkpoint("c2", "c1")])
        for _ in range(2):
            with pytest.raises(Fenced, match="thread 't'"):
                await first.append([checkpoint("lost")])
        with pytest.raises(Fenced):
            await first.refresh()
        await second.append([checkpoint("c3", "c2")])
        assert list((await state_of(bus, CHAIN)).checkpoints) == ["c1", "c2", "c3"]
        again = logs_on(bus).own("t", epoch=3)
        await again.append([checkpoint("c4", "c3")])
        assert [entry.epoch for entry in await entries(bus, CHAIN)] == [1, 2, 2, 3]


async def test_an_owner_that_only_reads_is_fenced_too(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        owner = logs_on(bus).own("t")
        await owner.append([checkpoint("c1")])
        await logs_on(elsewhere).shared("t").append([checkpoint("c2")])
        with pytest.raises(Fenced):
            await owner.refresh()


async def test_all_that_waits_is_fenced_with_the_entry_before_it(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        owner = logs_on(bus).own("t")
        await owner.load()
        await logs_on(elsewhere).own("t").append([checkpoint("c1")])
        futures = [owner.append_nowait([checkpoint(f"lost{n}")]) for n in range(3)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Fenced] * 3
        assert list((await state_of(bus, CHAIN)).checkpoints) == ["c1"]


async def test_who_shares_a_chain_is_told_that_another_was_first(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        log = logs_on(bus).shared("t")
        await log.load()
        await logs_on(elsewhere).shared("t").append([checkpoint("c1")])
        with pytest.raises(Overtaken):
            await log.append_nowait([checkpoint("c2")])
        assert list((await log.load()).checkpoints) == ["c1"]


async def test_many_writers_share_a_chain_without_loss_or_fork(server: EmbeddedNats, bus: Bus):
    writers, each = 6, 20

    async def write(writer: int) -> None:
        async with connect(server.url, name=f"writer {writer}") as own:
            log = logs_on(own, writer=f"w{writer}").shared("t")
            for n in range(each):
                record = writes(f"{writer}-{n}", b"1")

                async def build(state: ThreadState):
                    new = state.new_writes(record)  # noqa: B023  awaited at once
                    return [msgspec.structs.replace(record, writes=new)] if new else []  # noqa: B023

                await log.commit(build)

    await asyncio.gather(*map(write, range(writers)))
    found = await entries(bus, CHAIN)
    assert len(found) == writers * each
    stored = (await state_of(bus, CHAIN)).writes["c"]
    assert {task for task, _ in stored} == {f"{w}-{n}" for w in range(writers) for n in range(each)}
    for writer in range(writers):
        mine = [e.records[0].task_id for e in found if e.writer == f"w{writer}"]
        assert mine == [f"{writer}-{n}" for n in range(each)], "in the order of its calls"


@pytest.mark.parametrize("owner", [True, False])
async def test_a_lost_acknowledgement_is_no_second_write(
    server: EmbeddedNats, bus: Bus, owner: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmesh.log.outbox.ACK_TIMEOUT_S", 0.2)
    async with proxy_before(server.url) as proxy, connect(proxy.url, name="far") as far:
        log = logs_on(far).own("t") if owner else logs_on(far).shared("t")
        await log.append([checkpoint("c1")])
        proxy.drop = 1
        tail = await log.append([checkpoint("c2")])
        assert proxy.dropped.is_set()
        assert tail.number == 2
        proxy.drop = 3
        await log.append([checkpoint("c3")])
        await log.append([checkpoint("c4")])
    assert list((await state_of(bus, CHAIN)).checkpoints) == ["c1", "c2", "c3", "c4"]
    assert len(await entries(bus, CHAIN)) == 4


async def test_a_lost_acknowledgement_under_anothers_entry_is_a_success(
    server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmesh.log.outbox.ACK_TIMEOUT_S", 0.5)
    async with proxy_before(server.url) as proxy, connect(proxy.url, name="far") as far:
        log = logs_on(far).shared("t")
        await log.load()
        proxy.drop = 1
        future = log.append_nowait([checkpoint("c1")])
        await proxy.dropped.wait()
        await logs_on(bus).shared("t").append([checkpoint("c2", "c1")])
        assert (await future).number == 1
        assert list((await log.load()).checkpoints) == ["c1", "c2"]
    assert len(await entries(bus, CHAIN)) == 2


async def test_silence_ends_in_an_error_that_says_that_the_outcome_is_unknown(
    server: EmbeddedNats, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmesh.log.outbox.ACK_TIMEOUT_S", 0.1)
    log = logs_on(bus, patience_s=0.2).own("t")
    await log.append([checkpoint("c1")])
    server.pause()
    futures = [log.append_nowait([checkpoint("c2")]), log.append_nowait([checkpoint("c3")])]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    server.resume()
    for outcome in outcomes:
        assert isinstance(outcome, MeshError)
        assert outcome.code is ErrorCode.BROKER_UNAVAILABLE
        assert "is not known" in outcome.message
    await bus.flush()
    state = await log.load()
    assert list(state.checkpoints) in (["c1"], ["c1", "c2"]), "the chain tells"
    await log.append([checkpoint("c4")])
    assert "c4" in (await state_of(bus, CHAIN)).checkpoints


async def test_who_waits_when_logs_are_closed_is_told(server: EmbeddedNats, bus: Bus):
    logs = logs_on(bus)
    log = logs.own("t")
    await log.load()
    server.pause()
    futures = [log.append_nowait([checkpoint(f"c{n}")]) for n in range(2)]
    logs.close()
    server.resume()
    for future in futures:
        with pytest.raises(MeshError, match="the log is closed"):
            await future
    assert log.idle


async def test_what_cannot_be_encoded_fails_alone(bus: Bus):
    log = logs_on(bus).own("t")
    await log.append([checkpoint("c1")])
    with pytest.raises(MeshError, match=r"writes\.v1"):
        log.append_nowait([writes("\ud800", b"1")])
    await log.append([checkpoint("c2")])
    assert list((await log.load()).checkpoints) == ["c1", "c2"]


async def test_records_of_a_later_version_are_kept_in_the_journal(bus: Bus):
    log = logs_on(bus).own("t")
    raw = msgspec.Raw(msgspec.msgpack.encode({"type": "run.started.v1", "run": "r1"}))
    await log.append([checkpoint("c1"), UnknownRecord("run.started.v1", raw), checkpoint("c2")])
    for state in (await log.load(), await state_of(bus, CHAIN)):
        assert [(n, record.type, bytes(record.raw)) for n, record in state.journal] == [
            (1, "run.started.v1", bytes(raw))
        ]
    await log.rebase(lambda state: state.records({"c2"}))
    state = await state_of(bus, CHAIN)
    assert [(n, bytes(record.raw)) for n, record in state.journal] == [(2, bytes(raw))]
    assert list(state.checkpoints) == ["c2"]


async def test_a_base_voids_what_was_before_and_the_chain_still_verifies(bus: Bus):
    log = logs_on(bus).shared("t")
    for n in range(5):
        await log.append([checkpoint(f"c{n}")])
    before = await bodies(bus, CHAIN)
    assert await log.rebase(lambda state: state.records({"c4"}))
    await log.append([checkpoint("c5", "c4")])
    left = await bodies(bus, CHAIN)
    assert len(left) == 2
    base = msgspec.msgpack.decode(left[0][1])
    assert base["number"] == 6
    assert base["records"][0] == {"type": BaseRecord.__struct_config__.tag, "pruned": 5}
    assert base["previous"] == sha256(before[-1][1]).digest(), "it commits to what is gone"
    assert list((await state_of(bus, CHAIN)).checkpoints) == ["c4", "c5"]
    assert not await log.rebase(lambda state: None)


async def test_a_writer_with_an_old_memory_learns_of_a_base(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        here, there = logs_on(bus).shared("t"), logs_on(elsewhere).shared("t")
        for n in range(3):
            await there.append([checkpoint(f"c{n}")])
        await here.load()
        await there.rebase(lambda state: state.records({"c2"}))
        with pytest.raises(Overtaken):
            await here.append_nowait([checkpoint("c3")])
        assert list((await here.load()).checkpoints) == ["c2"]
        await here.append([checkpoint("c3")])
        assert list((await there.refresh()).checkpoints) == ["c2", "c3"]


async def test_a_base_does_not_void_what_was_appended_meanwhile(bus: Bus):
    log = logs_on(bus).shared("t")
    await log.append([checkpoint("c1")])
    late: list[asyncio.Future] = []

    def select(state: ThreadState):
        if not late:
            late.append(log.append_nowait([checkpoint("c2", "c1")]))
        return state.records({state.latest})

    await log.rebase(select)
    await late[0]
    assert list((await state_of(bus, CHAIN)).checkpoints) == ["c2"]


async def test_a_deleted_thread_begins_anew(server: EmbeddedNats, bus: Bus):
    async with connect(server.url, name="other") as elsewhere:
        here, there = logs_on(bus), logs_on(elsewhere)
        log = here.shared("t")
        for n in range(3):
            await log.append([checkpoint(f"c{n}")])
        await there.delete("t")
        assert not (await log.refresh()).checkpoints
        await there.shared("t").append([checkpoint("new")])
        assert list((await log.refresh()).checkpoints) == ["new"]
        await there.delete("t")
        with pytest.raises(Overtaken):
            await log.append_nowait([checkpoint("c4")])
        await log.append([checkpoint("c5")])
        assert [entry.number for entry in await entries(bus, CHAIN)] == [1]


async def test_large_records_lie_in_the_object_store(bus: Bus):
    log = logs_on(bus).own("t")
    large = [writes(f"t{n}", bytes(40_000) + bytes([n])) for n in range(20)]
    await log.append([checkpoint("c"), *large])
    ((_, body),) = await bodies(bus, CHAIN)
    assert len(body) < 1000
    state = await state_of(bus, CHAIN)
    assert len(state.writes["c"]) == 20
    await log.rebase(lambda state: state.records())
    assert len((await state_of(bus, CHAIN)).writes["c"]) == 20


async def test_chains_are_dropped_from_memory_when_there_are_too_many(bus: Bus):
    logs = logs_on(bus, cache_bytes=60_000)
    for n in range(30):
        await logs.shared(f"t{n}").append([writes("x", bytes(3000))])
    assert logs.cached < 12
    for n in range(30):
        assert "c" in (await logs.shared(f"t{n}").refresh()).writes


async def test_threads_are_found_by_their_names_however_odd_these_are(bus: Bus):
    logs = logs_on(bus)
    names = ["plain", "a.b", "*", ">", "h--1", "x--1", "ü" * 300, "a b\r\n", "🙂", "t" * 4096]
    spaces = ["", "child:1", "h--" + "n" * 50, "node:0123456789abcdef|" * 40, "."]
    for name in names:
        for space in spaces:
            await logs.shared(name, space).append([checkpoint("c")])
    fresh = logs_on(bus)
    found = {(chain.thread, chain.namespace) for chain in await fresh.chains()}
    assert found == {(name, space) for name in names for space in spaces}
    for name in names:
        assert {chain.namespace for chain in await fresh.chains(name)} == set(spaces)
    await fresh.delete("a.b")
    assert "a.b" not in {chain.thread for chain in await logs_on(bus).chains()}


@pytest.mark.parametrize(
    ("thread", "namespace", "field"),
    [("", "", "thread_id"), ("t" * 4097, "", "thread_id"), ("t", "\ud800", "checkpoint_ns")],
)
async def test_a_name_that_cannot_be_kept_is_refused(bus, thread, namespace, field):
    with pytest.raises(MeshError, match=f"^{field}: ") as refusal:
        logs_on(bus).shared(thread, namespace)
    assert refusal.value.code is ErrorCode.INVALID_NAME


async def test_quarantine_is_for_good(bus: Bus):
    log = logs_on(bus).own("t")
    for n in range(3):
        await log.append([checkpoint(f"c{n}")])
    (_, _), (middle, _), _ = await bodies(bus, CHAIN)
    await bus.delete("LOG", middle)
    broken = logs_on(bus).own("t")
    for attempt in (broken.load(), broken.refresh(), broken.append([checkpoint("c3")])):
        with pytest.raises(BrokenChain):
            await attempt
    assert len(await bodies(bus, CHAIN)) == 2, "nothing was written behind the break"
