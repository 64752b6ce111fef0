"""A node that waits until its test lets it go on; for agents in the test's own process."""

from __future__ import annotations

import asyncio

from langgraph.graph import END, START, StateGraph

import langmesh
from tests.graphs.shapes import Trail


class Gate:
    """Where runs wait, by thread."""

    def __init__(self) -> None:
        self._opened: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}

    def open(self, thread: str) -> None:
        """Let the thread's runs go on, from now on."""
        self._opened.setdefault(thread, asyncio.Event()).set()

    async def reached(self, thread: str) -> None:
        """Wait until a run of the thread waits."""
        await self._reached.setdefault(thread, asyncio.Event()).wait()

    async def wait(self, thread: str) -> None:
        """What the node does."""
        self._reached.setdefault(thread, asyncio.Event()).set()
        await self._opened.setdefault(thread, asyncio.Event()).wait()


gate = Gate()


async def before(state: Trail) -> Trail:
    """Wait at the gate."""
    task = langmesh.current()
    await gate.wait(task.thread)
    return {"trail": ["before"]}


async def after(state: Trail) -> Trail:
    """Tell which release runs it."""
    return {"trail": [f"after {langmesh.current().release}"], "n": state.get("n", 0) - 1}


def gated_loop() -> StateGraph:
    """``before`` and ``after`` in turns, ``n`` times."""
    graph = StateGraph(Trail)
    graph.add_node("before", before)
    graph.add_node("after", after)
    graph.add_edge(START, "before")
    graph.add_edge("before", "after")
    graph.add_conditional_edges("after", lambda s: "before" if s["n"] > 0 else END, ["before", END])
    return graph
