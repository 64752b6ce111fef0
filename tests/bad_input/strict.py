"""A graph with an input schema of its own."""

from typing import TypedDict

from langgraph.graph import START, StateGraph


class Order(TypedDict):
    article: str
    pieces: int


class State(TypedDict):
    article: str
    pieces: int
    price: int


async def price(state: State) -> dict[str, int]:
    return {"price": 3 * state["pieces"]}


graph = StateGraph(State, input_schema=Order).add_node(price).add_edge(START, "price")
