"""Nodes for agents in processes of their own, which keep a record of what they execute."""

from __future__ import annotations

import asyncio
import operator
import os
import time
from pathlib import Path
from typing import Annotated

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

import langmesh


class Work(TypedDict):
    """What is to be done, and who did it."""

    record: str
    """File to which every execution adds a line when it begins and another when it is over."""
    seconds: float
    done: Annotated[list[str], operator.add]


def note(record: str, what: str) -> None:
    """Add one line; processes do not cut into each other's."""
    task = langmesh.current()
    line = f"{what} {task.node} {os.getpid()} {task.run}\n".encode()
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def noted(record: str, what: str, node: str) -> list[tuple[int, str]]:
    """The (pid, run) of the executions of a node that began or are over, in order."""
    path = Path(record)
    lines = path.read_text().splitlines() if path.exists() else []
    words = [line.split() for line in lines]
    return [(int(pid), run) for kind, of, pid, run in words if (kind, of) == (what, node)]


async def plan(state: Work) -> dict:
    return {"done": ["plan"]}


async def worker(state: Work) -> dict:
    note(state["record"], "begin")
    await asyncio.sleep(state["seconds"])
    note(state["record"], "end")
    return {"done": [f"worker {os.getpid()}"]}


async def sum_up(state: Work) -> dict:
    return {"done": ["sum_up"]}


async def sleeper(state: Work) -> dict:
    """Take long without holding anything up."""
    return await worker(state)


async def blocker(state: Work) -> dict:
    """Take long and hold up the agent's event loop meanwhile."""
    note(state["record"], "begin")
    time.sleep(state["seconds"])
    note(state["record"], "end")
    return {"done": [f"blocker {os.getpid()}"]}


async def killer(state: Work) -> dict:
    """Take the agent's process along, until somebody mends it."""
    note(state["record"], "begin")
    if not Path(f"{state['record']}.mended").exists():
        os._exit(9)
    return {"done": ["killer"]}


def pipeline() -> StateGraph:
    graph = StateGraph(Work)
    graph.add_node("plan", plan)
    graph.add_node("worker", worker)
    graph.add_node("sum_up", sum_up)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "worker")
    graph.add_edge("worker", "sum_up")
    return graph


def long() -> StateGraph:
    graph = StateGraph(Work)
    graph.add_node("sleeper", sleeper)
    graph.add_node("blocker", blocker)
    graph.add_edge(START, "sleeper")
    graph.add_edge(START, "blocker")
    return graph


def blocking() -> StateGraph:
    graph = StateGraph(Work)
    graph.add_node("blocker", blocker)
    graph.add_edge(START, "blocker")
    return graph


def poison() -> StateGraph:
    graph = StateGraph(Work)
    graph.add_node("killer", killer)
    graph.add_edge(START, "killer")
    return graph
