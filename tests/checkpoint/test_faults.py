"""Graphs whose nats-server is killed while they run lose nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any

import pytest
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langmesh.bus import connect
from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from tests.checkpoint.kit import at, listed, put
from tests.log.kit import chain_of, state_of

CONFIG = {"configurable": {"thread_id": "t"}}


class Trail(TypedDict, total=False):
    trail: Annotated[list[int], operator.add]


def line(length: int, gate: Any) -> StateGraph:
    """Nodes one after the other; each tells the gate that it runs."""

    def made(n: int) -> Any:
        async def node(state: Trail) -> Trail:
            await gate(n)
            return {"trail": [n]}

        return node

    builder = StateGraph(Trail)
    builder.add_sequence([(f"n{n}", made(n)) for n in range(length)])
    return builder.add_edge(START, "n0")


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_run_goes_on_when_the_server_is_back(
    server: EmbeddedNats, saver: NatsSaver, durability: str
):
    async def gate(n: int) -> None:
        if n in (2, 5):
            await server.kill()
            await server.start()

    graph = line(8, gate).compile(checkpointer=saver)
    output = await graph.ainvoke({"trail": []}, CONFIG, durability=durability)
    assert output["trail"] == list(range(8))
    async with NatsSaver.connect(server.url) as fresh:
        found = await listed(fresh, CONFIG)
        assert found[0].checkpoint["channel_values"]["trail"] == list(range(8))
        if durability != "exit":
            steps = [one.metadata["step"] for one in found]
            assert steps == list(range(8, -2, -1))


async def test_every_put_that_returned_is_there(server: EmbeddedNats, saver: NatsSaver):
    threads, ids, stop = 4, {}, asyncio.Event()

    async def write(thread: str) -> None:
        config = at(thread)
        while not stop.is_set():
            n = len(ids.setdefault(thread, []))
            config = await put(saver, config, {"n": n})
            ids[thread].append(config["configurable"]["checkpoint_id"])
            await saver.aput_writes(config, [("n", n)], "task")

    async def until(count: int) -> None:
        while len(ids) < threads or min(map(len, ids.values())) < count:
            await asyncio.sleep(0.002)

    writers = [asyncio.create_task(write(f"t{n}")) for n in range(threads)]
    for count in (10, 25, 40):
        await until(count)
        await server.kill()
        await server.start()
    await until(50)
    stop.set()
    await asyncio.gather(*writers)
    async with NatsSaver.connect(server.url) as fresh, connect(server.url, name="look") as bus:
        for thread, stored in ids.items():
            found = await listed(fresh, at(thread))
            assert [one.checkpoint["id"] for one in reversed(found)] == stored
            assert all(len(one.pending_writes or ()) == 1 for one in found)
            assert list((await state_of(bus, chain_of(thread))).checkpoints) == stored


async def test_a_run_that_failed_without_the_broker_is_resumed_from_its_last_checkpoint(
    server: EmbeddedNats,
):
    down = {3}

    async def gate(n: int) -> None:
        if n in down:
            down.remove(n)
            await server.kill()

    async with NatsSaver.connect(server.url, patience_s=0.3) as saver:
        graph = line(6, gate).compile(checkpointer=saver)
        with pytest.raises(Exception, match=r"not known|not acknowledge|no answer"):
            await graph.ainvoke({"trail": []}, CONFIG, durability="sync")
        await server.start()
        output = await graph.ainvoke(None, CONFIG, durability="sync")
        assert output["trail"] == list(range(6))
