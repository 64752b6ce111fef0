"""Every form of state: what a graph keeps, takes, gives and hides."""

import operator
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated

from langchain_core.messages import AIMessage, AnyMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from pydantic import BaseModel
from typing_extensions import TypedDict


class Address(BaseModel):
    """A model inside the state."""

    street: str
    since: date


class Person(BaseModel):
    """A pydantic state: nodes get it validated."""

    name: str
    age: int = 0
    address: Address | None = None


def pydantic_state() -> StateGraph:
    async def move(state: Person) -> dict:
        assert isinstance(state, Person)
        return {"address": Address(street=f"{state.name} Road", since=date(2024, 2, 29))}

    async def grow(state: Person) -> dict:
        assert isinstance(state.address, Address)
        return {"age": state.age + state.address.since.day}

    graph = StateGraph(Person)
    graph.add_node("move", move)
    graph.add_node("grow", grow)
    graph.add_edge(START, "move")
    graph.add_edge("move", "grow")
    return graph


@dataclass
class Basket:
    """A dataclass state with defaults and a reducer."""

    owner: str
    items: Annotated[list[str], operator.add] = field(default_factory=list)
    total: float = 0.0


def dataclass_state() -> StateGraph:
    async def fill(state: Basket) -> dict:
        assert isinstance(state, Basket)
        return {"items": [f"{state.owner}'s pear"], "total": state.total + 0.5}

    async def check(state: Basket) -> dict:
        return {"items": ["and a plum"], "total": state.total * len(state.items)}

    graph = StateGraph(Basket)
    graph.add_node("fill", fill)
    graph.add_node("check", check)
    graph.add_edge(START, "fill")
    graph.add_edge("fill", "check")
    return graph


def messages_state() -> StateGraph:
    """A conversation; the last node replaces a message by its id."""

    async def answer(state: MessagesState) -> dict:
        return {"messages": [AIMessage(f"You said {state['messages'][-1].content}", id="answer")]}

    async def correct(state: MessagesState) -> dict:
        return {"messages": AIMessage(state["messages"][-1].content.upper(), id="answer")}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("correct", correct)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "correct")
    return graph


class Asked(TypedDict):
    """The input."""

    question: str


class Answered(TypedDict):
    """The output."""

    answer: str


class Whole(Asked, Answered):
    """All of the state."""

    notes: Annotated[list[str], operator.add]
    thread: Annotated[list[AnyMessage], add_messages]


def schema_subsets() -> StateGraph:
    """Input and output schemas that show only a part of the state."""

    async def think(state: Asked) -> dict:
        assert "notes" not in state
        return {"notes": [state["question"][::-1]]}

    async def say(state: Whole) -> dict:
        return {"answer": ", ".join(state["notes"])}

    graph = StateGraph(Whole, input_schema=Asked, output_schema=Answered)
    graph.add_node("think", think)
    graph.add_node("say", say)
    graph.add_edge(START, "think")
    graph.add_edge("think", "say")
    return graph


class Secret(TypedDict):
    """Known to two nodes only."""

    secret: int


def private_state() -> StateGraph:
    """A channel that is in neither the graph's state nor its output."""

    async def hide(state: Asked) -> Secret:
        return {"secret": len(state["question"])}

    async def reveal(state: Secret) -> dict:
        assert set(state) == {"secret"}
        return {"answer": f"{state['secret']} letters"}

    async def last(state: Whole) -> dict:
        assert "secret" not in state
        return {"notes": ["nothing known"]}

    graph = StateGraph(Whole)
    graph.add_node("hide", hide)
    graph.add_node("reveal", reveal)
    graph.add_node("last", last)
    graph.add_edge(START, "hide")
    graph.add_edge("hide", "reveal")
    graph.add_edge("reveal", "last")
    return graph


@dataclass
class Tongue:
    """What a run is given beside its input."""

    language: str
    polite: bool = True


def context() -> StateGraph:
    async def greet(state: Answered, runtime: Runtime[Tongue]) -> Answered:
        assert isinstance(runtime.context, Tongue)
        greeting = {"de": "Guten Tag", "en": "Good day"}[runtime.context.language]
        return {"answer": f"{greeting}{', please' if runtime.context.polite else ''}"}

    graph = StateGraph(Answered, context_schema=Tongue)
    graph.add_node("greet", greet)
    graph.add_edge(START, "greet")
    return graph
