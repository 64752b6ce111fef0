"""A graph on the mesh has the shapes of a compiled one, also inside of a node."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langmesh import MeshGraph
from langmesh.client.mesh_graph import RunFailed
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh, local_mesh
from tests.graphs.approvals import approval
from tests.graphs.gates import Gate
from tests.graphs.talkers import talkers
from tests.integration.kit import publish
from tests.rpc.kit import APPROVAL, GATES, serving

NESTED = "tests.graphs.nested:nested"
THREAD = {"configurable": {"thread_id": "t"}}


async def test_an_interrupt_and_its_answer_go_as_in_process(mesh: LocalMesh):
    local = approval().compile(checkpointer=InMemorySaver())
    async with serving(mesh, APPROVAL), MeshGraph("approval", bus=mesh.bus) as graph:
        asked = await graph.ainvoke({"trail": []}, THREAD)
        expected = await local.ainvoke({"trail": []}, THREAD)
        assert asked["trail"] == expected["trail"]
        assert [i.value for i in asked["__interrupt__"]] == [
            i.value for i in expected["__interrupt__"]
        ]
        there, here = await graph.aget_state(THREAD), await local.aget_state(THREAD)
        assert (there.values, there.next) == (here.values, here.next)
        answer = Command(resume="yes")
        assert await graph.ainvoke(answer, THREAD) == await local.ainvoke(answer, THREAD)
        states = [s.values async for s in graph.aget_state_history(THREAD)]
        assert states == [s.values async for s in local.aget_state_history(THREAD)]
        await graph.aupdate_state(THREAD, {"trail": ["more"]})
        assert (await graph.aget_state(THREAD)).values["trail"][-1] == "more"


async def test_streams_are_those_of_a_graph_in_process(mesh: LocalMesh):
    local = talkers().compile()
    async with (
        serving(mesh, "tests.graphs.talkers:talkers"),
        MeshGraph("talkers", bus=mesh.bus) as graph,
    ):
        for mode in ("updates", "values", "custom"):
            there = [data async for data in graph.astream({"words": 2}, stream_mode=mode)]
            assert there == [data async for data in local.astream({"words": 2}, stream_mode=mode)]
        pairs = [p async for p in graph.astream({"words": 1}, stream_mode=["custom", "updates"])]
        assert ("custom", "word 0") in pairs
        assert pairs[-1] == ("updates", {"flaky": {"words": 1}})


async def test_a_failed_run_raises_its_error_with_the_node(mesh: LocalMesh):
    source = "tests.graphs.policies:raises"
    async with serving(mesh, source), MeshGraph("raises", bus=mesh.bus) as graph:
        with pytest.raises(RunFailed) as failed:
            await graph.ainvoke({"trail": []})
        assert (failed.value.code, failed.value.node) == (ErrorCode.NODE_RAISED, "fail")


async def test_a_refused_input_raises_the_coordinators_error(mesh: LocalMesh):
    async with (
        serving(mesh, "tests.graphs.talkers:talkers"),
        MeshGraph("talkers", bus=mesh.bus) as graph,
    ):
        with pytest.raises(MeshError, match=r"input\.words") as refused:
            await graph.ainvoke({"words": "many"})
        assert refused.value.code is ErrorCode.INVALID_INPUT


async def test_a_graph_that_calls_itself_needs_no_second_place(gate: Gate):
    gate.open("deepest")
    async with local_mesh(LANGMESH_MAX_RUNS="1") as mesh:
        await publish(mesh, NESTED)
        async with (
            mesh.coordinator(),
            mesh.agents("nested", "descend", max_in_flight=1),
            MeshGraph("nested", bus=mesh.bus) as graph,
            asyncio.timeout(60),
        ):
            runs = [graph.ainvoke({"depth": 3, "levels": 0}) for _ in range(10)]
            assert [found["levels"] for found in await asyncio.gather(*runs)] == [4] * 10


async def test_to_cancel_the_top_reaches_the_deepest_run(mesh: LocalMesh, gate: Gate):
    await publish(mesh, NESTED)
    ends: list[bytes] = []
    traces: set[bytes] = set()
    all_over = asyncio.Event()

    async def on_event(body: bytes) -> None:
        if b"run.ended.v1" in body:
            ends.append(body)
            traces.add(body.partition(b'"trace_id":"')[2][:32])
            if len(ends) == 3:
                all_over.set()

    await mesh.bus.listen("mesh.v1.event.default.nested.*.*", on_event)
    async with (
        mesh.coordinator(),
        mesh.agents("nested", "descend", max_in_flight=1),
        MeshGraph("nested", bus=mesh.bus) as graph,
        asyncio.timeout(30),
    ):
        run = await graph.submit({"depth": 2, "levels": 0})
        await gate.reached("deepest")
        await run.cancel()
        await all_over.wait()
        assert await run.status() == "cancelled"
    assert all(b'"cancelled"' in end for end in ends)
    assert traces == {run.trace_id.encode()}


async def test_outside_of_its_block_a_graph_says_what_to_do(mesh: LocalMesh):
    with pytest.raises(MeshError, match="async with"):
        await MeshGraph("nested", tenant="default").ainvoke({})


async def test_a_run_that_waits_long_for_its_turn_is_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmesh.coordinator.rpc.DECISION_S", 0.1)
    async with (
        asyncio.timeout(60),
        local_mesh(LANGMESH_MAX_RUNS="1") as mesh,
        serving(mesh, GATES),
        MeshGraph("gated_loop", bus=mesh.bus) as graph,
    ):
        await graph.submit({"n": 1}, thread_id="first")
        await gate.reached("first")
        second = asyncio.create_task(graph.ainvoke({"n": 1}, {"configurable": {"thread_id": "2"}}))
        await asyncio.sleep(0.3)  # past the coordinator's limit
        gate.open("first")
        gate.open("2")
        assert (await second)["trail"] == ["before", "after v1"]
