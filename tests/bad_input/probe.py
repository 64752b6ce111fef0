"""A graph whose one node does whatever its input says, most of it wrong."""

import asyncio
import operator
import threading
from typing import Annotated, Any, NotRequired, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

LARGE = 10_000_000


class State(TypedDict):
    act: str
    size: NotRequired[int]
    result: NotRequired[Any]
    trail: NotRequired[Annotated[list[str], operator.add]]


class Unprintable(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")

    __repr__ = __str__


class Stranger:
    """A type that the graph's schemas do not name."""


def deeper() -> None:
    deeper()


def fail(act: str) -> None:
    match act:
        case "raise":
            raise ValueError("the shelf is empty")
        case "raise surrogate":
            raise ValueError("\ud800 here")
        case "raise unprintable":
            raise Unprintable
        case "raise cancelled":
            raise asyncio.CancelledError
        case "recurse":
            deeper()


RETURNED = {
    "return a number": lambda: 42,
    "return a lock": lambda: {"result": threading.Lock()},
    "return a lambda": lambda: {"result": lambda: 1},
    "return a stranger": lambda: {"result": Stranger()},
    "return 10 MB": lambda: {"result": "x" * LARGE},
    "go nowhere": lambda: Command(goto="nowhere"),
    "ask": lambda: {"result": interrupt("what now?")},
}


async def do(state: State) -> Any:
    act = state["act"]
    fail(act)
    if act in RETURNED:
        return RETURNED[act]()
    return {"result": f"did {act}", "trail": [act]}


async def twin(state: State) -> Any:
    return {"result": "the twin's"} if state["act"] == "write twice" else {}


async def absent(_: State) -> Any:
    """Nobody serves this node."""


def after(state: State) -> str:
    return {"loop": "do", "wait": "absent"}.get(state["act"], END)


def entry(state: State) -> list[str]:
    return ["do", "twin"] if state["act"] == "write twice" else ["do"]


graph = (
    StateGraph(State)
    .add_node(do)
    .add_node(twin)
    .add_node(absent)
    .add_conditional_edges(START, entry, ["do", "twin"])
    .add_conditional_edges("do", after, ["do", "absent", END])
)
