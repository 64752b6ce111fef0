"""Whatever is killed, every run ends, once, and no result counts twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from langmesh.client import Client, RunHandle
from langmesh.embedded.process import Child
from langmesh.registry import keys
from langmesh.registry.records import decode_service
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunAccepted, RunEnded, RunStarted, TaskEnded, TaskStarted
from langmesh.wire.streams import EXEC_ACK_WAIT_S
from tests.graphs.gates import Gate
from tests.graphs.work import noted
from tests.integration.kit import (
    assert_contiguous,
    events_of,
    publish,
    results,
    serving,
    stock_client,
    stored_events,
    tapping,
    until,
)

PIPELINE = "tests.graphs.work:pipeline"


@pytest.fixture
def record(tmp_path: Path) -> str:
    return str(tmp_path / "executions")


@asynccontextmanager
async def registered(mesh: LocalMesh, graph: str, *, count: int) -> AsyncIterator[list[str]]:
    """Entered once so many agents of a graph are there; yields the keys of those that went."""
    gone: list[str] = []
    seen: set[str] = set()
    prefix = keys.agents("default", graph)
    async with View(mesh.etcd, prefix, lambda _, value: decode_service(value)) as view:

        def compare() -> None:
            gone.extend(seen - view.items.keys())
            seen.clear()
            seen.update(view.items)

        view.subscribe(compare)
        await view.wait_for(lambda items: len(items) == count, timeout_s=90)
        yield gone


async def submit_many(client: Client, count: int, record: str, seconds: float) -> list[RunHandle]:
    return [
        await client.submit({"record": record, "seconds": seconds}, stream_mode=[])
        for _ in range(count)
    ]


async def kill_at_work(agent: Child, record: str, node: str) -> None:
    """Kill an agent between the beginning and the end of a task."""

    def has_task() -> bool:
        begun, over = noted(record, "begin", node), noted(record, "end", node)
        return any(pid == agent.pid and (pid, run) not in over for pid, run in begun)

    async with asyncio.timeout(60):
        while True:
            # One that is stopped cannot end its task between the look and the kill.
            agent.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, agent.pid, os.WSTOPPED)
            if has_task():
                agent.kill()
                return
            agent.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_two_hundred_runs_survive_the_death_of_an_agent(mesh: LocalMesh, record: str) -> None:
    await publish(mesh, PIPELINE)
    async with (
        mesh.coordinator(),
        mesh.agents("pipeline", "plan", "sum_up"),
        mesh.client("pipeline") as client,
        tapping(mesh, "mesh.v1.event.default.pipeline.*.*") as tap,
        tapping(mesh, "mesh.v1.slot.>") as slots,
    ):
        victim, survivor = (
            mesh.spawn("worker", "langmesh.agent", "pipeline", "worker") for _ in range(2)
        )
        # Either alone would soon have done everything.
        async with registered(mesh, "pipeline", count=4):
            pass
        handles = await submit_many(client, 200, record, 0.2)
        await tap.wait_for(lambda m: b'"run.ended.v1"' in m.data, count=60, timeout_s=90)
        await kill_at_work(victim, record, "worker")
        ends = await results(handles, timeout_s=90)
    assert Counter(end.status for end in ends) == {"success": 200}
    # A node's result is in the state once, whoever else has worked on it.
    workers = Counter(tuple(end.output["done"]) for end in ends)
    assert {names[::2] for names in workers} == {("plan", "sum_up")}
    pids = {f"worker {child.pid}" for child in (victim, survivor)}
    assert {names[1] for names in workers} == pids
    filled = Counter(message.subject for message in slots.messages)
    assert len([subject for subject in filled if ".worker." in subject]) == 200

    begun, over = noted(record, "begin", "worker"), noted(record, "end", "worker")
    assert {run for _, run in over} == {handle.run_id for handle in handles}
    assert {pid for pid, _ in begun} == {victim.pid, survivor.pid}
    # Only what the dead agent had in hand may have been executed again.
    again = {run for run, times in Counter(run for _, run in begun).items() if times > 1}
    assert again == {run for run in again if (victim.pid, run) in begun}
    assert 1 <= len(again) <= mesh.settings.max_in_flight
    assert all(
        times == 1 for times in Counter(run for p, run in over if p == survivor.pid).values()
    )


@pytest.mark.slow
async def test_long_nodes_run_once(mesh: LocalMesh, record: str) -> None:
    await publish(mesh, "tests.graphs.work:long")
    for node in ("sleeper", "blocker"):
        # Two of each: a second one would take what the broker takes for abandoned.
        for _ in range(2):
            mesh.spawn(node, "langmesh.agent", "long", node)
    async with (
        mesh.coordinator(),
        mesh.client("long") as client,
        registered(mesh, "long", count=4) as gone,
    ):
        handles = await submit_many(client, 1, record, 3 * EXEC_ACK_WAIT_S + 1)
        [end] = await results(handles, timeout_s=90)
        assert gone == []
    assert end.status == "success"
    for node in ("sleeper", "blocker"):
        assert [run for _, run in noted(record, "begin", node)] == [handles[0].run_id]
        assert [run for _, run in noted(record, "end", node)] == [handles[0].run_id]


@pytest.mark.slow
async def test_what_waits_behind_a_blocking_node_runs_once(mesh: LocalMesh, record: str) -> None:
    """Tasks that the broker handed over and the blocked agent could not look at yet."""
    await publish(mesh, "tests.graphs.work:blocking")
    mesh.spawn("blocker", "langmesh.agent", "blocking", "blocker")
    async with (
        mesh.coordinator(),
        mesh.client("blocking") as client,
        registered(mesh, "blocking", count=1) as gone,
    ):
        handles = await submit_many(client, 3, record, EXEC_ACK_WAIT_S + 1)
        ends = await results(handles, timeout_s=90)
        assert gone == []
    assert [end.status for end in ends] == ["success"] * 3
    times = Counter(run for _, run in noted(record, "begin", "blocker"))
    assert times == {handle.run_id: 1 for handle in handles}


@pytest.mark.slow
async def test_a_task_that_kills_its_agents_ends_its_run(mesh: LocalMesh, record: str) -> None:
    await publish(mesh, "tests.graphs.work:poison")
    born: list[Child] = []

    async def keep_alive() -> None:
        while True:
            env = {"LANGMESH_DELIVERIES_MAX": "2"}
            born.append(mesh.spawn("killer", "langmesh.agent", "poison", "killer", env=env))
            await born[-1].wait()

    async with (
        mesh.coordinator(),
        mesh.client("poison") as client,
        tapping(mesh, "mesh.v1.dead.>") as dead,
    ):
        supervisor = asyncio.create_task(keep_alive())
        [handle] = await submit_many(client, 1, record, 0)
        events = await events_of(handle)
        letter = await dead.wait_for(lambda _: True)
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
        async with stock_client(mesh) as client_of_stock:
            kept = await client_of_stock.jetstream().get_last_msg("DEAD", "mesh.v1.dead.*.*.*")
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.output) == ("error", None)
    assert ended.error is not None
    assert (ended.error.code, ended.error.node) == ("node_poisoned", "killer")
    assert [e.status for e in events if isinstance(e, TaskEnded)] == ["poison"]
    assert [run for _, run in noted(record, "begin", "killer")] == [handle.run_id] * 2
    assert [child.returncode for child in born[:2]] == [9, 9]
    assert kept.data == letter.data
    assert letter.subject == "mesh.v1.dead.default.poison.killer"
    told = json.loads(letter.data)
    assert (told["type"], told["reason"]) == ("dead.v1", "node_poisoned")


@pytest.mark.slow
async def test_runs_go_on_when_the_broker_comes_back(mesh: LocalMesh, record: str) -> None:
    assert mesh.servers.nats is not None
    async with serving(mesh, PIPELINE) as client:
        watched = await submit_many(client, 50, record, 0.3)
        # The first 16 are at work, and the others wait in EXEC.
        await until(watched[0], TaskStarted, node="sum_up")
        await mesh.servers.nats.kill()
        await mesh.servers.nats.start()
        ends = await results(watched, timeout_s=90)
        for end in ends:
            assert_contiguous(await stored_events(mesh.bus, end, "pipeline"))
    assert Counter(end.status for end in ends) == {"success": 50}
    assert {len(end.output["done"]) for end in ends} == {3}


async def test_runs_do_not_need_etcd(mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    assert mesh.servers.etcd is not None
    async with serving(mesh, "tests.graphs.gates:gated_loop") as client:
        begun = [await client.submit({"n": 2}, thread_id=f"begun-{i}") for i in range(20)]
        await asyncio.gather(*(gate.reached(f"begun-{i}") for i in range(16)))
        await mesh.servers.etcd.stop()
        for i in range(20):
            gate.open(f"begun-{i}")
            gate.open(f"during-{i}")
        during = [await client.submit({"n": 2}, thread_id=f"during-{i}") for i in range(20)]
        ends = await results([*begun, *during], timeout_s=90)
        await mesh.servers.etcd.start()
        gate.open("after")
        after = await results([await client.submit({"n": 2}, thread_id="after")], timeout_s=90)
    assert Counter(end.status for end in [*ends, *after]) == {"success": 41}


@pytest.mark.slow
async def test_a_coordinator_takes_over_from_a_killed_one(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    module = "tests.integration.impatient_coordinator"
    first = mesh.spawn("coordinator", module, "tests.graphs.gates:gated_loop")
    threads = [f"t{i}" for i in range(10)]
    async with (
        mesh.client("gates") as client,
        mesh.agents("gates", "before", "after"),
        tapping(mesh, "mesh.v1.event.>", "mesh.v1.exec.>") as tap,
    ):
        handles = [await client.submit({"n": 2}, thread_id=thread) for thread in threads]
        await asyncio.gather(*(gate.reached(thread) for thread in threads))
        # Events follow their run at a small distance; these two lives shall both be seen.
        await asyncio.gather(*(until(handle, TaskStarted) for handle in handles))
        first.kill()
        await first.wait()
        second = mesh.spawn("coordinator", module)
        for thread in threads:
            gate.open(thread)
        ends = await results(handles, timeout_s=90)
        assert Counter(end.status for end in ends) == {"success": 10}
        second.send_signal(15)
        assert await second.wait() == 0
        for handle, end in zip(handles, ends, strict=True):
            events = await stored_events(mesh.bus, end, "gates")
            assert_contiguous(events)
            assert [type(event) for event in events[:2]] == [RunAccepted, RunStarted]
            starts = [event for event in events if isinstance(event, RunStarted)]
            # The second goes on where the first has stopped.
            assert [event.restarted for event in starts] == [False]
            assert {event.run_id for event in events} == {handle.run_id}
            assert end.output["trail"] == ["before", "after v1"] * 2
    told = [m for m in tap.messages if b'"run.ended.v1"' in m.data]
    assert len(told) == 10
