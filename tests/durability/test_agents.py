"""An agent dies around the write of an outcome: it counts once, whoever executes the task again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded
from langmesh.wire.streams import SLOT
from tests.durability.history import verify
from tests.durability.work import assert_as_alone
from tests.graphs.work import noted
from tests.integration.kit import publish

NODES = ("plan", "worker", "sum_up")


@pytest.mark.parametrize(
    ("point", "executions"), [("slot:2:before", 2), ("slot:2:after", 1), ("ack:2:before", 1)]
)
async def test_an_agent_dies_at_the_write(
    mesh: LocalMesh, tmp_path: Path, point: str, executions: int, trial: int
) -> None:
    """The second task of the run is the worker's."""
    record = str(tmp_path / "executions")
    await publish(mesh, "tests.graphs.work:pipeline")
    async with (
        asyncio.timeout(90),
        mesh.coordinator(),
        mesh.client("pipeline") as client,
    ):
        module = "tests.durability.crashing_agent"
        victim = mesh.spawn("victim", module, "pipeline", *NODES, env={"CRASH": point})
        handle = await client.submit({"record": record, "seconds": 0.0}, stream_mode=[])
        assert await victim.wait() == 9, victim.output()
        async with mesh.agents("pipeline", *NODES):
            end = await handle.result()
            assert isinstance(end, RunEnded)
            assert_as_alone(end)
            history = await verify(mesh, end, "pipeline")
            assert len(history.slots) == len(history.applied) == 3
            assert len(noted(record, "begin", "worker")) == executions


async def test_a_full_slot_stream_loses_nothing(
    mesh: LocalMesh, tmp_path: Path, trial: int
) -> None:
    """Agents neither acknowledge nor give up, and write when there is room again (R4)."""
    record = str(tmp_path / "executions")
    await publish(mesh, "tests.graphs.work:pipeline")

    async def limit(messages: int) -> None:
        info = await mesh.bus.api(f"STREAM.INFO.{SLOT.name}")
        config = {**info["config"], "max_msgs": messages}
        answer = await mesh.bus.api(f"STREAM.UPDATE.{SLOT.name}", config)
        assert "error" not in answer, answer

    async with (
        asyncio.timeout(90),
        mesh.coordinator(),
        mesh.agents("pipeline", *NODES, max_in_flight=4),
        mesh.client("pipeline") as client,
    ):
        await limit(5)
        handles = [
            await client.submit({"record": record, "seconds": 0.0}, stream_mode=[])
            for _ in range(8)
        ]
        while len(noted(record, "end", "worker")) + 8 < 9:
            await asyncio.sleep(0.05)
        # Longer than the broker waits for a sign of life.
        await asyncio.sleep(6)
        info = await mesh.bus.api(f"STREAM.INFO.{SLOT.name}")
        assert info["state"]["messages"] == 5
        await limit(-1)
        for handle in handles:
            end = await handle.result()
            assert isinstance(end, RunEnded)
            assert_as_alone(end)
            history = await verify(mesh, end, "pipeline")
            assert len(history.applied) == 3
        executions = Counter(run for _, run in noted(record, "begin", "worker"))
        assert set(executions.values()) == {1}
