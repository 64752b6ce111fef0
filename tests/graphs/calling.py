"""Nodes that call ``@task`` functions; each execution leaves a line in a file."""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.func import task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy, interrupt


class State(TypedDict, total=False):
    record: str
    found: Annotated[list[Any], operator.add]


class Trouble(Exception):
    """It goes away."""


def note(record: str, what: str) -> int:
    """Leave a line; returns the how manieth of its kind it is."""
    path = Path(record)
    with path.open("a") as file:
        file.write(f"{what}\n")
    return path.read_text().splitlines().count(what)


@task
async def double(record: str, number: int) -> int:
    note(record, f"double {number}")
    await asyncio.sleep(0.01 * (3 - number % 3))
    return 2 * number


@task
def add(record: str, *numbers: int) -> int:
    note(record, "add")
    return sum(numbers)


@task(retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=False))
async def shaky(record: str) -> str:
    if note(record, "shaky") < 3:
        raise ConnectionError("not yet")
    return "steady"


@task
async def troubled(record: str) -> str:
    if note(record, "troubled") < 2:
        raise Trouble("the first time")
    return "fine"


@task
async def nested(record: str, number: int) -> int:
    note(record, "nested")
    return await double(record, number) + await double(record, number + 1)


@task
async def asks(record: str) -> str:
    note(record, "asks")
    return f"heard {interrupt('what?')}"


async def together(state: State) -> dict[str, Any]:
    record = state["record"]
    found = await asyncio.gather(*(double(record, number) for number in range(4)))
    return {"found": [found, await shaky(record), await nested(record, 10)]}


def blocking(state: State) -> dict[str, Any]:
    record = state["record"]
    first = double(record, 20)
    return {"found": [add(record, first.result(), 1).result()]}


async def between(state: State) -> dict[str, Any]:
    record = state["record"]
    first = await double(record, 30)
    answer = interrupt("go on?")
    return {"found": [first, answer, await double(record, 31)]}


async def below(state: State) -> dict[str, Any]:
    record = state["record"]
    return {"found": [await double(record, 40), await asks(record)]}


async def caught(state: State) -> dict[str, Any]:
    try:
        return {"found": [await troubled(state["record"])]}
    except Trouble as exc:
        return {"found": [f"caught {exc}"]}


async def failing(state: State) -> dict[str, Any]:
    record = state["record"]
    return {"found": [await double(record, 50), await troubled(record)]}


async def local(state: State) -> dict[str, Any]:
    @task
    async def hidden() -> int:
        return 1

    return {"found": [await hidden()]}


def _of(node: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State)
    graph.add_node(node.__name__, node)
    graph.add_edge(START, node.__name__)
    graph.add_edge(node.__name__, END)
    return graph.compile()


def calls_together() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(together)


def calls_blocking() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(blocking)


def calls_between() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(between)


def calls_below() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(below)


def calls_caught() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(caught)


def calls_failing() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(failing)


def calls_local() -> CompiledStateGraph[Any, Any, Any, Any]:
    return _of(local)
