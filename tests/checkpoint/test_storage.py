"""What is stored: nothing twice, nothing too large for the broker, nothing longer than wanted."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from langmesh.bus import Bus, connect
from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from langmesh.errors import MeshError
from langmesh.wire.codec import BLOB_BYTES_MIN
from tests.checkpoint import graphs
from tests.checkpoint.kit import at, listed, objects, put, stored, values_of
from tests.log.kit import chain_of, entries, state_of


@pytest.fixture
async def bus(server: EmbeddedNats, saver: NatsSaver):
    async with connect(server.url, name="look") as bus:
        yield bus


async def history_of(saver: NatsSaver, thread: str = "t") -> list[Any]:
    return await listed(saver, at(thread))


async def test_an_unchanged_channel_is_not_stored_again(saver: NatsSaver, bus: Bus):
    big = "x" * 100_000
    config = await put(saver, at("t"), {"big": big, "n": 0})
    for n in range(1, 20):
        config = await put(saver, config, {"n": n})
    sizes = [len(body) for body in await stored(bus, "t")]
    assert sizes[0] > len(big)
    assert max(sizes[1:]) < 1500
    assert [values_of(one) for one in await history_of(saver)] == [
        {"big": big, "n": n} for n in reversed(range(20))
    ]


async def test_a_superstep_of_a_graph_costs_two_small_entries(saver: NatsSaver, bus: Bus):
    """A large value that no node changes is not in the entries of later supersteps."""

    class State(TypedDict, total=False):
        big: str
        n: int

    async def node(state: State) -> State:
        return {"n": state.get("n", 0) + 1}

    builder = StateGraph(State)
    builder.add_sequence([(f"node{n}", node) for n in range(10)]).add_edge(START, "node0")
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"big": "x" * 50_000}, config, durability="sync")
    bodies = await stored(bus, "t")
    # The input arrives as one value, is written as a channel, and is then never stored again.
    assert len([body for body in bodies if len(body) > 50_000]) <= 2 + 1
    assert len([body for body in bodies[-18:] if len(body) > 4000]) == 0
    assert len(bodies) <= 2 * 12


async def test_a_large_value_is_an_object_and_stored_once(saver: NatsSaver, bus: Bus):
    big = "x" * (BLOB_BYTES_MIN * 8)
    config = await put(saver, at("t"), {"big": big, "n": 0})
    for n in range(1, 4):
        config = await put(saver, config, {"n": n})
    await put(saver, at("other"), {"same": big})
    await saver.aput_writes(config, [("big", big)], "task")
    assert len(await objects(bus)) == 1
    assert max(map(len, await stored(bus, "t"))) < 2000
    found = await saver.aget_tuple(at("t"))
    assert values_of(found) == {"big": big, "n": 3}
    assert found is not None
    assert found.pending_writes == [("task", "big", big)]


async def test_an_entry_never_exceeds_what_the_broker_takes(saver: NatsSaver, bus: Bus):
    """Each value is small enough for an entry, all together are not."""
    many = {f"channel{n}": "x" * 200_000 for n in range(12)}
    config = await put(saver, at("t"), many)
    await saver.aput_writes(config, list(many.items()), "task")
    await put(saver, config, {"n": 1})
    assert max(map(len, await stored(bus, "t"))) < BLOB_BYTES_MIN
    found = await saver.aget_tuple(at("t"))
    assert values_of(found) == {**many, "n": 1}


async def test_large_metadata_and_many_channels_fit(saver: NatsSaver):
    config = await put(saver, at("t"), {f"c{n}": n for n in range(5000)}, note="x" * 600_000)
    found = await saver.aget_tuple(config)
    assert len(values_of(found)) == 5000
    assert found is not None
    assert found.metadata["note"] == "x" * 600_000


async def test_pruning_keeps_the_latest_and_the_chain_verifies(
    server: EmbeddedNats, saver: NatsSaver, bus: Bus
):
    config = at("t")
    for n in range(10):
        config = await put(saver, config, {"n": n} if n else {"big": "x" * 5000, "n": 0})
    await saver.aput_writes(config, [("n", 99)], "task")
    before = await saver.aget_tuple(config)
    size = sum(map(len, await stored(bus, "t")))
    await saver.aprune(["t"])
    assert len(await stored(bus, "t")) == 1
    assert sum(map(len, await stored(bus, "t"))) < size - 2000
    async with NatsSaver.connect(server.url) as fresh:
        for reader in (saver, fresh):
            assert await reader.aget_tuple(config) == before
            assert len(await history_of(reader)) == 1
        config = await put(fresh, config, {"n": 10})
    assert values_of(await saver.aget_tuple(at("t"))) == {"big": "x" * 5000, "n": 10}
    assert list((await state_of(bus, chain_of("t"))).checkpoints) == [
        before.checkpoint["id"],  # type: ignore[union-attr]
        config["configurable"]["checkpoint_id"],
    ]


async def test_pruning_what_has_no_history_writes_nothing(saver: NatsSaver, bus: Bus):
    await put(saver, at("t"), {"n": 1})
    body = await stored(bus, "t")
    await saver.aprune(["t"])
    assert await stored(bus, "t") == body


async def test_a_graph_goes_on_after_pruning(saver: NatsSaver):
    graph = graphs.asks().compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"n": 0}, config)
    await saver.aprune(["t"])
    assert [task.name for task in (await graph.aget_state(config)).tasks] == ["ask"]
    await graph.ainvoke(Command(resume="Ada"), config)
    await saver.aprune(["t"])
    output = await graph.ainvoke(Command(resume="36"), config)
    assert output["trail"] == ["before", "Ada 36", "z"]


async def test_deleting_a_run_deletes_its_bodies(saver: NatsSaver, bus: Bus):
    first = await put(saver, at("t"), {"a": "secret of run 1"}, run_id="r1")
    await saver.aput_writes(first, [("a", "also secret")], "task")
    second = await put(saver, first, {"a": "of run 2"}, run_id="r2")
    await put(saver, at("u"), {"a": 1}, run_id="r2")
    await saver.adelete_for_runs(["r1"])
    assert [one.config for one in await history_of(saver)] == [second]
    assert not [body for body in await stored(bus, "t") if b"secret" in body]
    assert len(await history_of(saver, "u")) == 1


async def test_a_copy_is_a_thread_of_its_own(saver: NatsSaver, bus: Bus):
    big = "x" * BLOB_BYTES_MIN
    config = await put(saver, at("t"), {"big": big, "n": 0})
    for n in range(1, 30):
        config = await put(saver, config, {"n": n, "text": f"{n}" * 20_000})
    await saver.aput_writes(config, [("n", 1)], "task")
    await put(saver, at("t", namespace="ns"), {"a": 1})
    for _ in range(2):
        await saver.acopy_thread("t", "copy")
    source, copy = await history_of(saver), await history_of(saver, "copy")
    assert [one.checkpoint for one in copy] == [one.checkpoint for one in source]
    assert [one.pending_writes for one in copy] == [one.pending_writes for one in source]
    assert {one.config["configurable"]["thread_id"] for one in copy} == {"copy"}
    assert len(await entries(bus, chain_of("copy"))) == 1, "the second copy found all of it there"
    assert values_of(await saver.aget_tuple(at("copy", namespace="ns"))) == {"a": 1}
    await saver.adelete_thread("t")
    assert len(await history_of(saver, "copy")) == 30
    assert await history_of(saver) == []


async def test_a_deleted_thread_leaves_no_message(saver: NatsSaver, bus: Bus):
    await put(saver, at("t"), {"a": 1})
    await put(saver, at("t", namespace="ns"), {"a": 1})
    await put(saver, at("t2"), {"a": 1})
    await saver.adelete_thread("t")
    info = await bus.api("STREAM.INFO.LOG")
    assert info["state"]["messages"] == 1


async def test_a_value_that_cannot_be_stored_is_named(saver: NatsSaver, bus: Bus):
    with pytest.raises(MeshError, match="channel 'a': a object cannot be stored"):
        await put(saver, at("t"), {"a": object()})
    with pytest.raises(MeshError, match="write to 'b'"):
        await saver.aput_writes(at("t", "c1"), [("b", object())], "task")
    assert await stored(bus, "t") == []
