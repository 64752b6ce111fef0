"""A graph in the mesh does what the same graph does in process, item by item."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.types import Command

from langmesh.client import Client
from langmesh.testing import LocalMesh
from langmesh.wire import codec
from langmesh.wire.messages import (
    AnyEvent,
    RunEnded,
    RunInterrupted,
    StreamPart,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
)
from tests.integration.kit import assert_contiguous, events_of, serving

MODES = ["values", "updates"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One graph with one input."""

    graph: str
    input: Any
    parallel: bool = False
    """Whether several tasks of a superstep end in any order."""
    fields: dict[str, Any] = field(default_factory=dict)
    resumes: tuple[Any, ...] = ()
    """What is answered to each interrupt."""

    @property
    def id(self) -> str:
        return self.graph.partition(":")[2]

    def build(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        module, _, name = self.graph.partition(":")
        made = getattr(import_module(module), name)()
        graph = made.compile() if isinstance(made, StateGraph) else made
        graph.checkpointer = InMemorySaver()
        return graph


SHAPES = "tests.graphs.shapes:"
STATES = "tests.graphs.states:"
POLICIES = "tests.graphs.policies:"

SUCCEED = [
    Case(graph=SHAPES + "chain", input={"trail": ["in"]}),
    Case(graph=SHAPES + "sync_chain", input={"n": 4}),
    Case(graph=SHAPES + "branch", input={"n": 4}),
    Case(graph=SHAPES + "entry_branch", input={"n": 10}),
    Case(graph=SHAPES + "loop", input={"n": 0}),
    Case(graph=SHAPES + "fan_out", input={"n": 0}, parallel=True),
    Case(graph=SHAPES + "join", input={"n": 0}, parallel=True),
    Case(graph=SHAPES + "deferred", input={"n": 0}, parallel=True),
    Case(graph=SHAPES + "sends", input={"n": 12}, parallel=True),
    Case(graph=SHAPES + "mixed_sends", input={"n": 0}, parallel=True),
    Case(graph=SHAPES + "command", input={"n": 0}),
    Case(graph=SHAPES + "command_list", input={"n": 0}, parallel=True),
    Case(graph=STATES + "pydantic_state", input={"name": "Ada", "age": 36}),
    Case(graph=STATES + "dataclass_state", input={"owner": "Ada"}),
    Case(
        graph=STATES + "messages_state",
        input={"messages": [{"role": "user", "content": "good day", "id": "said"}]},
    ),
    Case(graph=STATES + "schema_subsets", input={"question": "Why?"}),
    Case(graph=STATES + "private_state", input={"question": "Why?"}),
    Case(
        graph=STATES + "context",
        input={"answer": ""},
        fields={"context": {"language": "de", "polite": False}},
    ),
    Case(graph=POLICIES + "flaky", input={"n": 0}),
    Case(graph=POLICIES + "handled", input={"n": 0}),
]
FAIL = [
    Case(graph=SHAPES + "endless", input={"n": 0}, fields={"config": {"recursion_limit": 5}}),
    Case(graph=POLICIES + "hopeless", input={"n": 0}),
    Case(graph=POLICIES + "raises", input={"n": 0}),
    Case(graph=POLICIES + "handled_badly", input={"n": 0}),
    Case(graph=POLICIES + "raises_own", input={"n": 0}),
    Case(graph=POLICIES + "slow", input={"n": 0}),
    Case(graph=POLICIES + "bad_update", input={"n": 0}, parallel=True),
]
ASK = [
    Case(graph=POLICIES + "asks", input={"n": 0}, resumes=("Ada", 36)),
    Case(graph=POLICIES + "gated", input={"n": 0}, resumes=(None, None)),
]
FAILING_NODE = {
    "hopeless": "fetch",
    "handled_badly": "__error_handler__fail",
    "raises": "fail",
    "raises_own": "fail",
    "slow": "sleep",
}
CODES = {"endless": "recursion_limit", "slow": "node_timed_out", "bad_update": "invalid_input"}


def cases(table: list[Case]) -> Any:
    return pytest.mark.parametrize("case", table, ids=[case.id for case in table])


def shown(value: Any) -> Any:
    """A value as clients see it; interrupts' ids, which hold the time, are left out."""

    def blur(item: Any) -> Any:
        if isinstance(item, dict):
            if item.keys() >= {"value", "id"}:
                return {"value": blur(item["value"])}
            return {key: blur(part) for key, part in item.items()}
        return [blur(part) for part in item] if isinstance(item, list) else item

    return blur(json.loads(codec.encode_json(value)))


async def in_process(graph: Any, given: Any, case: Case) -> list[tuple[str, Any]]:
    """The stream's items of LangGraph itself."""
    items: list[tuple[str, Any]] = []
    config = {"configurable": {"thread_id": "t"}, **case.fields.get("config", {})}
    context = case.fields.get("context")
    async for mode, data in graph.astream(given, config, context=context, stream_mode=MODES):
        items.append((mode, shown(data)))
    return items


def compare(case: Case, events: list[AnyEvent], expected: list[tuple[str, Any]]) -> None:
    found = [(e.mode, shown(e.data)) for e in events if isinstance(e, StreamPart)]
    if not case.parallel:
        assert found == expected
        return
    assert [item for item in found if item[0] == "values"] == [
        item for item in expected if item[0] == "values"
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


async def run(client: Client, given: Any, **fields: Any) -> list[AnyEvent]:
    return await events_of(await client.submit(given, stream_mode=MODES, **fields))


@cases(SUCCEED)
async def test_a_run_streams_and_ends_as_in_process(mesh: LocalMesh, case: Case) -> None:
    expected = await in_process(case.build(), case.input, case)
    output = await case.build().ainvoke(
        case.input, {"configurable": {"thread_id": "t"}}, context=case.fields.get("context")
    )
    async with serving(mesh, case.graph) as client:
        events = await run(client, case.input, **case.fields)
    compare(case, events, expected)
    assert_contiguous(events)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.error) == ("success", None)
    assert shown(ended.output) == shown(output)
    started = [event.task_id for event in events if isinstance(event, TaskStarted)]
    assert sorted(started) == sorted(e.task_id for e in events if isinstance(e, TaskEnded))
    assert ended.tasks == len(set(started)) == len(started)


@cases(FAIL)
async def test_a_failure_is_the_one_of_in_process(mesh: LocalMesh, case: Case) -> None:
    graph, expected = case.build(), []
    config = {"configurable": {"thread_id": "t"}, **case.fields.get("config", {})}
    with pytest.raises(Exception) as failure:  # noqa: PT011, PT012  it is compared below
        async for mode, data in graph.astream(case.input, config, stream_mode=MODES):
            expected.append((mode, shown(data)))
    async with serving(mesh, case.graph) as client:
        events = await run(client, case.input, **case.fields)
    compare(case, events, expected)
    assert_contiguous(events)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "error"
    assert ended.error is not None
    kind = type(failure.value)
    assert ended.error.type.rpartition(".")[2] == kind.__name__
    assert _no_numbers(ended.error.message) == _no_numbers(str(failure.value))
    assert ended.error.node == FAILING_NODE.get(case.id, "")
    assert ended.error.code == CODES.get(case.id, "node_raised")
    if ended.error.code == "node_raised":
        assert (
            f"tests/graphs/{case.graph.split('.')[2].partition(':')[0]}.py" in ended.error.traceback
        )


def _no_numbers(text: str) -> str:
    """Elapsed times differ from run to run."""
    return re.sub(r"\d+\.\d+", "#", text)


@cases(ASK)
async def test_a_human_answers_as_in_process(mesh: LocalMesh, case: Case) -> None:
    graph = case.build()
    async with serving(mesh, case.graph) as client:
        given: Any = case.input
        fields: dict[str, Any] = {"thread_id": "t"}
        earlier: list[AnyEvent] = []
        for answer in (*case.resumes, "over"):
            expected = await in_process(graph, given, case)
            events = await run(client, None if "command" in fields else given, **fields)
            compare(case, events, expected)
            assert_contiguous([*earlier, *events] if "command" in fields else events)
            earlier = [*earlier, *events]
            state = await graph.aget_state({"configurable": {"thread_id": "t"}})
            if answer == "over":
                break
            stop = events[-1]
            assert isinstance(stop, RunInterrupted)
            assert stop.next == sorted(state.next)
            assert shown(stop.interrupts) == shown(list(state.interrupts))
            given = None if answer is None else Command(resume=answer)
            if answer is not None:
                fields = {"thread_id": "t", "command": {"resume": answer}}
    ended = earlier[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "success"
    assert shown(ended.output) == shown(state.values)


async def test_attempts_are_told(mesh: LocalMesh) -> None:
    case = Case(graph=POLICIES + "flaky", input={"n": 0})
    async with serving(mesh, case.graph) as client:
        events = await run(client, case.input)
    fetches = [event for event in events if getattr(event, "node", "") == "fetch"]
    assert [type(event) for event in fetches] == [
        TaskStarted,
        TaskRestarted,
        TaskRestarted,
        TaskEnded,
    ]
    assert [event.attempt for event in fetches] == [1, 2, 3, 3]
    assert [e.error.message for e in fetches if isinstance(e, TaskRestarted) and e.error] == [
        "attempt 1 failed",
        "attempt 2 failed",
    ]
