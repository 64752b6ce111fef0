"""A graph of nodes that wait: ``langmesh.bench.pause:pause``."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

NODES: Final = ("first", "second", "third")
SECONDS: Final = 1.0
"""How long each node takes."""


class Waited(TypedDict):
    """How many nodes have waited."""

    n: int


async def wait(state: Waited) -> Waited:
    """Take a while, as a node does that asks a model."""
    await asyncio.sleep(SECONDS)
    return {"n": state["n"] + 1}


def pause() -> StateGraph[Any, Any, Any, Any]:
    """The nodes, one after the other."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Waited)
    before = START
    for name in NODES:
        graph.add_node(name, wait)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph
