"""Node bodies that the tests of ``lazy`` name."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import Command, StreamWriter

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def sync(state: dict[str, Any]) -> dict[str, Any]:
    return {"seen": {"thread": threading.get_ident(), "variable": VARIABLE.get()}}


async def asynchronous(state: dict[str, Any]) -> dict[str, Any]:
    return {"seen": {"thread": threading.get_ident(), "variable": VARIABLE.get()}}


def injected(
    state: dict[str, Any],
    config: RunnableConfig,
    *,
    runtime: Runtime[str],
    store: BaseStore,
    writer: StreamWriter,
) -> dict[str, Any]:
    writer({"written": True})
    runtime.stream_writer({"streamed": True})
    return {
        "seen": {
            "tag": config["configurable"]["tag"],
            "context": runtime.context,
            "same_store": store is runtime.store and store is not None,
        }
    }


async def only_config(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
    return {"seen": config["metadata"]["langgraph_node"]}


def goes_on(state: dict[str, Any]) -> Command[str]:
    return Command(goto="last", update={"seen": "went on"})


def fails(state: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("the node's own failure")


class Holder:
    """Holds a body as an attribute of an attribute."""

    @staticmethod
    def body(state: dict[str, Any]) -> dict[str, Any]:
        return {"seen": "held"}

    async def __call__(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"seen": "called"}


instance = Holder()
runnable = RunnableLambda(lambda state: {"seen": "runnable"})
subgraph = (
    StateGraph(dict)
    .add_node("inner", lambda state: {"seen": "subgraph"})
    .add_edge(START, "inner")
    .add_edge("inner", END)
    .compile()
)
not_callable = {"a": 1}
