"""Runs that a node starts: joined, tried again, called off and traced with their parent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from langmesh import MeshGraph, Run
from langmesh.client.mesh_graph import RunFailed
from langmesh.errors import ErrorCode
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore
from langmesh.telemetry.tree import check
from langmesh.testing import LocalMesh, local_mesh
from tests.graphs import families
from tests.graphs.gates import Gate
from tests.integration.kit import publish

FAMILIES = "tests.graphs.families:"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run of each attempt of the child's node."""
    runs: list[str] = []
    monkeypatch.setattr(families, "children", runs)
    return runs


@asynccontextmanager
async def family(mesh: LocalMesh, parent: str) -> AsyncIterator[MeshGraph]:
    """Run a coordinator and the child; the parent's agent is the caller's concern."""
    await publish(mesh, FAMILIES + parent)
    await publish(mesh, FAMILIES + "child")
    async with (
        asyncio.timeout(60),
        mesh.coordinator(),
        mesh.agents("child", "work"),
        MeshGraph(parent, bus=mesh.bus) as graph,
    ):
        yield graph


async def end_of(mesh: LocalMesh, run_id: str) -> str:
    """How a run of the child ended, which may be over already."""
    async with MeshGraph("child", bus=mesh.bus) as graph:
        found = await graph.ask("run.wait", {"run_id": run_id, "timeout_s": 30}, timeout_s=40)
    return str(found["status"])


async def test_a_retried_attempt_starts_another_child_when_the_first_failed(
    mesh: LocalMesh, gate: Gate, children: list[str]
):
    gate.open("child")
    async with family(mesh, "persistent") as graph, mesh.agents("persistent"):
        assert await graph.ainvoke({"failures": 2}) == {"failures": 2, "told": "child 3"}
    assert len(set(children)) == 3


async def test_an_attempt_on_another_agent_joins_the_child_that_goes_on(
    mesh: LocalMesh, gate: Gate, children: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmesh.agent.host.GRACE_S", 0.1)
    async with family(mesh, "patient") as graph:
        async with mesh.agents("patient"):
            run = await graph.submit({"failures": 0})
            await gate.reached("child")
        async with mesh.agents("patient"):
            gate.open("child")
            assert await run.result() == {"failures": 0, "told": "child 1"}
    assert len(children) == 1


@pytest.mark.parametrize("parent", ["patient", "blocking"])
async def test_a_cancelled_node_takes_its_child_with_it(
    mesh: LocalMesh, gate: Gate, children: list[str], parent: str
):
    async with family(mesh, parent) as graph, mesh.agents(parent):
        run = await graph.submit({"failures": 0})
        await gate.reached("child")
        await run.cancel()
        assert await end_of(mesh, children[0]) == "cancelled"
        assert await run.status() == "cancelled"


async def test_a_node_that_times_out_takes_its_child_with_it(
    mesh: LocalMesh, gate: Gate, children: list[str]
):
    async with family(mesh, "hasty") as graph, mesh.agents("hasty"):
        with pytest.raises(RunFailed) as failed:
            await graph.ainvoke({"failures": 0})
        assert failed.value.code is ErrorCode.NODE_TIMED_OUT
        assert await end_of(mesh, children[0]) == "cancelled"


async def test_a_call_that_is_given_up_cancels_its_run(mesh: LocalMesh, gate: Gate, children):
    async with family(mesh, "patient"), MeshGraph("child", bus=mesh.bus) as graph:
        call = asyncio.create_task(graph.ainvoke({"failures": 0}))
        await gate.reached("child")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await end_of(mesh, children[0]) == "cancelled"


async def test_a_node_cannot_wait_for_a_run_of_its_own_thread(mesh: LocalMesh, gate: Gate):
    async with family(mesh, "entangled") as graph, mesh.agents("entangled"):
        with pytest.raises(RunFailed, match="wait for itself") as failed:
            await graph.ainvoke({"failures": 0})
        assert failed.value.node == "call_own_thread"


async def test_fifty_boards_wait_for_planners_that_wait_for_research(tmp_path: Path):
    """Three levels, one place per agent and one run at a time: no deadlock, one trace per board."""
    boards = 50
    questions = ["What is an agent?", "What is a mesh?"]
    with SpanStore(tmp_path / "spans.db") as store:
        async with (
            asyncio.timeout(150),
            OtlpHttpReceiver(store) as receiver,
            local_mesh(
                LANGMESH_MAX_RUNS="1",
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ) as mesh,
            AsyncExitStack() as stack,
        ):
            await publish(mesh, "tests.graphs.planning:board")
            await publish(mesh, "tests.graphs.planning:planning")
            services = [await stack.enter_async_context(mesh.coordinator("research.graph:graph"))]
            for graph in ("board", "planning", "research"):
                agent = mesh.agents(graph, max_in_flight=1)
                services.append(await stack.enter_async_context(agent))
            board = await stack.enter_async_context(MeshGraph("board", bus=mesh.bus))
            runs: list[Run] = await asyncio.gather(
                *(board.submit({"questions": questions}) for _ in range(boards))
            )
            for run in runs:
                assert len((await run.result())["answers"]) == len(questions)
            for service in services:
                assert await service.telemetry.aclose()
        for run in runs:
            spans = store.trace(run.trace_id)
            assert check(spans) == []
            names = Counter(span.name for span in spans)
            assert names["invoke_workflow board"] == names["invoke_workflow planning"] == 1
            assert names["invoke_workflow research"] == len(questions)
