"""A graph that fails."""

from __future__ import annotations

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

import langmesh
from tests.graphs.shapes import Trail


class NotYet(Exception):
    """What the first attempt fails with."""


async def fail(state: Trail) -> Trail:
    """Fail with one reason, and then with another."""
    if langmesh.current().attempt == 1:
        raise NotYet("not yet")
    raise ValueError("out of order")


def failing() -> StateGraph:
    """One node, tried twice."""
    graph = StateGraph(Trail)
    retry = RetryPolicy(max_attempts=2, initial_interval=0.01, retry_on=NotYet)
    graph.add_node("fail", fail, retry_policy=retry)
    graph.add_edge(START, "fail")
    return graph
