"""Coordinators that are mistaken about what they own: stopped for long, or never asked."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from langmesh.embedded.process import Child
from langmesh.registry import keys
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from langmesh.wire.messages import TaskStarted
from tests.durability.history import verify
from tests.durability.work import assert_as_alone
from tests.integration.kit import publish, results, until

PIPELINE = "tests.graphs.work:pipeline"


@pytest.fixture
def record(tmp_path: Path) -> str:
    return str(tmp_path / "executions")


async def owned_by(mesh: LocalMesh, *, others_than: str = "", count: int) -> str:
    """Wait until all partitions have so many owners, none of them a certain one; returns one."""
    async with View(mesh.etcd, keys.partitions(), lambda _, value: value.decode()) as view:

        def settled(items) -> bool:
            owners = set(items.values())
            return len(items) == 256 and len(owners) == count and others_than not in owners

        await view.wait_for(settled, timeout_s=60)
        return next(iter(view.items.values()))


async def test_a_coordinator_stopped_past_its_lease_writes_nothing_more(
    mesh: LocalMesh, record: str, trial: int
) -> None:
    await publish(mesh, PIPELINE)
    async with (
        asyncio.timeout(120),
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        sleeper = mesh.spawn("coordinator", "tests.integration.impatient_coordinator")
        asleep = await owned_by(mesh, count=1)
        handles = [
            await client.submit({"record": record, "seconds": 1.0}, stream_mode=[])
            for _ in range(10)
        ]
        await until(handles[-1], TaskStarted, node="worker")
        os.kill(sleeper.pid, signal.SIGSTOP)
        async with mesh.coordinator():
            await owned_by(mesh, others_than=asleep, count=1)
            # It wakes in the middle of what the other one does.
            os.kill(sleeper.pid, signal.SIGCONT)
            ended = await results(handles, timeout_s=60)
            await owned_by(mesh, count=2)
            assert sleeper.returncode is None, sleeper.output()
            later = [
                await client.submit({"record": record, "seconds": 0.0}, stream_mode=[])
                for _ in range(10)
            ]
            ended += await results(later, timeout_s=60)
            drivers: Counter[str] = Counter()
            for end in ended:
                assert_as_alone(end)
                history = await verify(mesh, end, "pipeline")
                assert len(history.applied) == 3
                drivers.update(history.drivers)
            assert len(drivers) == 2, drivers


async def test_two_coordinators_that_both_believe_to_own_everything(
    mesh: LocalMesh, record: str, trial: int
) -> None:
    await publish(mesh, PIPELINE)

    def greedy() -> Child:
        return mesh.spawn("greedy", "tests.durability.greedy_coordinator")

    async with (
        asyncio.timeout(120),
        mesh.agents("pipeline"),
        mesh.client("pipeline") as client,
    ):
        owners = [greedy()]
        handles = [
            await client.submit({"record": record, "seconds": 1.5}, stream_mode=[])
            for _ in range(20)
        ]
        await until(handles[-1], TaskStarted, node="worker")
        # It finds the runs of the first one marked, and drives them as well.
        owners.append(greedy())
        handles += [
            await client.submit({"record": record, "seconds": 0.5}, stream_mode=[])
            for _ in range(20)
        ]
        writers: set[str] = set()
        for end in await results(handles, timeout_s=90):
            assert_as_alone(end)
            history = await verify(mesh, end, "pipeline")
            assert len(history.applied) == 3
            writers.update(history.writers)
        assert len(writers) == 2, writers
        for owner in owners:
            assert owner.returncode is None, owner.output()
