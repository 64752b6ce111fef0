"""Three graphs, each started by a node of the one above: ``board``, ``planning``, ``research``."""

from __future__ import annotations

import asyncio

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langmesh import MeshGraph, SyncMeshGraph


class Inquiry(TypedDict, total=False):
    """Questions and what became of them."""

    questions: list[str]
    answers: list[str]


async def delegate(state: Inquiry) -> Inquiry:
    """Start the research graph for each question, then wait for all of them."""
    async with MeshGraph("research") as research:
        runs = [await research.submit({"question": each}) for each in state["questions"]]
        found = await asyncio.gather(*(run.result() for run in runs))
    return {"answers": [each["answer"] for each in found]}


def decide(state: Inquiry) -> Inquiry:
    """Hand the questions on from a plain function."""
    with SyncMeshGraph("planning") as planning:
        return {"answers": planning.invoke({"questions": state["questions"]})["answers"]}


def planning() -> StateGraph:
    """One node that waits for a run per question."""
    return StateGraph(Inquiry).add_node("delegate", delegate).add_edge(START, "delegate")


def board() -> StateGraph:
    """One blocking node above the planner."""
    return StateGraph(Inquiry).add_node("decide", decide).add_edge(START, "decide")
