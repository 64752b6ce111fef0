"""Node bodies by reference: LangGraph runs them as it runs the bodies themselves."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore

import langmesh
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.lazy import Lazy, lazy
from tests.research import lazy_targets

TARGETS = "tests.research.lazy_targets"
ROOT = Path(__file__).parents[2]


class State(TypedDict):
    seen: Any


def build(body: Any, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State, context_schema=str)
    builder.add_node("node", body, **options)
    builder.add_edge(START, "node")
    return builder


async def seen(ref: str, **options: Any) -> Any:
    return (await build(lazy(f"{TARGETS}:{ref}")).compile().ainvoke({"seen": None}, **options))[
        "seen"
    ]


async def test_an_async_body_runs_on_the_event_loop():
    lazy_targets.VARIABLE.set("set")
    assert await seen("asynchronous") == {"thread": threading.get_ident(), "variable": "set"}


async def test_a_sync_body_runs_in_a_thread_with_the_context():
    lazy_targets.VARIABLE.set("set")
    result = await seen("sync")
    assert result["thread"] != threading.get_ident()
    assert result["variable"] == "set"


async def test_what_the_body_declares_is_injected():
    builder = build(lazy(f"{TARGETS}:injected"))
    compiled = builder.compile(store=InMemoryStore())
    config: Any = {"configurable": {"tag": "t1"}}
    events = [
        event
        async for event in compiled.astream(
            {"seen": None}, config, context="ctx", stream_mode=["custom", "values"]
        )
    ]
    assert events[-1][1]["seen"] == {"tag": "t1", "context": "ctx", "same_store": True}
    assert [data for mode, data in events if mode == "custom"] == [
        {"written": True},
        {"streamed": True},
    ]
    assert await seen("only_config") == "node"


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("Holder.body", "held"),
        ("instance", "called"),
        ("runnable", "runnable"),
        ("subgraph", "subgraph"),
    ],
)
async def test_whatever_add_node_takes_may_be_named(ref, expected):
    assert await seen(ref) == expected


async def test_a_command_goes_where_it_says():
    builder = build(lazy(f"{TARGETS}:goes_on"), destinations=("last",))
    builder.add_node("last", lazy(f"{TARGETS}:only_config"))
    builder.add_edge("last", END)
    assert (await builder.compile().ainvoke({"seen": None}))["seen"] == "last"


async def test_the_body_s_own_failure_passes_unchanged():
    with pytest.raises(ValueError, match="the node's own failure"):
        await seen("fails")


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("no_such_package.node:body", ["no_such_package.node", "body", "No module named"]),
        (f"{TARGETS}:nothing", [TARGETS, "nothing", "has no attribute"]),
        (f"{TARGETS}:Holder.nothing", [TARGETS, "Holder.nothing", "has no attribute"]),
        (f"{TARGETS}:not_callable", [TARGETS, "not_callable", "a dict"]),
    ],
)
async def test_a_body_that_cannot_be_imported_is_named(ref, parts):
    with pytest.raises(MeshError) as caught:
        await build(lazy(ref)).compile().ainvoke({"seen": None})
    assert caught.value.code is ErrorCode.GRAPH_IMPORT_FAILED
    for part in parts:
        assert part in caught.value.message


async def test_a_module_that_raises_on_import_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raises_on_import.py").write_text("1 / 0\n")
    with pytest.raises(MeshError, match="ZeroDivisionError: division by zero"):
        lazy("raises_on_import:body").resolve()


@pytest.mark.parametrize("ref", ["", "module", "module:", ":body", "a b:c", "a:b:c", "a..b:c"])
def test_a_reference_of_another_form_is_refused_at_once(ref):
    with pytest.raises(MeshError) as caught:
        lazy(ref)
    assert caught.value.code is ErrorCode.GRAPH_IMPORT_FAILED
    assert repr(ref) in caught.value.message


def test_references_are_values():
    body = lazy("package.module:attribute")
    assert body == lazy("package.module:attribute")
    assert hash(body) == hash(lazy("package.module:attribute"))
    assert body != lazy("package.module:other")
    assert body != "package.module:attribute"
    assert repr(body) == "lazy('package.module:attribute')"
    assert body.ref == "package.module:attribute"
    assert isinstance(body, Lazy)
    assert langmesh.lazy is lazy


def test_a_node_without_a_name_is_called_as_its_body():
    builder = StateGraph(State)
    builder.add_node(lazy("package.module:Holder.body"))
    assert set(builder.nodes) == {"body"}


def test_building_imports_no_body():
    build(lazy("no_such_package:body")).compile()


def test_the_body_is_imported_once():
    body = lazy(f"{TARGETS}:sync")
    assert body.resolve() is lazy_targets.sync


BLOCKED = """
import sys
for name in ("bm25s", "numpy"):
    sys.modules[name] = None
from research.graph import graph
graph.compile()
assert not [name for name in sys.modules if name.startswith("services")], "a body was imported"
import services.planner.node, services.writer.node, services.reviewer.node
"""


def test_the_graph_and_the_other_agents_need_none_of_the_researcher_s_packages():
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
