"""A node that fails three times, two seconds apart, and tells which attempt it is."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated

from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

import langmesh

DELAY_S = 2.0
ATTEMPTS = 4


class Tries(TypedDict, total=False):
    """Where to note attempts, and which one succeeded."""

    record: str
    done: Annotated[list[int], operator.add]


async def stubborn(state: Tries) -> Tries:
    attempt = langmesh.current().attempt
    with Path(state["record"]).open("a") as file:
        file.write(f"{attempt}\n")
    if attempt < ATTEMPTS:
        raise ConnectionError(f"attempt {attempt}")
    return {"done": [attempt]}


def graph() -> StateGraph:
    policy = RetryPolicy(
        initial_interval=DELAY_S, backoff_factor=1.0, max_attempts=ATTEMPTS, jitter=False
    )
    return (
        StateGraph(Tries)
        .add_node("stubborn", stubborn, retry_policy=policy)
        .add_edge(START, "stubborn")
    )
