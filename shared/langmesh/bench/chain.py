"""The graph that is measured: ``langmesh.bench.chain:chain_10`` is a chain of ten idle nodes."""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class Count(TypedDict):
    """How many nodes have run."""

    n: int


async def step(state: Count) -> Count:
    """Count one node."""
    return {"n": state["n"] + 1}


def chain(steps: int) -> StateGraph[Any, Any, Any, Any]:
    """A chain of nodes ``n1`` … ``n<steps>``."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Count)
    before = START
    for name in nodes(steps):
        graph.add_node(name, step)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph


def nodes(steps: int) -> list[str]:
    """Names of the nodes of a chain."""
    return [f"n{i}" for i in range(1, steps + 1)]


def __getattr__(name: str) -> StateGraph[Any, Any, Any, Any]:
    prefix, _, steps = name.partition("_")
    if prefix != "chain" or not steps.isdigit():
        raise AttributeError(name)
    return chain(int(steps))
