"""A graph with all that a takeover must not break: a fan-out, a loop, and a gate for a human."""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from tests.graphs.shapes import Trail, step


def count(state: Trail) -> Trail:
    """Begin another round."""
    return {"trail": ["count"], "n": state.get("n", 0) + 1}


def gated() -> CompiledStateGraph:
    """Two rounds of ``count``, ``left`` beside ``right``, ``merge``; then ``sign``, if allowed."""
    graph = _rounds()
    graph.add_edge("sign", END)
    return graph.compile(interrupt_before=["sign"])


def checked() -> CompiledStateGraph:
    """The same with the gate behind ``sign``, before ``close``."""
    graph = _rounds()
    graph.add_node("close", step("close"))
    graph.add_edge("sign", "close")
    graph.add_edge("close", END)
    return graph.compile(interrupt_after=["sign"])


def _rounds() -> StateGraph:
    graph = StateGraph(Trail)
    graph.add_node("count", count)
    for name in ("left", "right", "merge", "sign"):
        graph.add_node(name, step(name))
    graph.add_edge(START, "count")
    graph.add_edge("count", "left")
    graph.add_edge("count", "right")
    graph.add_edge(["left", "right"], "merge")
    graph.add_conditional_edges(
        "merge", lambda state: "count" if state["n"] < 2 else "sign", ["count", "sign"]
    )
    return graph
