"""A graph that calls itself."""

from __future__ import annotations

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langmesh import MeshGraph, current
from tests.graphs import gates


class Depth(TypedDict):
    """How deep to go on, and how many levels answered."""

    depth: int
    levels: int


async def descend(state: Depth) -> dict[str, int]:
    """Call the graph one level deeper; the deepest waits at the gate."""
    if state["depth"] == 0:
        await gates.gate.wait("deepest")
        return {"levels": 1}
    async with MeshGraph(current().graph) as sub:
        found = await sub.ainvoke({"depth": state["depth"] - 1, "levels": 0})
    return {"levels": found["levels"] + 1}


def nested() -> StateGraph:
    """One node that calls its own graph."""
    return StateGraph(Depth).add_node("descend", descend).add_edge(START, "descend")
