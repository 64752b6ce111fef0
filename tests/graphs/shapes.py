"""Every way in which LangGraph lets control flow from node to node."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict


class Trail(TypedDict, total=False):
    """What the nodes pass through is a trail of names."""

    trail: Annotated[list[str], operator.add]
    n: int


class Part(TypedDict):
    """The argument of a Send."""

    part: int


def step(name: str):
    """A node that leaves its name on the trail."""

    async def node(state: Trail) -> Trail:
        return {"trail": [name]}

    return node


def _of(*names: str) -> StateGraph:
    graph = StateGraph(Trail)
    for name in names:
        graph.add_node(name, step(name))
    return graph


def chain() -> StateGraph:
    graph = _of("a", "b", "c")
    for start, end in pairwise((START, "a", "b", "c", END)):
        graph.add_edge(start, end)
    return graph


def sync_chain() -> StateGraph:
    """Sync nodes, which LangGraph runs in threads."""

    def first(state: Trail) -> Trail:
        return {"trail": ["first"], "n": state.get("n", 0) + 1}

    def second(state: Trail) -> Trail:
        return {"trail": ["second"], "n": state["n"] * 10}

    graph = StateGraph(Trail)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    return graph


def branch() -> StateGraph:
    """A conditional edge that sees what its node has just written."""

    async def count(state: Trail) -> Trail:
        return {"trail": ["count"], "n": state["n"] + 1}

    def odd_or_even(state: Trail) -> Literal["odd", "even"]:
        return "odd" if state["n"] % 2 else "even"

    graph = _of("odd", "even")
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    graph.add_conditional_edges("count", odd_or_even)
    return graph


def entry_branch() -> StateGraph:
    """A conditional entry point, evaluated by the coordinator."""
    graph = _of("small", "big")
    graph.add_conditional_edges(
        START, lambda state: "big" if state["n"] > 9 else "small", ["big", "small"]
    )
    return graph


def loop() -> StateGraph:
    async def count(state: Trail) -> Trail:
        return {"trail": ["count"], "n": state["n"] + 1}

    graph = StateGraph(Trail)
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    graph.add_conditional_edges(
        "count", lambda state: END if state["n"] >= 4 else "count", ["count", END]
    )
    return graph


def endless() -> StateGraph:
    graph = _of("ping", "pong")
    graph.add_edge(START, "ping")
    graph.add_edge("ping", "pong")
    graph.add_edge("pong", "ping")
    return graph


def fan_out() -> StateGraph:
    """Parallel nodes; the last runs twice, once for each of the lengths of the ways to it."""
    graph = _of("start", "left", "right", "far", "end")
    graph.add_edge(START, "start")
    graph.add_edge("start", "left")
    graph.add_edge("start", "right")
    graph.add_edge("right", "far")
    graph.add_edge("left", "end")
    graph.add_edge("far", "end")
    return graph


def join() -> StateGraph:
    """A waiting edge: the end waits for the shorter and the longer way."""
    graph = _of("left", "right", "far", "end")
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge("right", "far")
    graph.add_edge(["left", "far"], "end")
    return graph


def deferred() -> StateGraph:
    """A deferred node runs when nothing else is left to run."""
    graph = _of("left", "right", "far", "farther")
    graph.add_node("end", step("end"), defer=True)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge("right", "far")
    graph.add_edge("far", "farther")
    graph.add_edge("left", "end")
    graph.add_edge("farther", "end")
    return graph


def sends() -> StateGraph:
    """One node several times at once with different arguments."""

    async def part(arg: Part) -> Trail:
        return {"trail": [f"part {arg['part']}"]}

    graph = _of("split", "merge")
    graph.add_node("part", part, input_schema=Part)
    graph.add_edge(START, "split")
    graph.add_conditional_edges(
        "split", lambda state: [Send("part", {"part": i}) for i in range(state["n"])], ["part"]
    )
    graph.add_edge("part", "merge")
    return graph


def mixed_sends() -> StateGraph:
    """Sends to two nodes beside a plain edge."""

    async def part(arg: Part) -> Trail:
        return {"trail": [f"part {arg['part']}"]}

    async def whole(arg: Part) -> Trail:
        return {"trail": [f"whole {arg['part']}"]}

    graph = _of("split", "beside", "merge")
    graph.add_node("part", part, input_schema=Part)
    graph.add_node("whole", whole, input_schema=Part)
    graph.add_edge(START, "split")
    graph.add_edge("split", "beside")
    graph.add_conditional_edges(
        "split",
        lambda _: [
            Send("whole", {"part": 7}),
            Send("part", {"part": 1}),
            Send("whole", {"part": 8}),
        ],
        ["part", "whole"],
    )
    graph.add_edge(["part", "whole", "beside"], "merge")
    return graph


def command() -> StateGraph:
    """A node that says by Command what to write and where to go."""

    async def decide(state: Trail) -> Command[Literal["yes", "no"]]:
        return Command(update={"trail": ["decide"], "n": 5}, goto="yes" if state["n"] else "no")

    graph = _of("yes", "no")
    graph.add_node("decide", decide)
    graph.add_edge(START, "decide")
    return graph


def command_list() -> StateGraph:
    """A Command that goes to several nodes, and to one of them by Send."""

    async def decide(state: Trail) -> Command[Literal["left", "right", "part"]]:
        return Command(
            update={"trail": ["decide"]}, goto=["left", "right", Send("part", {"part": 3})]
        )

    async def part(arg: Part) -> Trail:
        return {"trail": [f"part {arg['part']}"]}

    graph = _of("left", "right")
    graph.add_node("decide", decide)
    graph.add_node("part", part, input_schema=Part)
    graph.add_edge(START, "decide")
    return graph
