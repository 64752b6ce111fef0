"""A node that tells what it was configured with; for agents in the test's own process."""

from __future__ import annotations

import asyncio
import logging
import threading

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

from langmesh import current


class Tuned(TypedDict, total=False):
    """What to do, and what was seen."""

    fail: int
    seconds: float
    seen: dict


class Peak:
    """How many are at work at once, and the most there were."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self.now -= 1


peak = Peak()


async def look(state: Tuned) -> Tuned:
    """Take a while, fail in the first attempts, then tell the configuration."""
    task = current()
    with peak:
        await asyncio.sleep(state.get("seconds", 0))
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
