"""A graph one node of which fails until a file is there."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict


class Fragile(TypedDict, total=False):
    """Where to note executions, the file that mends, and the names of what was done."""

    record: str
    mended: str
    done: Annotated[list[str], operator.add]


def note(state: Fragile, name: str) -> None:
    """Add a line for an execution."""
    with Path(state["record"]).open("a") as file:
        file.write(f"{name}\n")


async def first(state: Fragile) -> Fragile:
    note(state, "first")
    return {"done": ["first"]}


async def sound(state: Fragile) -> Fragile:
    note(state, "sound")
    return {"done": ["sound"]}


async def broken(state: Fragile) -> Fragile:
    note(state, "broken")
    if not Path(state["mended"]).exists():
        raise RuntimeError("not mended yet")
    return {"done": ["broken"]}


async def last(state: Fragile) -> Fragile:
    note(state, "last")
    return {"done": ["last"]}


def fragile() -> StateGraph:
    graph = StateGraph(Fragile)
    graph.add_node("first", first)
    graph.add_node("sound", sound)
    graph.add_node("broken", broken)
    graph.add_node("last", last)
    graph.add_edge(START, "first")
    graph.add_edge("first", "sound")
    graph.add_edge("first", "broken")
    graph.add_edge(["sound", "broken"], "last")
    return graph
