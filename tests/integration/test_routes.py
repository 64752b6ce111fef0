"""Routes are data: where a node's tasks go is looked up for each of them."""

from __future__ import annotations

import asyncio

import pytest

from langmesh.client import Client
from langmesh.graphs import directory
from langmesh.registry.records import Binding
from langmesh.testing import LocalMesh
from langmesh.wire import codec
from langmesh.wire.messages import ExecuteTask, RunEnded, TaskStarted, TaskWaiting
from tests.graphs.gates import Gate
from tests.integration.kit import Tap, publish, results, serving, tapping, until


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    return gate


V2 = Binding(subject="mesh.v1.exec.default.gated_loop.after.v2", release="v2")


async def rebind(mesh: LocalMesh, client: Client, gate: Gate) -> None:
    """Bind ``after`` to v2, and wait until the coordinator's watch has told it so."""
    await directory.rebind(
        mesh.etcd, tenant="default", graph="gated_loop", node="after", binding=V2
    )
    gate.open("probe")
    async with asyncio.timeout(30):
        while True:
            handle = await client.submit({"n": 1}, thread_id="probe")
            started = await until(handle, TaskStarted, node="after")
            if isinstance(started, TaskStarted) and started.subject == V2.subject:
                return


def executions(tap: Tap, run: str) -> list[tuple[str, str]]:
    """(subject, release) of a run's tasks, as published."""
    tasks = [(m.subject, codec.decode(ExecuteTask, m.data).context) for m in tap.messages]
    return [(subject, context.release) for subject, context in tasks if context.run == run]


async def test_the_next_task_goes_where_its_node_is_bound(mesh: LocalMesh, gate: Gate) -> None:
    async with (
        tapping(mesh, "mesh.v1.exec.>") as tap,
        serving(mesh, "tests.graphs.gates:gated_loop") as client,
        mesh.agents("gated_loop", "after", release="v2"),
    ):
        gate.open("old")
        old = await client.submit({"n": 1}, thread_id="old")
        moved = await client.submit({"n": 2}, thread_id="moved")
        assert (await old.result()).output["trail"] == ["before", "after v1"]
        # One run is under way: its topology is pinned, where its nodes are served is not.
        await gate.reached("moved")
        await rebind(mesh, client, gate)
        gate.open("moved")
        ended = await moved.result()
    assert isinstance(ended, RunEnded)
    assert ended.output["trail"] == ["before", "after v2", "before", "after v2"]
    before = ("mesh.v1.exec.default.gated_loop.before.v1", "v1")
    after_v1 = ("mesh.v1.exec.default.gated_loop.after.v1", "v1")
    after_v2 = ("mesh.v1.exec.default.gated_loop.after.v2", "v2")
    assert executions(tap, old.run_id) == [before, after_v1]
    assert executions(tap, moved.run_id) == [before, after_v2, before, after_v2]


async def test_a_node_that_nobody_serves_is_told_and_waited_for(
    mesh: LocalMesh, gate: Gate
) -> None:
    await publish(mesh, "tests.graphs.gates:gated_loop")
    gate.open("t")
    async with (
        mesh.coordinator(),
        mesh.agents("gated_loop", "before"),
        mesh.client("gated_loop") as client,
    ):
        handle = await client.submit({"n": 1}, thread_id="t")
        async with asyncio.timeout(30):
            waiting = await until(handle, TaskWaiting, node="after")
        assert isinstance(waiting, TaskWaiting)
        assert "mesh.v1.exec.default.gated_loop.after.v1" in waiting.reason
        async with mesh.agents("gated_loop", "after"):
            [ended] = await results([handle], timeout_s=30)
    assert (ended.status, ended.output["trail"]) == ("success", ["before", "after v1"])


async def test_a_release_without_agents_is_waited_for(mesh: LocalMesh, gate: Gate) -> None:
    async with serving(mesh, "tests.graphs.gates:gated_loop") as client:
        gate.open("t")
        await rebind(mesh, client, gate)
        handle = await client.submit({"n": 1}, thread_id="t")
        async with asyncio.timeout(30):
            await until(handle, TaskWaiting, node="after")
        async with mesh.agents("gated_loop", "after", release="v2"):
            [ended] = await results([handle], timeout_s=30)
    assert ended.output["trail"] == ["before", "after v2"]
