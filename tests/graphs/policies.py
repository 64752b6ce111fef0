"""Nodes that fail, hang, retry and ask."""

import asyncio
from typing import Any

from langgraph.errors import NodeError
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, RetryPolicy, interrupt

from tests.graphs.shapes import Trail, step


class OutOfStockError(Exception):
    """An exception that only the node's code knows."""


def flaky() -> StateGraph:
    """A node that works at its third attempt."""

    async def fetch(state: Trail, runtime: Runtime) -> Trail:
        assert runtime.execution_info is not None
        attempt = runtime.execution_info.node_attempt
        if attempt < 3:
            raise ConnectionError(f"attempt {attempt} failed")
        return {"trail": [f"fetched at attempt {attempt}"]}

    graph = StateGraph(Trail)
    policy = RetryPolicy(initial_interval=0.02, jitter=False, max_attempts=3)
    graph.add_node("fetch", fetch, retry_policy=policy)
    graph.add_node("end", step("end"))
    graph.add_edge(START, "fetch")
    graph.add_edge("fetch", "end")
    return graph


def hopeless() -> StateGraph:
    """A node whose retries are used up."""

    async def fetch(state: Trail) -> Trail:
        raise ConnectionError("nobody is there")

    graph = StateGraph(Trail)
    policy = RetryPolicy(initial_interval=0.02, jitter=False, max_attempts=2)
    graph.add_node("fetch", fetch, retry_policy=policy)
    graph.add_edge(START, "fetch")
    return graph


def _failing(exc: Exception) -> StateGraph:
    async def fail(state: Trail) -> Trail:
        raise exc

    graph = StateGraph(Trail)
    graph.add_node("first", step("first"))
    graph.add_node("fail", fail)
    graph.add_edge(START, "first")
    graph.add_edge("first", "fail")
    return graph


def handled() -> StateGraph:
    """Failures that handlers turn into updates and ways, after the retries."""

    async def fetch(state: Trail) -> Trail:
        raise ConnectionError("nobody is there")

    async def parse(state: Trail) -> Trail:
        raise ValueError("no number", 7)

    async def another_way(state: Trail, error: NodeError) -> Command[Any]:
        assert isinstance(error.error, ConnectionError)
        return Command(update={"trail": [f"{error.node}: {error.error}"], "n": 3}, goto="by_hand")

    async def by_default(state: Trail, error: NodeError) -> Trail:
        return {"trail": [f"{error.node}: {error.error.args}"]}

    graph = StateGraph(Trail)
    policy = RetryPolicy(initial_interval=0.02, jitter=False, max_attempts=2)
    graph.set_node_defaults(error_handler=by_default)
    graph.add_node("fetch", fetch, retry_policy=policy, error_handler=another_way)
    graph.add_node("by_hand", step("by_hand"))
    graph.add_node("parse", parse)
    graph.add_node("end", step("end"))
    graph.add_edge(START, "fetch")
    graph.add_edge("by_hand", "parse")
    graph.add_edge("parse", "end")
    return graph


def handled_badly() -> StateGraph:
    """A handler that fails itself."""

    async def fail(state: Trail) -> Trail:
        raise ValueError("first")

    async def handle(state: Trail, error: NodeError) -> Trail:
        raise ValueError(f"worse than {error.error}")

    graph = StateGraph(Trail)
    graph.add_node("fail", fail, error_handler=handle)
    graph.add_edge(START, "fail")
    return graph


def raises() -> StateGraph:
    return _failing(ValueError("the node says no"))


def raises_own() -> StateGraph:
    return _failing(OutOfStockError("no pears", {"left": 0}))


def slow() -> StateGraph:
    """A node that overruns its timeout."""

    async def sleep(state: Trail) -> Trail:
        await asyncio.sleep(60)
        return {"trail": ["never"]}

    graph = StateGraph(Trail)
    graph.add_node("sleep", sleep, timeout=0.2)
    graph.add_edge(START, "sleep")
    return graph


def bad_update() -> StateGraph:
    """Two nodes of one superstep write a channel that takes one value."""

    def write(n: int) -> Any:
        async def node(state: Trail) -> Trail:
            return {"n": n}

        return node

    graph = StateGraph(Trail)
    graph.add_node("one", write(1))
    graph.add_node("two", write(2))
    graph.add_edge(START, "one")
    graph.add_edge(START, "two")
    return graph


def asks() -> StateGraph:
    """A node that asks a human twice."""

    async def ask(state: Trail) -> Trail:
        name = interrupt({"question": "Who?"})
        age = interrupt(f"How old is {name}?")
        return {"trail": [f"{name} is {age}"]}

    graph = StateGraph(Trail)
    graph.add_node("first", step("first"))
    graph.add_node("ask", ask)
    graph.add_node("last", step("last"))
    graph.add_edge(START, "first")
    graph.add_edge("first", "ask")
    graph.add_edge("ask", "last")
    return graph


def gated() -> CompiledStateGraph:
    """A human looks before a node runs and after another."""
    graph = StateGraph(Trail)
    for name in ("a", "b", "c"):
        graph.add_node(name, step(name))
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    return graph.compile(interrupt_before=["b"], interrupt_after=["b"])
