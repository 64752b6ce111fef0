"""A graph with all that a takeover must not break, whose nodes take virtual time.

A fan-out whose branches end in either order, a join, a loop, a node that fails at first, and three
gates: before ``sign``, inside ``ask`` and after it.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy, interrupt

import langmesh
from langmesh.errors import MeshError

GATES = 3
BACKOFF_S = 2.0


class State(TypedDict, total=False):
    trail: Annotated[list[str], operator.add]
    rounds: int
    seconds: list[float]
    """How long ``left`` and ``right`` take."""


class Flaky(Exception):
    """It goes well the second time."""


async def count(state: State) -> dict[str, Any]:
    """Begin another round; the first attempt fails."""
    try:
        attempt = langmesh.current().attempt
    except MeshError:
        attempt = 2  # LangGraph alone, as the oracle
    if attempt == 1:
        raise Flaky
    return {"trail": [f"count {len(state['trail'])}"]}


async def left(state: State) -> dict[str, Any]:
    await asyncio.sleep(state["seconds"][0])
    return {"trail": ["left"]}


async def right(state: State) -> dict[str, Any]:
    await asyncio.sleep(state["seconds"][1])
    return {"trail": ["right"]}


async def merge(state: State) -> dict[str, Any]:
    return {"trail": [f"merge {len(state['trail'])}"], "rounds": state["rounds"] - 1}


async def sign(state: State) -> dict[str, Any]:
    return {"trail": ["sign"]}


async def ask(state: State) -> dict[str, Any]:
    return {"trail": [f"asked {interrupt('well?')}"]}


async def close(state: State) -> dict[str, Any]:
    return {"trail": [f"close {len(state['trail'])}"]}


async def looping(state: State) -> str:
    return "count" if state["rounds"] > 0 else "sign"


def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    made = StateGraph(State)
    retry = RetryPolicy(
        max_attempts=3, initial_interval=BACKOFF_S, jitter=False, retry_on=lambda _: True
    )
    made.add_node("count", count, retry_policy=retry)
    for node in (left, right, merge, sign, ask, close):
        made.add_node(node.__name__, node)
    made.add_edge(START, "count")
    made.add_edge("count", "left")
    made.add_edge("count", "right")
    made.add_edge(["left", "right"], "merge")
    made.add_conditional_edges("merge", looping, ["count", "sign"])
    made.add_edge("sign", "ask")
    made.add_edge("ask", "close")
    made.add_edge("close", END)
    return made.compile(interrupt_before=["sign"], interrupt_after=["ask"])
