"""A graph that asks a human."""

from __future__ import annotations

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from tests.graphs.shapes import Trail, step


async def ask(state: Trail) -> Trail:
    """Wait for a human's answer."""
    return {"trail": [f"ask {interrupt({'approve': state['trail'][-1]})}"]}


def approval() -> StateGraph:
    """``draft``, then ``ask``."""
    graph = StateGraph(Trail)
    graph.add_node("draft", step("draft"))
    graph.add_node("ask", ask)
    graph.add_edge(START, "draft")
    graph.add_edge("draft", "ask")
    return graph
