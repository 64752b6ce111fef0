"""A graph with everything that makes a trace interesting: a fan-out, a join and a retry."""

import logging
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, Send

import langmesh

WORDS = ("one", "two", "three")
log = logging.getLogger(__name__)


class State(TypedDict):
    question: str
    found: Annotated[list[str], operator.add]
    answer: str


async def plan(state: State) -> dict[str, Any]:
    log.info("planning %s", state["question"])
    return {"question": state["question"]}


def fan_out(_: State) -> list[Send]:
    return [Send("look", {"word": word}) for word in WORDS]


async def look(state: dict[str, Any]) -> dict[str, Any]:
    return {"found": [state["word"]]}


async def weigh(state: State) -> dict[str, Any]:
    if langmesh.current().attempt == 1:
        raise ConnectionError("not yet")
    return {"answer": " ".join(sorted(state["found"]))}


async def close(_: State) -> dict[str, Any]:
    return {}


graph = (
    StateGraph(State)
    .add_node(plan)
    .add_node(look)
    .add_node(
        weigh,
        retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.05, jitter=False),
    )
    .add_node(close)
    .add_edge(START, "plan")
    .add_conditional_edges("plan", fan_out, ["look"])
    .add_edge("look", "weigh")
    .add_edge("weigh", "close")
    .add_edge("close", END)
)
