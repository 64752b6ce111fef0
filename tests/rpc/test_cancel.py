"""run.cancel in every state of a run, and what a stop of the coordinator is not."""

from __future__ import annotations

import asyncio
from typing import Any

from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted, RunStarted, TaskEnded, TaskStarted
from langmesh.wire.streams import SUBMIT
from tests.graphs.gates import Gate
from tests.integration.kit import publish, tapping
from tests.rpc.kit import APPROVAL, GATES, Asker, history, serving


async def submissions(mesh: LocalMesh) -> int:
    """How many submissions nobody has acknowledged."""
    return int((await mesh.bus.api(f"STREAM.INFO.{SUBMIT.name}"))["state"]["messages"])


async def start(ask: Asker, graph: str, **fields: Any) -> dict[str, Any]:
    return await ask("run.start", graph=graph, **{"input": {"n": 1}, "thread_id": "t1", **fields})


async def test_a_running_run(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    async with serving(mesh, GATES), tapping(mesh, "mesh.v1.control.>") as control:
        started = await start(ask, "gated_loop")
        await gate.reached("t1")
        waiting = asyncio.create_task(ask("run.wait", run_id=started["run_id"]))
        cancelled = await ask("run.cancel", run_id=started["run_id"])
        assert cancelled["status"] == "cancelled"
        assert (await waiting)["status"] == "cancelled"
        assert await ask("run.get", run_id=started["run_id"]) == cancelled
        # The agent is told to stop, too.
        called_off = await control.wait_for(lambda _: True)
        assert called_off.subject == "mesh.v1.control.default.gated_loop.before"
        # The thread is free for its next run.
        gate.open("t1")
        after = await start(ask, "gated_loop")
        assert (await ask("run.wait", run_id=after["run_id"]))["status"] == "success"
        assert await submissions(mesh) == 0
    events = await history(mesh.bus, "gated_loop", started)
    assert [type(event) for event in events[1:]] == [RunStarted, TaskStarted, TaskEnded, RunEnded]
    assert events[-2].status == "cancelled"


async def test_a_queued_run_never_starts(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    async with serving(mesh, GATES):
        runs = [await start(ask, "gated_loop") for _ in range(3)]
        await gate.reached("t1")
        cancelled = await ask("run.cancel", run_id=runs[1]["run_id"])
        assert cancelled["status"] == "cancelled"
        # Nothing but that run is touched.
        views = [await ask("run.get", run_id=run["run_id"]) for run in runs]
        assert [view["status"] for view in views] == ["running", "cancelled", "queued"]
        # The first is in its thread's log.
        assert await submissions(mesh) == 1
        gate.open("t1")
        ended = [await ask("run.wait", run_id=run["run_id"]) for run in runs]
        assert [view["status"] for view in ended] == ["success", "cancelled", "success"]
    assert len(await history(mesh.bus, "gated_loop", runs[1])) == 2
    for run in runs:
        await history(mesh.bus, "gated_loop", run)


async def test_a_run_that_was_just_accepted(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    async with serving(mesh, GATES):
        for i in range(20):
            started = await start(ask, "gated_loop", thread_id=f"t{i}")
            cancelled = await ask("run.cancel", run_id=started["run_id"])
            assert cancelled["status"] == "cancelled"
            await history(mesh.bus, "gated_loop", started)
        assert await submissions(mesh) == 0


async def test_an_interrupted_run(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, APPROVAL):
        started = await start(ask, "approval")
        await ask("run.wait", run_id=started["run_id"])
        cancelled = await ask("run.cancel", run_id=started["run_id"])
        assert cancelled["status"] == "cancelled"
        code = await ask.code("run.resume", graph="approval", thread_id="t1", resume="yes")
        assert code == "unknown_thread"
    events = await history(mesh.bus, "approval", started)
    assert [type(event) for event in events[-2:]] == [RunInterrupted, RunEnded]


async def test_an_interrupted_run_whose_coordinator_is_gone(mesh: LocalMesh, ask: Asker) -> None:
    topology = await publish(mesh, APPROVAL)
    async with mesh.agents("approval", *topology.nodes):
        async with mesh.coordinator():
            started = await start(ask, "approval")
            await ask("run.wait", run_id=started["run_id"])
        async with mesh.coordinator():
            both = [ask("run.cancel", run_id=started["run_id"]) for _ in range(2)]
            assert [view["status"] for view in await asyncio.gather(*both)] == ["cancelled"] * 2
    await history(mesh.bus, "approval", started)


async def test_a_run_that_is_answered_at_the_same_time(mesh: LocalMesh, ask: Asker) -> None:
    """Clients see the question before its run has let go of the thread."""
    async with serving(mesh, APPROVAL), tapping(mesh, "mesh.v1.event.>") as events:
        for i in range(20):
            place = {"graph": "approval", "thread_id": f"t{i}"}
            started = await ask("run.start", **place, input={"n": 1})
            await events.wait_for(lambda m: b'"run.interrupted.v1"' in m.data, count=i + 1)
            answered, cancelled = await asyncio.gather(
                ask("run.resume", **place, resume="yes"),
                ask("run.cancel", run_id=started["run_id"]),
            )
            assert cancelled["status"] in ("cancelled", "success")
            told = await history(mesh.bus, "approval", started)
            assert told[-1].status == cancelled["status"]
            if "run_id" in answered:
                await ask("run.wait", run_id=answered["run_id"])
        assert await submissions(mesh) == 0


async def test_a_run_that_is_over_keeps_its_end(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, "tests.graphs.shapes:loop"):
        started = await start(ask, "loop")
        ended = await ask("run.wait", run_id=started["run_id"])
        for _ in range(2):
            assert await ask("run.cancel", run_id=started["run_id"]) == ended
    await history(mesh.bus, "loop", started)


async def test_many_cancel_at_once_and_as_runs_end(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, "tests.graphs.shapes:chain"):
        started = [await start(ask, "chain", thread_id=f"t{i % 10}") for i in range(60)]

        async def cancel(i: int) -> set[str]:
            await asyncio.sleep(i * 0.001)
            both = [ask("run.cancel", run_id=started[i]["run_id"]) for _ in range(3)]
            return {view["status"] for view in await asyncio.gather(*both)}

        ends = await asyncio.gather(*(cancel(i) for i in range(60)))
        # Whoever asks hears the same.
        assert all(len(statuses) == 1 for statuses in ends)
        assert set().union(*ends) <= {"cancelled", "success"}
        assert await submissions(mesh) == 0
    for run in started:
        await history(mesh.bus, "chain", run)


async def test_a_run_that_waits_for_its_agent(mesh: LocalMesh, ask: Asker) -> None:
    await publish(mesh, "tests.graphs.shapes:loop")
    async with mesh.coordinator(), tapping(mesh, "mesh.v1.exec.>") as tasks:
        started = await start(ask, "loop")
        await tasks.wait_for(lambda _: True)
        assert (await ask("run.cancel", run_id=started["run_id"]))["status"] == "cancelled"
    await history(mesh.bus, "loop", started)


async def test_a_run_between_two_coordinators(
    mesh: LocalMesh, ask: Asker, gate: Gate, monkeypatch
) -> None:
    """The first is gone and the broker has not handed the submission over again."""
    monkeypatch.setattr("langmesh.bus.pull.Delivery.release", lambda *_: None)
    topology = await publish(mesh, GATES)
    async with mesh.agents("gated_loop", *topology.nodes):
        async with mesh.coordinator():
            started = await start(ask, "gated_loop")
            await gate.reached("t1")
        async with mesh.coordinator():
            assert (await ask("run.get", run_id=started["run_id"]))["status"] == "running"
            waiting = asyncio.create_task(ask("run.wait", run_id=started["run_id"]))
            cancelled = await ask("run.cancel", run_id=started["run_id"])
            assert cancelled["status"] == "cancelled"
            assert (await waiting)["status"] == "cancelled"
    await history(mesh.bus, "gated_loop", started)


async def test_a_stop_of_the_coordinator_ends_no_run(
    mesh: LocalMesh, ask: Asker, gate: Gate
) -> None:
    topology = await publish(mesh, GATES)
    async with mesh.agents("gated_loop", *topology.nodes):
        async with mesh.coordinator():
            runs = [
                await start(ask, "gated_loop", thread_id=thread)
                for thread in ("t1", "t1", "t2", "t3")
            ]
            await asyncio.gather(*(gate.reached(thread) for thread in ("t1", "t2", "t3")))
            assert (await ask("run.cancel", run_id=runs[3]["run_id"]))["status"] == "cancelled"
        assert await submissions(mesh) == 1  # what is driven is in its thread's log
        for thread in ("t1", "t2"):
            gate.open(thread)
        async with mesh.coordinator():
            ended = [await _wait_known(ask, run["run_id"]) for run in runs]
            assert [view["status"] for view in ended] == ["success"] * 3 + ["cancelled"]
            assert await submissions(mesh) == 0
    for run in runs:
        await history(mesh.bus, "gated_loop", run)


async def _wait_known(ask: Asker, run_id: str) -> dict[str, Any]:
    return await ask("run.wait", run_id=run_id, timeout_s=30)
