"""Two nodes of one superstep: one fails, the other would go on for long."""

import asyncio

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    x: int


async def fails(_: State) -> State:
    raise ValueError("no")


async def lasts(_: State) -> State:
    await asyncio.sleep(60)
    return {"x": 1}


graph = StateGraph(State)
graph.add_node("fails", fails)
graph.add_node("lasts", lasts)
graph.add_edge(START, "fails")
graph.add_edge(START, "lasts")
