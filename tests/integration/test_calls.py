"""``@task`` functions that nodes call: as in one process, and each executed once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langmesh import MeshGraph
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, TaskEnded, TaskStarted
from tests.graphs import calling
from tests.integration.kit import events_of, publish, serving

CONFIG: Any = {"configurable": {"thread_id": "t"}}


def executions(record: str) -> Counter[str]:
    path = Path(record)
    return Counter(path.read_text().splitlines() if path.exists() else ())


async def alone(name: str, record: str, given: list[Any]) -> list[Any]:
    """What LangGraph makes of it in one process; errors as they are."""
    graph = getattr(calling, name)()
    graph.checkpointer = InMemorySaver()
    return await _all(graph, record, given)


async def _all(graph: Any, record: str, given: list[Any]) -> list[Any]:
    found: list[Any] = []
    for each in given:
        value = {"record": record, "found": []} if each == "begin" else each
        try:
            state = await graph.ainvoke(value, CONFIG)
        except Exception:  # noqa: BLE001  both have to
            found.append("failed")
        else:
            asked = [interrupt.value for interrupt in state.get("__interrupt__", [])]
            found.append((state["found"], asked))
    return found


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("calls_together", ["begin"]),
        ("calls_blocking", ["begin"]),
        ("calls_between", ["begin", Command(resume="yes")]),
        ("calls_below", ["begin", Command(resume="you")]),
        ("calls_caught", ["begin"]),
        # A run that failed goes on: what was called and succeeded is not executed again.
        ("calls_failing", ["begin", None]),
    ],
)
async def test_calls_are_as_in_one_process(
    mesh: LocalMesh, tmp_path: Path, name: str, given: list[Any]
) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    expected = await alone(name, here, given)
    async with (
        serving(mesh, f"tests.graphs.calling:{name}"),
        MeshGraph(name, nats_url=mesh.nats_url) as graph,
    ):
        assert await _all(graph, there, given) == expected
    assert executions(there) == executions(here)


async def test_a_caller_lends_its_place(mesh: LocalMesh, tmp_path: Path) -> None:
    """One task at once for each agent, and still three levels of calls."""
    topology = await publish(mesh, "tests.graphs.calling:calls_together")
    async with (
        mesh.coordinator(),
        mesh.agents("calls_together", *topology.nodes, max_in_flight=1),
    ):
        end = await mesh.run("calls_together", {"record": str(tmp_path / "there"), "found": []})
        assert isinstance(end, RunEnded)
        assert end.output["found"] == [[0, 2, 4, 6], "steady", 42]


async def test_a_function_that_others_cannot_find(mesh: LocalMesh, tmp_path: Path) -> None:
    async with serving(mesh, "tests.graphs.calling:calls_local") as client:
        handle = await client.submit({"record": str(tmp_path / "there"), "found": []})
        end = await handle.result()
    assert isinstance(end, RunEnded)
    assert end.error is not None
    assert end.error.code == "graph_not_supported"
    assert "hidden" in end.error.message
    assert "at the top of a module" in end.error.message


async def test_clients_see_who_called(mesh: LocalMesh, tmp_path: Path) -> None:
    async with serving(mesh, "tests.graphs.calling:calls_blocking") as client:
        handle = await client.submit({"record": str(tmp_path / "there"), "found": []})
        events = await events_of(handle)
    started = {each.node: each for each in events if isinstance(each, TaskStarted)}
    ended = {each.node: each for each in events if isinstance(each, TaskEnded)}
    caller = started["blocking"].task_id
    for function in ("double", "add"):
        assert started[function].caller == ended[function].caller == caller
        assert ended[function].status == "ok"
