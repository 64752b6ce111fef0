"""Several coordinators share the threads: each run has one driver, whoever comes and goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from langmesh import MeshGraph
from langmesh.client import Client, RunHandle
from langmesh.coordinator.assignment import assign
from langmesh.registry import keys
from langmesh.registry.view import View
from langmesh.service import Service
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import subjects
from langmesh.wire.messages import RunInterrupted
from langmesh.wire.names import PARTITIONS, partition
from tests.durability.history import verify
from tests.graphs.durable import gated
from tests.graphs.gates import Gate
from tests.integration.kit import publish, results
from tests.rpc.kit import Asker

PIPELINE = "tests.graphs.work:pipeline"


async def shared_by(mesh: LocalMesh, *coordinators: Service) -> None:
    """Wait until each of these coordinators has its share."""
    wanted = {str(n): owner for n, owner in assign([c.instance for c in coordinators]).items()}
    async with View(mesh.etcd, keys.partitions(), lambda _, value: value.decode()) as view:
        await view.wait_for(lambda items: dict(items) == wanted, timeout_s=30)


async def submit(client: Client, count: int, record: str, seconds: float) -> list[RunHandle]:
    given = {"record": record, "seconds": seconds}
    return [await client.submit(given, stream_mode=[]) for _ in range(count)]


@pytest.fixture
def record(tmp_path) -> str:
    return str(tmp_path / "executions")


async def test_each_drives_the_runs_of_its_partitions(mesh: LocalMesh, record: str) -> None:
    await publish(mesh, PIPELINE)
    async with (
        asyncio.timeout(90),
        mesh.coordinator() as one,
        mesh.coordinator() as two,
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        await shared_by(mesh, one, two)
        owners = assign([one.instance, two.instance])
        ended = await results(await submit(client, 40, record, 0.0), timeout_s=60)
        drivers = Counter()
        for end in ended:
            assert end.status == "success"
            (driver,) = (await verify(mesh, end, "pipeline")).drivers
            assert driver == owners[partition("default", end.thread_id)]
            drivers[driver] += 1
        assert len(drivers) == 2, drivers


async def test_a_thread_keeps_the_order_of_its_submissions(mesh: LocalMesh) -> None:
    await publish(mesh, "tests.graphs.shapes:chain")
    async with (
        asyncio.timeout(90),
        mesh.coordinator() as one,
        mesh.coordinator() as two,
        mesh.agents("chain"),
        mesh.client("chain") as client,
    ):
        await shared_by(mesh, one, two)
        threads = [f"t{number}" for number in range(6)]
        handles = [
            await client.submit({"trail": [f"{turn}"]}, thread_id=thread, stream_mode=[])
            for turn in range(5)
            for thread in threads
        ]
        ended = await results(handles, timeout_s=60)
        for end in ended[-len(threads) :]:
            turns = [step for step in end.output["trail"] if step.isdecimal()]
            assert turns == ["0", "1", "2", "3", "4"]


async def test_any_coordinator_answers_for_all(mesh: LocalMesh) -> None:
    """Requests go to whoever owns what they are about."""
    await publish(mesh, "tests.graphs.durable:gated")
    async with (
        asyncio.timeout(90),
        mesh.coordinator() as one,
        mesh.coordinator() as two,
        mesh.agents("gated", *gated().nodes.keys() - {"__start__"}),
    ):
        await shared_by(mesh, one, two)
        for instance in (one.instance, two.instance):

            async def ask(verb: str, **fields: object) -> dict:
                """Ask this one, which the queue group would not let us."""
                subject = subjects.peer_rpc(instance, "default", verb)  # noqa: B023
                body = json.dumps(fields).encode()
                return await Asker(mesh.bus.client).at(subject, body)

            for number in range(4):
                thread = f"{instance}-{number}"
                run = await ask("run.start", graph="gated", thread_id=thread, input={"trail": []})
                view = await ask("run.wait", run_id=run["run_id"])
                assert view["status"] == "interrupted"
                state = await ask("thread.state", graph="gated", thread_id=thread)
                assert state["next"] == ["sign"]
                await ask("run.resume", graph="gated", thread_id=thread, resume=True)
                view = await ask("run.wait", run_id=run["run_id"])
                assert view["status"] == "success", view
            # A run without a thread of its own, and one that is called off.
            run = await ask("run.start", graph="gated", input={"trail": []})
            assert (await ask("run.cancel", run_id=run["run_id"]))["run_id"] == run["run_id"]


async def test_runs_go_on_while_coordinators_come_and_go(mesh: LocalMesh, record: str) -> None:
    await publish(mesh, PIPELINE)
    async with (
        asyncio.timeout(150),
        AsyncExitStack() as first,
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        one = await first.enter_async_context(mesh.coordinator())
        handles = await submit(client, 20, record, 0.3)
        async with AsyncExitStack() as second:
            two = await second.enter_async_context(mesh.coordinator())
            await shared_by(mesh, one, two)
            handles += await submit(client, 20, record, 0.3)
            async with mesh.coordinator() as three:
                await shared_by(mesh, one, two, three)
                handles += await submit(client, 20, record, 0.3)
                await first.aclose()
                await shared_by(mesh, two, three)
                handles += await submit(client, 20, record, 0.3)
                await second.aclose()
                await shared_by(mesh, three)
                ended = await results(handles, timeout_s=90)
                for end in ended:
                    assert (end.status, end.error) == ("success", None)
                    assert len((await verify(mesh, end, "pipeline")).drivers) == 1


async def test_a_killed_coordinators_runs_go_on_with_the_others(
    mesh: LocalMesh, record: str
) -> None:
    await publish(mesh, PIPELINE)
    async with (
        asyncio.timeout(120),
        mesh.coordinator() as one,
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        victim = mesh.spawn("coordinator", "tests.integration.impatient_coordinator")
        async with View(mesh.etcd, keys.partitions(), lambda _, value: value.decode()) as view:
            await view.wait_for(
                lambda items: len(items) == PARTITIONS and len(set(items.values())) == 2,
                timeout_s=60,
            )
        handles = await submit(client, 40, record, 0.5)
        await asyncio.sleep(0.5)
        victim.kill()
        await shared_by(mesh, one)
        ended = await results(handles, timeout_s=90)
        drivers = Counter()
        for end in ended:
            assert (end.status, end.error) == ("success", None)
            drivers.update((await verify(mesh, end, "pipeline")).drivers)
        assert len(drivers) == 2, drivers


async def test_children_find_a_place_when_parents_hold_all(gate: Gate) -> None:
    """Parents and children are with different coordinators, each with one place."""
    gate.open("deepest")
    async with (
        asyncio.timeout(120),
        local_mesh(LANGMESH_MAX_RUNS="1") as mesh,
    ):
        await publish(mesh, "tests.graphs.nested:nested")
        async with (
            mesh.coordinator() as one,
            mesh.coordinator() as two,
            mesh.agents("nested", "descend", max_in_flight=1),
            MeshGraph("nested", bus=mesh.bus) as graph,
        ):
            await shared_by(mesh, one, two)
            runs = [graph.ainvoke({"depth": 3, "levels": 0}) for _ in range(10)]
            assert [found["levels"] for found in await asyncio.gather(*runs)] == [4] * 10


async def test_an_interrupt_is_answered_by_the_next_owner(mesh: LocalMesh) -> None:
    await publish(mesh, "tests.graphs.durable:gated")
    nodes = gated().nodes.keys() - {"__start__"}
    async with (
        asyncio.timeout(90),
        AsyncExitStack() as first,
        mesh.agents("gated", *nodes),
        mesh.client("gated") as client,
    ):
        one = await first.enter_async_context(mesh.coordinator())
        asked = [
            await client.submit({"trail": []}, thread_id=f"t{n}", stream_mode=[]) for n in range(8)
        ]
        for handle in asked:
            assert isinstance(await handle.result(), RunInterrupted)
        async with mesh.coordinator() as two:
            await shared_by(mesh, one, two)
            await first.aclose()
            answers = [
                await client.submit(
                    None, thread_id=f"t{n}", command={"resume": True}, stream_mode=[]
                )
                for n in range(8)
            ]
            for end in await results(answers, timeout_s=60):
                assert end.status == "success"
