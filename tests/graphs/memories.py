"""Nodes that remember: one puts into the store, the other searches it."""

from langgraph.config import get_store
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict


class Memory(TypedDict, total=False):
    """What is remembered of whom."""

    user: str
    fact: str
    facts: list[str]
    nearest: str


async def learn(state: Memory, runtime: Runtime) -> Memory:
    assert runtime.store is not None
    await runtime.store.aput(("facts", state["user"]), state["fact"], {"text": state["fact"]})
    return {}


def recall(state: Memory, *, store: BaseStore) -> Memory:
    """Sync, so that LangGraph runs it in a thread."""
    found = store.search(("facts", state["user"]), limit=100)
    return {"facts": [item.value["text"] for item in found]}


async def nearest(state: Memory) -> Memory:
    found = await get_store().asearch(("facts",), query="aaa", limit=1)
    return {"nearest": found[0].value["text"]}


async def careless(state: Memory, runtime: Runtime) -> Memory:
    assert runtime.store is not None
    await runtime.store.aput(("facts",), "k", {"when": object()})
    return {}


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(text.count(letter)) for letter in "ab"] for text in texts]


memories = (
    StateGraph(Memory)
    .add_node(learn)
    .add_node(recall)
    .add_edge(START, "learn")
    .add_edge("learn", "recall")
)
similar = (
    StateGraph(Memory)
    .add_node(learn)
    .add_node(nearest)
    .add_edge(START, "learn")
    .add_edge("learn", "nearest")
    .compile(store=InMemoryStore(index={"dims": 2, "embed": embed, "fields": ["text"]}))
)
carelessly = StateGraph(Memory).add_node(careless).add_edge(START, "careless")
