"""nats-server is killed again and again under load: every run ends as LangGraph's own, once."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langmesh.client import Client, RunHandle
from langmesh.errors import MeshError
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted, TaskEnded
from tests.durability.history import verify
from tests.durability.work import assert_as_alone
from tests.integration.kit import assert_contiguous, publish, results, stored_events

FAULT_S = float(os.environ.get("FAULT_S", "12"))
"""How long the broker is killed under load; the figures in docs/reliability.md are of 180."""
SOURCE = "tests.graphs.durable:gated"
NODES = ("count", "left", "right", "merge", "sign")
THREADS = [f"t{number}" for number in range(40)]
TRAIL = ["count", "left", "right", "merge"] * 2 + ["sign"]


async def stops(
    mesh: LocalMesh, client: Client, submissions: Sequence[dict[str, Any]], *, kill_after: set[int]
) -> list[RunEnded | RunInterrupted]:
    """Submit all, kill the broker when so many runs have stopped, and see all of them stop."""
    nats = mesh.servers.nats
    assert nats is not None
    handles = [await client.submit(**fields) for fields in submissions]
    waiting = [asyncio.create_task(handle.result()) for handle in handles]
    for number, stopped in enumerate(asyncio.as_completed(waiting), 1):
        await stopped
        if number in kill_after:
            await nats.kill()
            await nats.start()
    return [task.result() for task in waiting]


async def test_runs_survive_a_broker_that_dies(mesh: LocalMesh) -> None:
    await publish(mesh, SOURCE)
    begin = [{"input": {"trail": []}, "thread_id": thread} for thread in THREADS]
    answer = [
        {"input": None, "thread_id": thread, "command": {"resume": True}} for thread in THREADS
    ]
    async with (
        asyncio.timeout(150),
        mesh.coordinator(),
        mesh.agents("gated", *NODES),
        mesh.client("gated") as client,
    ):
        asked = await stops(mesh, client, begin, kill_after={1, 8, 20})
        assert {type(event) for event in asked} == {RunInterrupted}
        ends = await stops(mesh, client, answer, kill_after={1, 15})
    assert Counter(end.status for end in ends if isinstance(end, RunEnded)) == {
        "success": len(THREADS)
    }
    for end in ends:
        assert isinstance(end, RunEnded)
        assert end.output["trail"] == TRAIL
        events = await stored_events(mesh.bus, end, "gated")
        assert_contiguous(events)
        ended = Counter(event.task_id for event in events if isinstance(event, TaskEnded))
        assert set(ended.values()) == {1}


async def test_a_broker_that_dies_all_the_time_loses_nothing(
    mesh: LocalMesh, chance: random.Random, tmp_path: Path
) -> None:
    """Killed every 5 to 15 seconds while runs come; services and clients recover alone."""
    await publish(mesh, "tests.graphs.work:pipeline")
    nats = mesh.servers.nats
    assert nats is not None
    given = {"record": str(tmp_path / "executions"), "seconds": 0.2}
    acknowledged: list[RunHandle] = []
    refused = kills = 0

    async def kill() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(chance.uniform(5, min(15, FAULT_S * 0.6)))
            await nats.kill()
            await nats.start()
            kills += 1

    async with (
        mesh.coordinator(),
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        killer = asyncio.create_task(kill())
        try:
            async with asyncio.timeout(FAULT_S):
                while True:
                    try:
                        acknowledged.append(await client.submit(given, stream_mode=[]))
                    except MeshError:
                        # Not acknowledged, so that nobody may count on it.
                        refused += 1
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
        if not nats.running:
            await nats.start()
        ended = await results(acknowledged, timeout_s=90)
        for end in ended:
            assert_as_alone(end)
            assert len((await verify(mesh, end, "pipeline")).applied) == 3
    print(f"{kills} kills, {len(ended)} acknowledged runs ended, {refused} not acknowledged")
    assert kills
