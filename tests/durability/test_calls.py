"""Agents and coordinators die around calls of ``@task`` functions: each result counts once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from langmesh.registry import keys
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted
from tests.durability.history import verify
from tests.integration.kit import publish

GRAPH = "calls_between"
ANSWER = {"thread_id": "t", "command": {"resume": "yes"}, "stream_mode": []}


def executions(record: Path) -> Counter[str]:
    return Counter(record.read_text().splitlines())


async def _ends(mesh: LocalMesh, end: object) -> None:
    assert isinstance(end, RunEnded)
    assert (end.error, end.output["found"]) == (None, [60, "yes", 62])
    assert len((await verify(mesh, end, GRAPH, interrupts=1)).applied) == 1


@pytest.mark.parametrize(
    ("point", "first"), [("slot:1:before", 2), ("slot:1:after", 1), ("slot:2:before", 1)]
)
async def test_an_agent_dies(
    mesh: LocalMesh, tmp_path: Path, point: str, first: int, trial: int
) -> None:
    """The first outcome is the function's, the second one its caller's."""
    record = tmp_path / "record"
    await publish(mesh, f"tests.graphs.calling:{GRAPH}")
    async with asyncio.timeout(90), mesh.coordinator(), mesh.client(GRAPH) as client:
        module = "tests.durability.crashing_agent"
        victim = mesh.spawn("victim", module, GRAPH, "between", env={"CRASH": point})
        given = {"record": str(record), "found": []}
        handle = await client.submit(given, thread_id="t", stream_mode=[])
        assert await victim.wait() == 9, victim.output()
        async with mesh.agents(GRAPH):
            assert isinstance(await handle.result(), RunInterrupted)
            await _ends(mesh, await (await client.submit(None, **ANSWER)).result())
    assert executions(record) == {"double 30": first, "double 31": 1}


@pytest.mark.parametrize(
    "point", ["exec:1:after", "exec:2:before", "exec:2:after", "log:2:before", "log:4:before"]
)
async def test_a_coordinator_dies(mesh: LocalMesh, tmp_path: Path, point: str, trial: int) -> None:
    record = tmp_path / "record"
    await publish(mesh, f"tests.graphs.calling:{GRAPH}")
    async with asyncio.timeout(90), mesh.agents(GRAPH), mesh.client(GRAPH) as client:
        module = "tests.durability.crashing_coordinator"
        victim = mesh.spawn("coordinator", module, env={"CRASH": point})
        given = {"record": str(record), "found": []}
        handle = await client.submit(given, thread_id="t", stream_mode=[])
        assert await victim.wait() == 9, victim.output()
        await mesh.etcd.delete_prefix(keys.coordinators())
        await mesh.etcd.delete_prefix(keys.partitions())
        async with mesh.coordinator():
            assert isinstance(await handle.result(), RunInterrupted)
            await _ends(mesh, await (await client.submit(None, **ANSWER)).result())
    assert executions(record) == {"double 30": 1, "double 31": 1}
