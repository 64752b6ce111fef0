"""The blocking calls give what a compiled graph's own blocking calls give."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langmesh import RunFailed, SyncMeshGraph
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh
from tests.graphs.approvals import approval
from tests.graphs.gates import Gate
from tests.graphs.talkers import talkers
from tests.rpc.kit import APPROVAL, GATES, Asker, serving

THREAD = {"configurable": {"thread_id": "t"}}


async def test_a_script_asks_answers_and_looks_at_states(mesh: LocalMesh):
    local = approval().compile(checkpointer=InMemorySaver())

    def script() -> list[object]:
        with SyncMeshGraph("approval", nats_url=mesh.nats_url) as graph:
            assert graph.invoke({"n": 1}, THREAD)["__interrupt__"]
            asked = graph.get_state(THREAD)
            answered = graph.invoke(Command(resume="yes"), THREAD)
            graph.update_state(THREAD, {"trail": ["more"]})
            states = [state.values for state in graph.get_state_history(THREAD)]
            return [asked.values, asked.next, answered, states]

    await local.ainvoke({"n": 1}, THREAD)
    asked = await local.aget_state(THREAD)
    answered = await local.ainvoke(Command(resume="yes"), THREAD)
    await local.aupdate_state(THREAD, {"trail": ["more"]})
    states = [state.values async for state in local.aget_state_history(THREAD)]
    async with serving(mesh, APPROVAL):
        found = await asyncio.to_thread(script)
    assert found == [asked.values, asked.next, answered, states]


async def test_a_script_streams(mesh: LocalMesh):
    def script() -> list[object]:
        with SyncMeshGraph("talkers", nats_url=mesh.nats_url) as graph:
            whole = list(graph.stream({"words": 2}, stream_mode="custom"))
            run = graph.submit({"words": 2}, stream_mode=["custom", "updates"])
            parts = [data for _, data in run.stream("custom")]
            assert run.result() == {"words": 2}
            assert run.status() == "success"
            return [whole, parts]

    local = talkers().compile()
    expected = [part async for part in local.astream({"words": 2}, stream_mode="custom")]
    async with serving(mesh, "tests.graphs.talkers:talkers"):
        assert await asyncio.to_thread(script) == [expected, expected]


async def test_to_leave_a_stream_cancels_its_run(mesh: LocalMesh, gate: Gate, ask: Asker):
    began, left = threading.Event(), threading.Event()

    def script() -> str:
        with SyncMeshGraph("gated_loop", nats_url=mesh.nats_url) as graph:
            config = {**THREAD, "recursion_limit": 1_000}
            stream = graph.stream({"n": 200}, config, stream_mode="updates")
            for _ in stream:
                break
            stream.close()
            run = graph.submit({"n": 1})
            began.set()
            left.wait()
            run.cancel()
            with pytest.raises(RunFailed) as failed:
                run.result()
            assert failed.value.code is ErrorCode.RUN_CANCELLED
            return run.status()

    gate.open("t")
    async with serving(mesh, GATES), asyncio.timeout(30):
        script_ends = asyncio.create_task(asyncio.to_thread(script))
        await asyncio.to_thread(began.wait)
        left.set()
        assert await script_ends == "cancelled"
        state = await ask("thread.state", graph="gated_loop", thread_id="t")
        assert len(state["values"]["trail"]) < 2 * 200, "the rest of the loop was not run"


async def test_a_stream_that_fails_raises(mesh: LocalMesh):
    def script() -> None:
        with SyncMeshGraph("raises", nats_url=mesh.nats_url) as graph:
            list(graph.stream({"trail": ["x"]}))

    async with serving(mesh, "tests.graphs.policies:raises"):
        with pytest.raises(RunFailed) as failed:
            await asyncio.to_thread(script)
    assert failed.value.node == "fail"


async def test_it_refuses_to_block_an_event_loop(mesh: LocalMesh):
    graph = SyncMeshGraph("raises", nats_url=mesh.nats_url)
    with pytest.raises(MeshError, match="MeshGraph there"), graph:
        pass
    with pytest.raises(MeshError, match="`with` block"):
        await asyncio.to_thread(graph.invoke, {})


def test_a_broker_that_is_away_is_an_error_with_a_way_out():
    with (
        pytest.raises(MeshError) as failed,
        SyncMeshGraph("raises", nats_url="nats://127.0.0.1:1"),
    ):
        pass
    assert failed.value.code is ErrorCode.BROKER_UNAVAILABLE
