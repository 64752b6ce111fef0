"""A stock graph on NatsSaver has the history that it has on InMemorySaver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import Command, StateSnapshot

from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from tests.checkpoint import graphs

CONFIG = {"configurable": {"thread_id": "t"}}
DURABILITIES = ("sync", "async", "exit")
Seen = list[Any]


def shown(snapshot: StateSnapshot, ids: dict[str, int]) -> dict[str, Any]:
    """A snapshot with ids as numbers, and without times."""

    def number(config: Any) -> Any:
        if config is None:
            return None
        where = config["configurable"]
        known = ids.setdefault(where["checkpoint_id"], len(ids))
        return where["thread_id"], bool(where.get("checkpoint_ns")), known

    return {
        "values": snapshot.values,
        "next": snapshot.next,
        "config": number(snapshot.config),
        "parent": number(snapshot.parent_config),
        "metadata": {k: v for k, v in (snapshot.metadata or {}).items() if k != "parents"},
        "tasks": [
            (
                task.name,
                str(task.error),
                [one.value for one in task.interrupts],
                task.result,
                shown(task.state, ids)
                if isinstance(task.state, StateSnapshot)
                else bool(task.state),
            )
            for task in snapshot.tasks
        ],
        "interrupts": [one.value for one in snapshot.interrupts],
    }


async def history(graph: Any) -> Seen:
    ids: dict[str, int] = {}
    snapshots = [one async for one in graph.aget_state_history(CONFIG)]
    return [shown(one, ids) for one in reversed(snapshots)]


async def turns(graph: Any, *inputs: Any, durability: str) -> Seen:
    """The outcome of each turn and the history after it."""
    seen: Seen = []
    for given in inputs:
        output = await graph.ainvoke(given, CONFIG, durability=durability)
        output.pop("__interrupt__", None)
        seen += [output, await history(graph)]
    state = await graph.aget_state(CONFIG, subgraphs=True)
    return [*seen, shown(state, {})]


async def simple(graph: Any, durability: str) -> Seen:
    return await turns(graph, {"n": 0}, {"n": 10, "trail": ["again"]}, durability=durability)


async def questions(graph: Any, durability: str) -> Seen:
    resumes = [Command(resume="Ada"), Command(resume="36")]
    return await turns(graph, {"n": 0}, *resumes, {"n": 5}, durability=durability)


async def subgraph(graph: Any, durability: str) -> Seen:
    return await turns(graph, {"n": 0}, Command(resume="yes"), durability=durability)


async def edits(graph: Any, durability: str) -> Seen:
    """The state is changed by hand, and the graph goes on from there."""
    seen = await turns(graph, {"n": 0}, durability=durability)
    await graph.aupdate_state(CONFIG, {"trail": ["by hand"]}, as_node="a")
    seen.append(await history(graph))
    return seen + await turns(graph, None, durability=durability)


async def forks(graph: Any, durability: str) -> Seen:
    """An older checkpoint is run again, and another one with another state."""
    seen = await turns(graph, {"n": 0}, {"n": 3}, durability=durability)
    snapshots = [one async for one in graph.aget_state_history(CONFIG)]
    middle = snapshots[len(snapshots) // 2]
    seen.append(await graph.ainvoke(None, middle.config, durability=durability))
    seen.append(await history(graph))
    forked = await graph.aupdate_state(middle.config, {"trail": ["fork"]})
    seen.append(await graph.ainvoke(None, forked, durability=durability))
    seen.append(await history(graph))
    state = await graph.aget_state(middle.config)
    return [*seen, shown(state, {})]


CASES: dict[str, tuple[Callable[[], StateGraph], Any]] = {
    "chain": (graphs.chain, simple),
    "fan": (graphs.fan, simple),
    "jumps": (graphs.jumps, simple),
    "asks": (graphs.asks, questions),
    "nested": (graphs.nested, subgraph),
    "edits": (graphs.chain, edits),
    "forks": (graphs.chain, forks),
    "forks of fans": (graphs.fan, forks),
}


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("case", CASES)
async def test_history_is_that_of_the_saver_in_memory(
    server: EmbeddedNats, saver: NatsSaver, case: str, durability: str
):
    build, scenario = CASES[case]
    expected = await scenario(build().compile(checkpointer=InMemorySaver()), durability)
    assert await scenario(build().compile(checkpointer=saver), durability) == expected
    # And somebody who remembers nothing reads the same.
    async with NatsSaver.connect(server.url) as other:
        again = build().compile(checkpointer=other)
        assert await history(again) == await history(build().compile(checkpointer=saver))
        state = shown(await again.aget_state(CONFIG, subgraphs=True), {})
        assert state == shown(
            await build().compile(checkpointer=saver).aget_state(CONFIG, subgraphs=True), {}
        )


async def test_each_turn_may_be_in_another_process(server: EmbeddedNats):
    expected = await questions(graphs.asks().compile(checkpointer=InMemorySaver()), "sync")
    seen: Seen = []
    for given in ({"n": 0}, Command(resume="Ada"), Command(resume="36"), {"n": 5}):
        async with NatsSaver.connect(server.url) as saver:
            graph = graphs.asks().compile(checkpointer=saver)
            *found, last = await turns(graph, given, durability="sync")
            seen += found
    assert [*seen, last] == expected


async def test_a_graph_in_another_thread_uses_the_saver_without_await(saver: NatsSaver):
    config = {"configurable": {"thread_id": "sync"}}

    def use(checkpointer: Any) -> Seen:
        graph = graphs.asks().compile(checkpointer=checkpointer)
        graph.invoke({"n": 0}, config)
        graph.invoke(Command(resume="Ada"), config)
        graph.update_state(config, {"trail": ["by hand"]}, as_node="before")
        ids: dict[str, int] = {}
        snapshots = list(graph.get_state_history(config, limit=10))
        return [shown(one, ids) for one in snapshots] + [shown(graph.get_state(config), {})]

    assert await asyncio.to_thread(use, saver) == use(InMemorySaver())
