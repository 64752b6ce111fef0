"""Nodes that say something while they run."""

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict


class Talk(TypedDict):
    """How much is said."""

    words: int


async def writer(state: Talk) -> Talk:
    write = get_stream_writer()
    for i in range(state["words"]):
        write(f"word {i}")
    return state


def threaded(state: Talk) -> Talk:
    """Sync, so that LangGraph runs it in a thread."""
    write = get_stream_writer()
    for i in range(state["words"]):
        write(f"word {i}")
    return state


async def runtime(state: Talk, runtime: Runtime) -> Talk:
    for i in range(state["words"]):
        runtime.stream_writer({"word": f"word {i}"})
    return state


async def flaky(state: Talk, runtime: Runtime) -> Talk:
    assert runtime.execution_info is not None
    runtime.stream_writer(f"attempt {runtime.execution_info.node_attempt}")
    if runtime.execution_info.node_attempt == 1:
        raise ConnectionError("cut off")
    runtime.stream_writer("and over")
    return state


def talkers() -> StateGraph:
    graph = StateGraph(Talk)
    graph.add_node("writer", writer)
    graph.add_node("threaded", threaded)
    graph.add_node("runtime", runtime)
    graph.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0.02, jitter=False))
    for start, end in (
        (START, "writer"),
        ("writer", "threaded"),
        ("threaded", "runtime"),
        ("runtime", "flaky"),
    ):
        graph.add_edge(start, end)
    return graph
