"""A coordinator dies while a retry waits: no attempt is skipped, none is made twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from langmesh.coordinator import backoff
from langmesh.registry import keys
from langmesh.testing import LocalMesh
from langmesh.wire.messages import Header, OutcomePayload, RunEnded, TaskOutcome, TaskRestarted
from tests.durability.history import verify
from tests.graphs.stubborn import ATTEMPTS
from tests.integration.kit import publish, until


@pytest.mark.parametrize("killed_before", range(2, ATTEMPTS + 1))
async def test_a_kill_during_the_backoff(
    mesh: LocalMesh, tmp_path: Path, killed_before: int, trial: int
) -> None:
    record = tmp_path / "attempts"
    await publish(mesh, "tests.graphs.stubborn:graph")
    async with (
        asyncio.timeout(90),
        mesh.agents("graph", "stubborn"),
        mesh.client("graph") as client,
    ):
        victim = mesh.spawn("coordinator", "tests.integration.impatient_coordinator")
        handle = await client.submit({"record": str(record)}, stream_mode=[])
        await until(handle, TaskRestarted, attempt=killed_before)
        victim.kill()
        await victim.wait()
        await mesh.etcd.delete_prefix(keys.coordinators())
        await mesh.etcd.delete_prefix(keys.partitions())
        async with mesh.coordinator():
            end = await handle.result()
    assert isinstance(end, RunEnded)
    assert (end.status, end.output["done"]) == ("success", [ATTEMPTS])
    assert [int(line) for line in record.read_text().splitlines()] == [*range(1, ATTEMPTS + 1)]
    history = await verify(mesh, end, "graph")
    restarted = [event.attempt for event in history.events if isinstance(event, TaskRestarted)]
    assert restarted == [*range(2, ATTEMPTS + 1)]


def outcome(*, sent_at_ms: int, delay_ms: int = 1000) -> TaskOutcome:
    return TaskOutcome(
        header=Header(
            id="i", type=TaskOutcome.TYPE, sender="a", receiver="c", sent_at_ms=sent_at_ms
        ),
        payload=OutcomePayload(
            kind="retry",
            task_id="t",
            attempt=1,
            delay_ms=delay_ms,
            queue_us=20_000,
            execute_us=300_000,
        ),
        context=None,
    )


@pytest.mark.parametrize(
    ("now_ms", "left_ms"),
    [(5_000, 1_000), (5_400, 600), (6_000, 0), (60_000, 0), (4_000, 1_000)],
)
def test_what_is_left_of_a_delay(now_ms: int, left_ms: int) -> None:
    assert backoff.left_ms(outcome(sent_at_ms=5_000), now_ms) == left_ms


def test_when_an_attempt_was_sent() -> None:
    assert backoff.begun_at_ms(outcome(sent_at_ms=5_000)) == 4_680
