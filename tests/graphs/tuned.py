"""A node that tells what it was configured with; for agents in the test's own process."""

from __future__ import annotations

import asyncio
import logging

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

from langmesh import current


class Tuned(TypedDict, total=False):
    """What to do, and what was seen."""

    fail: int
    seconds: float
    seen: dict


class Crowd:
    """Those at work, and the most there were at once; they stay until the gate is open."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.gate = asyncio.Event()
        self._came = asyncio.Condition()

    async def work(self) -> None:
        """Be one of them."""
        self.now += 1
        self.most = max(self.most, self.now)
        async with self._came:
            self._came.notify_all()
        try:
            await self.gate.wait()
        finally:
            self.now -= 1

    async def reached(self, size: int) -> None:
        """Wait until so many are at work."""
        async with self._came:
            await self._came.wait_for(lambda: self.now >= size)


crowd: Crowd | None = None


async def look(state: Tuned) -> Tuned:
    """Take a while, stay with the crowd, fail in the first attempts, tell the configuration."""
    task = current()
    await asyncio.sleep(state.get("seconds", 0))
    if crowd is not None:
        await crowd.work()
    if task.attempt <= state.get("fail", 0):
        raise ConnectionError(f"attempt {task.attempt}")
    logging.getLogger(__name__).debug("looked")
    config = task.config
    return {
        "seen": {
            "revision": config.revision,
            "model": config.model,
            "settings": dict(config.settings),
            "attempt": task.attempt,
        }
    }


def tuned() -> StateGraph:
    """One node with a short retry policy of its own."""
    graph = StateGraph(Tuned)
    policy = RetryPolicy(initial_interval=0.01, jitter=False, max_attempts=2)
    graph.add_node("look", look, retry_policy=policy)
    return graph.add_edge(START, "look")
