"""The topology: planner → a researcher per sub-question → writer → reviewer → again or the end."""

from __future__ import annotations

from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from langmesh.graphs.lazy import lazy
from research.state import Answer, Assignment, Question, State


def fan_out(state: State) -> list[Send]:
    """Send each sub-question of the plan to a researcher of its own."""
    return [
        Send("researcher", Assignment(question=state["question"], subquestion=subquestion))
        for subquestion in state["plan"]
    ]


def verdict(state: State) -> Literal["planner", "__end__"]:
    """Plan another round while the reviewer asks for one; it stops asking after ROUNDS_MAX."""
    return "planner" if state["feedback"] else "__end__"


graph = StateGraph(State, input_schema=Question, output_schema=Answer)
graph.add_node("planner", lazy("services.planner.node:plan"))
graph.add_node("researcher", lazy("services.researcher.node:research"), input_schema=Assignment)
graph.add_node("writer", lazy("services.writer.node:write"))
graph.add_node("reviewer", lazy("services.reviewer.node:review"))
graph.add_edge(START, "planner")
graph.add_conditional_edges("planner", fan_out, ["researcher"])
graph.add_edge("researcher", "writer")
graph.add_edge("writer", "reviewer")
graph.add_conditional_edges("reviewer", verdict, ["planner", END])
