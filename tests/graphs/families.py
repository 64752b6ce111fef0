"""Graphs whose node waits for a run of graph ``child``; for agents in the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

from langmesh import MeshGraph, RunFailed, SyncMeshGraph, current
from tests.graphs import gates


class Family(TypedDict, total=False):
    """What the child is to do, and what it did."""

    failures: int
    told: str


children: list[str] = []
"""The run of each attempt of the child's node."""


async def work(state: Family) -> Family:
    """Wait at the gate, then fail in the first runs."""
    children.append(current().run)
    await gates.gate.wait("child")
    if len(children) <= state.get("failures", 0):
        raise ConnectionError(f"child {len(children)} fails")
    return {"told": f"child {len(children)}"}


async def call(state: Family) -> Family:
    """Wait for the child."""
    async with MeshGraph("child") as graph:
        found: Family = await graph.ainvoke(state)
    return found


async def submit_and_wait(state: Family) -> Family:
    """Wait for the child in two steps."""
    async with MeshGraph("child") as graph:
        run = await graph.submit(state)
        found: Family = await run.result()
    return found


def block(state: Family) -> Family:
    """Wait for the child in a thread."""
    with SyncMeshGraph("child") as graph:
        found: Family = graph.invoke(state)
    return found


async def call_own_thread(state: Family) -> Family:
    """Wait for a run that waits for this one."""
    async with MeshGraph("child") as graph:
        found: Family = await graph.ainvoke(state, thread_id=current().thread)
    return found


def _one(name: str, node: Callable[..., Any], **options: Any) -> StateGraph:
    return StateGraph(Family).add_node(name, node, **options).add_edge(START, name)


def child() -> StateGraph:
    return _one("work", work)


def persistent() -> StateGraph:
    """A parent that tries again when its child fails."""
    policy = RetryPolicy(retry_on=RunFailed, initial_interval=0.02, jitter=False, max_attempts=3)
    return _one("call", call, retry_policy=policy)


def hasty() -> StateGraph:
    """A parent that does not wait for long."""
    return _one("submit_and_wait", submit_and_wait, timeout=0.5)


def patient() -> StateGraph:
    return _one("submit_and_wait", submit_and_wait)


def blocking() -> StateGraph:
    return _one("block", block)


def entangled() -> StateGraph:
    return _one("call_own_thread", call_own_thread)
