"""A coordinator forgets idle threads and finds them in their logs again; each is of one graph."""

from __future__ import annotations

import asyncio

import pytest

from langmesh.coordinator.threads import NotOwned, Threads
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire.log import RunStartedRecord
from langmesh.wire.messages import RunEnded
from tests.graphs.gates import Gate
from tests.integration.kit import publish


def begun(run: str) -> RunStartedRecord:
    return RunStartedRecord(
        run_id=run,
        seq=1,
        submit_epoch="e",
        submit_seq=1,
        submission=b"{}",
        stop=25,
        graph="g",
        revision="v",
    )


async def own(_partition: int) -> bool:
    return True


async def test_idle_threads_are_forgotten_and_found_again(mesh: LocalMesh) -> None:
    threads = Threads(mesh.bus, instance="c", epoch=lambda _: 1, confirm=own, idle_max=2)
    used = []
    async with threads.using("default", "kept") as kept:
        for number in range(5):
            async with threads.using("default", f"t{number}") as thread:
                await thread.append([begun(f"r{number}")])
                used.append(thread)
        assert threads.has(kept)
    assert [threads.has(each) for each in used] == [False] * 4 + [True]
    async with threads.using("default", "t0") as thread:
        last = (await thread.journal()).last
    assert last is not None
    assert (last.started.run_id, last.phase) == ("r0", "running")
    threads.close()


async def test_a_thread_keeps_its_state_when_it_was_forgotten() -> None:
    async with local_mesh(LANGMESH_THREADS_MAX="1") as mesh, asyncio.timeout(60):
        await publish(mesh, "tests.graphs.shapes:loop")
        async with mesh.coordinator(), mesh.agents("loop"):
            for _ in range(2):
                for thread in ("a", "b", "c"):
                    end = await mesh.run("loop", {"n": 3}, thread_id=thread)
                    assert isinstance(end, RunEnded)
        assert end.output["trail"] == ["count", "count"]


async def test_a_thread_is_of_one_graph(mesh: LocalMesh) -> None:
    for name in ("loop", "chain"):
        await publish(mesh, f"tests.graphs.shapes:{name}")
    async with mesh.coordinator(), mesh.agents("loop"), asyncio.timeout(60):
        await mesh.run("loop", {"n": 3}, thread_id="t")
        with pytest.raises(MeshError, match="thread of graph 'loop'") as refused:
            await mesh.run("chain", {"trail": []}, thread_id="t")
        assert refused.value.code is ErrorCode.INVALID_FIELD


async def test_what_was_begun_goes_on_before_what_comes(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission reaches the next owner before that has looked at the thread's mark."""
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    never = asyncio.Event()
    monkeypatch.setattr("langmesh.coordinator.recovery._marked", lambda _: never.wait())
    topology = await publish(mesh, "tests.graphs.gates:gated_loop")
    async with (
        asyncio.timeout(60),
        mesh.agents("gated_loop", *topology.nodes),
        mesh.client("gated_loop") as client,
    ):
        async with mesh.coordinator():
            begun = await client.submit({"n": 1}, thread_id="t")
            await gate.reached("t")
        queued = await client.submit({"n": 1}, thread_id="t")
        gate.open("t")
        async with mesh.coordinator():
            ends = [await handle.result() for handle in (begun, queued)]
    assert [end.output["trail"] for end in ends if isinstance(end, RunEnded)] == [
        ["before", "after v1"],
        ["before", "after v1"] * 2,
    ]


async def test_a_thread_that_a_later_owner_has_written_to_is_left_alone(mesh: LocalMesh) -> None:
    """Unless the registry says otherwise: its revisions may have begun again."""
    asked = []

    async def confirm(partition: int) -> bool:
        asked.append(partition)
        return len(asked) > 1

    later = Threads(mesh.bus, instance="later", epoch=lambda _: 7, confirm=own, idle_max=2)
    async with later.using("default", "t") as thread:
        await thread.append([begun("r")])
    threads = Threads(mesh.bus, instance="c", epoch=lambda _: 6, confirm=confirm, idle_max=2)
    with pytest.raises(NotOwned):
        async with threads.using("default", "t"):
            pass
    for _ in range(2):
        async with threads.using("default", "t") as thread:
            await thread.append([begun("r2")])
    assert asked == [thread.partition] * 2
    for each in (later, threads):
        each.close()
