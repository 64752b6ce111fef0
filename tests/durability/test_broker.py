"""nats-server is killed again and again under load: every run ends as LangGraph's own, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langmesh.client import Client
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted, TaskEnded
from tests.integration.kit import assert_contiguous, publish, stored_events

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
