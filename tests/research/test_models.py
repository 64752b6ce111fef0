"""The nodes with a chat model, through the hook ``LANGMESH_MODEL=python:MODULE:ATTRIBUTE``."""

from __future__ import annotations

import pytest

from langmesh.errors import ErrorCode, MeshError
from research.graph import graph
from research.models import ask, chat_model, first_json
from research.state import ROUNDS_MAX

QUESTION = "How do Python's context managers and exceptions work together?"


@pytest.fixture
def use(monkeypatch):
    return lambda name: monkeypatch.setenv("LANGMESH_MODEL", f"python:tests.research.models:{name}")


async def test_the_model_plans_writes_and_reviews(run, use):
    use("good")
    output, updates = await run(QUESTION)
    names = [name for name, _ in updates]
    assert names == ["planner", "researcher", "researcher", "writer", "reviewer"]
    assert updates[0][1]["plan"] == ["what a context manager is", "how exceptions reach __exit__"]
    assert (
        output["answer"]
        == "A context manager sets up a context [1]. It may suppress an exception [2] [1]."
    )
    assert [c["id"] for c in output["citations"]] == [1, 2]
    assert updates[-1][1]["score"] == 0.95
    found = [f["text"] for n, u in updates if n == "researcher" for f in u["findings"]]
    for citation in output["citations"]:
        assert any(citation["quote"] in " ".join(text.split()) for text in found)


async def test_a_model_that_is_never_content_ends_after_three_rounds(run, use):
    use("strict")
    output, updates = await run(QUESTION)
    plans = [u["plan"] for n, u in updates if n == "planner"]
    assert len(plans) == ROUNDS_MAX
    asked = [q for plan in plans for q in plan]
    assert len(set(asked)) == len(asked)
    assert output["answer"].endswith("Not covered by the sources: an example")


async def test_unusable_replies_fall_back_to_the_rules(run, use, monkeypatch):
    use("garbage")
    with_model, _ = await run(QUESTION)
    monkeypatch.delenv("LANGMESH_MODEL")
    without, _ = await run(QUESTION)
    assert with_model == without


async def test_tokens_of_the_model_stream_as_messages(use):
    use("good")
    nodes = {
        metadata["langgraph_node"]
        async for _, metadata in graph.compile().astream(
            {"question": QUESTION}, stream_mode="messages"
        )
    }
    assert nodes == {"planner", "writer", "reviewer"}


async def test_the_model_is_loaded_once(use):
    use("generic")
    model = await chat_model()
    assert model is not None
    assert model is await chat_model()
    assert await ask(model, "Say", "hello") == "hello"


async def test_no_model_is_configured_by_default():
    assert await chat_model() is None


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        ("python:tests.research.models:not_a_model", ErrorCode.INVALID_SETTING, "dict"),
        ("python:tests.research.models:nothing", ErrorCode.INVALID_SETTING, "nothing"),
        ("python:tests.research.models", ErrorCode.INVALID_SETTING, "python:MODULE:ATTRIBUTE"),
        ("python:no_such_module:model", ErrorCode.DEPENDENCY_MISSING, "no_such_module"),
        ("python:", ErrorCode.INVALID_SETTING, "python:MODULE:ATTRIBUTE"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_an_error(monkeypatch, name, code, part):
    monkeypatch.setenv("LANGMESH_MODEL", name)
    with pytest.raises(MeshError) as caught:
        await chat_model()
    assert caught.value.code is code
    assert part in str(caught.value)


async def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setenv("LANGMESH_MODEL", "anthropic:some-model")
    monkeypatch.setitem(__import__("sys").modules, "langchain", None)
    with pytest.raises(MeshError) as caught:
        await chat_model()
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING
    assert "Install `langchain`" in caught.value.remedy


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('["a"]', ["a"]),
        ('Well, {"score": 1}. {"score": 2}', {"score": 1}),
        ("```json\n[1, 2]\n```", [1, 2]),
        ("{not json} then [3]", [3]),
        ("nothing", None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_first_json(reply, value):
    assert first_json(reply) == value
