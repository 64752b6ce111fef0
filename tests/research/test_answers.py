"""What the graph answers without a model."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from langmesh.errors import ErrorCode, MeshError
from research.graph import fan_out, graph, verdict
from research.state import ROUNDS_MAX, SCORE_MIN, gather

CONTEXT_MANAGERS = "How do Python's context managers and exceptions work together?"
UNKNOWN = "How do zeppelins and quaternions relate to exceptions?"


def of(updates: list[tuple[str, Any]], node: str) -> list[Any]:
    return [update for name, update in updates if name == node]


def flat(text: str) -> str:
    return " ".join(text.split())


def document(source: str) -> str:
    """The text that a citation of the default corpus names."""
    name, _, topic = source.partition("#")
    if topic:
        return topics[topic]
    return (Path(sysconfig.get_path("stdlib")) / name).read_text(encoding="utf-8")


async def test_answers_with_what_the_documents_say():
    output = await graph.compile().ainvoke({"question": CONTEXT_MANAGERS})
    assert set(output) == {"answer", "citations"}
    assert 'runtime context to be established when executing a "with" statement' in output["answer"]
    assert "wishes to suppress the exception" in output["answer"]


@pytest.mark.parametrize(
    "question",
    [
        CONTEXT_MANAGERS,
        "What happens when an exception is raised inside a finally clause?",
        "How does logging relate to multiprocessing?",
        "How are names resolved in nested scopes?",
    ],
)
async def test_every_quote_stands_in_the_source_it_names(run, question):
    output, _ = await run(question)
    assert output["citations"]
    for citation in output["citations"]:
        text = document(citation["source"])
        assert citation["quote"] in flat(text)
        lines = text.splitlines()[citation["line"] - 1 :]
        assert lines, "the line lies within the document"
        assert citation["quote"] in flat("\n".join(lines))


async def test_marks_and_citations_correspond(run):
    output, _ = await run(CONTEXT_MANAGERS)
    marks = [int(mark) for mark in re.findall(r"\[(\d+)\]", output["answer"])]
    assert marks == [citation["id"] for citation in output["citations"]]
    assert marks == list(range(1, len(marks) + 1))


async def test_a_covered_question_ends_after_one_round(run):
    _, updates = await run(CONTEXT_MANAGERS)
    assert len(of(updates, "planner")) == 1
    assert of(updates, "reviewer")[-1]["score"] >= SCORE_MIN


async def test_the_second_round_finds_another_spelling(run):
    output, updates = await run("How does serialisation of objects work?")
    plans = [update["plan"] for update in of(updates, "planner")]
    assert len(plans) == 2
    assert any("seriali*" in subquestion for subquestion in plans[1])
    assert "serializable" in output["answer"]
    assert "Not covered" not in output["answer"]


async def test_an_uncoverable_question_is_answered_after_three_rounds(run):
    output, updates = await run(UNKNOWN)
    plans = [update["plan"] for update in of(updates, "planner")]
    assert len(plans) == ROUNDS_MAX
    asked = [subquestion for plan in plans for subquestion in plan]
    assert len(asked) == len(set(asked)), "every round asks something else"
    assert "Exceptions are a means of breaking out" in output["answer"]
    assert output["answer"].endswith("Not covered by the sources: zeppelins, quaternions")


@pytest.mark.parametrize("question", ["What about zeppelins?", "How do you do?"])
async def test_a_question_without_any_finding_is_answered_too(run, question):
    output, updates = await run(question)
    assert len(of(updates, "planner")) == ROUNDS_MAX
    assert output["citations"] == []
    assert output["answer"].startswith("Not covered by the sources: ")


@pytest.mark.parametrize(
    ("question", "researchers"),
    [
        ("What are descriptors?", 2),
        (CONTEXT_MANAGERS, 3),
        ("How do classes, modules, packages, scopes and names fit together?", 4),
    ],
)
async def test_each_subquestion_has_a_researcher(run, question, researchers):
    _, updates = await run(question)
    first_round = [name for name, _ in updates].index("writer")
    names = [name for name, _ in updates[:first_round]]
    assert names == ["planner"] + ["researcher"] * researchers
    asked = {
        f["subquestion"] for u in of(updates[:first_round], "researcher") for f in u["findings"]
    }
    assert asked <= set(of(updates, "planner")[0]["plan"])
    assert len(of(updates, "planner")[0]["plan"]) == researchers


async def test_the_same_question_gives_the_same_answer(run):
    assert (await run(CONTEXT_MANAGERS))[0] == (await run(CONTEXT_MANAGERS))[0]


async def test_a_thread_answers_each_question_afresh_and_stays_small():
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    first = await compiled.ainvoke({"question": UNKNOWN}, config)
    second = await compiled.ainvoke({"question": "What are descriptors?"}, config)
    assert "zeppelins" not in second["answer"]
    assert "exceptions" not in {c["source"].partition("#")[2] for c in second["citations"]}
    assert await compiled.ainvoke({"question": UNKNOWN}, config) == first
    before = len((await compiled.aget_state(config)).values["findings"])
    assert await compiled.ainvoke({"question": UNKNOWN}, config) == first
    assert len((await compiled.aget_state(config)).values["findings"]) == before


@pytest.mark.parametrize("question", ["", "  \n", 7, None])
async def test_no_question_is_an_error_of_the_input(question):
    with pytest.raises(MeshError, match="question") as caught:
        await graph.compile().ainvoke({"question": question})
    assert caught.value.code is ErrorCode.INVALID_INPUT


async def test_the_draft_streams_as_custom_output():
    events = [
        data
        async for data in graph.compile().astream(
            {"question": CONTEXT_MANAGERS}, stream_mode="custom"
        )
    ]
    assert len(events) == 3
    assert all(set(event) == {"draft"} for event in events)


def test_the_graph_is_an_uncompiled_builder_with_the_documented_topology():
    assert isinstance(graph, StateGraph)
    assert set(graph.nodes) == {"planner", "researcher", "writer", "reviewer"}
    assert graph.edges == {
        ("__start__", "planner"),
        ("researcher", "writer"),
        ("writer", "reviewer"),
    }
    assert set(graph.branches) == {"planner", "reviewer"}
    assert graph.branches["planner"]["fan_out"].path.func is fan_out
    assert graph.branches["reviewer"]["verdict"].path.func is verdict
    assert set(graph.compile().get_input_jsonschema()["properties"]) == {"question"}
    assert set(graph.compile().get_output_jsonschema()["properties"]) == {"answer", "citations"}


def finding(question: str, line: int) -> Any:
    return {"question": question, "subquestion": "s", "source": "a", "line": line}


def test_gather_adds_findings_once_and_drops_those_of_another_question():
    a1, a2, b1 = finding("a", 1), finding("a", 2), finding("b", 1)
    assert gather([], [a1]) == [a1]
    assert gather([a1], []) == [a1]
    assert gather([a1], [a2, a1]) == [a1, a2]
    assert gather([a1, a2], [b1]) == [b1]
