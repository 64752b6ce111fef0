"""Graphs whose histories are compared between savers."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict


class Trail(TypedDict, total=False):
    trail: Annotated[list[str], operator.add]
    n: int
    big: str
    messages: Annotated[list[AnyMessage], add_messages]


def _step(name: str):
    def node(state: Trail) -> Trail:
        return {"trail": [name], "n": state.get("n", 0) + 1}

    return node


def chain() -> StateGraph:
    """Three nodes, a reducer, messages."""
    builder = StateGraph(Trail)

    def say(state: Trail) -> Trail:
        return {"messages": [AIMessage(f"step {state['n']}", id=f"m{state['n']}")]}

    builder.add_sequence([("a", _step("a")), ("say", say), ("b", _step("b"))])
    return builder.add_edge(START, "a")


def fan() -> StateGraph:
    """`Send` to as many tasks as asked, and a join."""
    builder = StateGraph(Trail)

    def work(state: dict[str, Any]) -> Trail:
        return {"trail": [f"work {state['i']}"]}

    builder.add_node("plan", _step("plan")).add_node("work", work).add_node("join", _step("join"))
    builder.add_edge(START, "plan").add_edge("work", "join")
    builder.add_conditional_edges("plan", lambda state: [Send("work", {"i": i}) for i in range(4)])
    return builder


def asks() -> StateGraph:
    """Two questions to a human, one after the other in one node."""
    builder = StateGraph(Trail)

    def ask(state: Trail) -> Trail:
        first = interrupt("name?")
        second = interrupt("age?")
        return {"trail": [f"{first} {second}"]}

    builder.add_node("before", _step("before")).add_node("ask", ask).add_node("after", _step("z"))
    builder.add_edge(START, "before").add_edge("before", "ask").add_edge("ask", "after")
    return builder


def nested() -> StateGraph:
    """A subgraph with a question inside, and a node beside it that ends first."""
    inner = StateGraph(Trail)

    def ask(state: Trail) -> Trail:
        return {"trail": [f"inner {interrupt('inner?')}"]}

    inner.add_node("deep", _step("deep")).add_node("ask", ask)
    inner.add_edge(START, "deep").add_edge("deep", "ask")
    builder = StateGraph(Trail)
    builder.add_node("inner", inner.compile()).add_node("beside", lambda _: {"trail": ["beside"]})
    builder.add_edge(START, "inner").add_edge(START, "beside").add_edge("inner", END)
    return builder


def jumps() -> StateGraph:
    """Nodes that choose their successors."""
    builder = StateGraph(Trail)

    def choose(state: Trail) -> Command:
        n = state.get("n", 0)
        target = "choose" if n < 3 else END
        return Command(goto=target, update={"n": n + 1, "trail": [f"n={n}"]})

    return builder.add_node("choose", choose).add_edge(START, "choose")


@dataclass
class Point:
    """A value of a type of one's own."""

    x: int
    y: int


class Person(BaseModel):
    """Another one."""

    name: str


class Typed(TypedDict, total=False):
    point: Point
    person: Person


def typed() -> StateGraph:
    """Values of types of one's own in the state."""

    def move(state: Typed) -> Typed:
        point = state["point"]
        return {"point": Point(point.x + 1, point.y), "person": Person(name="Ada")}

    return StateGraph(Typed).add_node("move", move).add_edge(START, "move")
