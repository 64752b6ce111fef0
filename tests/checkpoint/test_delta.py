"""Delta channels, whose values are replayed from writes, survive pruning and other processes."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from tests.checkpoint.kit import listed

CONFIG = {"configurable": {"thread_id": "t"}}
CHANNELS = ["notes", "often"]


def extend(value: list[str], updates: list[list[str]]) -> list[str]:
    return value + [note for update in updates for note in update]


class State(TypedDict, total=False):
    notes: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=1000)]
    often: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=3)]
    n: int


def graph_on(saver: BaseCheckpointSaver) -> Any:
    async def one(state: State) -> State:
        n = state.get("n", 0)
        return {"notes": [f"one {n}"], "often": [f"one {n}"], "n": n + 1}

    async def two(state: State) -> State:
        return {"notes": [f"two {state['n']}", "and more"]}

    builder = StateGraph(State).add_node("one", one).add_node("two", two).add_node("too", two)
    builder.add_edge(START, "one").add_edge("one", "two").add_edge("one", "too")
    return builder.compile(checkpointer=saver)


async def run(saver: BaseCheckpointSaver, durability: str, times: int = 5) -> dict[str, Any]:
    graph = graph_on(saver)
    for n in range(times):
        await graph.ainvoke({"often": [f"in {n}"]}, CONFIG, durability=durability)
    state: dict[str, Any] = (await graph.aget_state(CONFIG)).values
    return state


async def replayed(saver: BaseCheckpointSaver) -> list[Any]:
    """What every checkpoint's delta channels are replayed from, without task ids."""
    found = []
    for one in [one async for one in saver.alist(CONFIG)]:
        histories = await saver.aget_delta_channel_history(config=one.config, channels=CHANNELS)
        found.append(
            {
                name: ([write[1:] for write in history["writes"]], history.get("seed"))
                for name, history in histories.items()
            }
        )
    return found


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_delta_channels_are_replayed_as_from_memory(
    server: EmbeddedNats, saver: NatsSaver, durability: str
):
    memory = InMemorySaver()
    expected = await run(memory, durability)
    assert await run(saver, durability) == expected
    assert await replayed(saver) == await replayed(memory)
    async with NatsSaver.connect(server.url) as fresh:
        assert (await graph_on(fresh).aget_state(CONFIG)).values == expected
        assert await replayed(fresh) == await replayed(memory)
        latest = (await fresh.aget_tuple(CONFIG)).config  # type: ignore[union-attr]
        default = await BaseCheckpointSaver.aget_delta_channel_history(
            fresh, config=latest, channels=CHANNELS
        )
        own = await fresh.aget_delta_channel_history(config=latest, channels=CHANNELS)
        assert own == default, "as LangGraph itself walks"


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_pruning_keeps_what_delta_channels_are_replayed_from(
    saver: NatsSaver, durability: str
):
    expected = await run(saver, durability)
    before = len(await listed(saver, CONFIG))
    await saver.aprune(["t"])
    assert (await graph_on(saver).aget_state(CONFIG)).values == expected
    assert len(await listed(saver, CONFIG)) <= before
    other = await run(saver, durability, times=1)
    assert other["notes"][: len(expected["notes"])] == expected["notes"]


async def test_pruning_ends_at_a_snapshot(saver: NatsSaver):
    """Only what stands between the latest checkpoint and the last stored value is kept."""

    class Often(TypedDict, total=False):
        notes: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]

    async def node(state: Often) -> Often:
        return {"notes": ["note"]}

    builder = StateGraph(Often).add_node("node", node).add_edge(START, "node")
    graph = builder.compile(checkpointer=saver)
    for _ in range(15):
        await graph.ainvoke({"notes": ["in"]}, CONFIG, durability="sync")
    expected = (await graph.aget_state(CONFIG)).values
    assert len(expected["notes"]) == 30
    await saver.aprune(["t"])
    assert (await graph.aget_state(CONFIG)).values == expected
    assert 1 <= len(await listed(saver, CONFIG)) <= 8


async def test_a_copy_replays_the_same(saver: NatsSaver):
    expected = await run(saver, "sync")
    await saver.acopy_thread("t", "copy")
    copy = {"configurable": {"thread_id": "copy"}}
    assert (await graph_on(saver).aget_state(copy)).values == expected
