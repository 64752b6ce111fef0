"""A coordinator dies at each step of a run; the next one goes on: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langmesh.client import Client
from langmesh.registry import keys
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted, StreamPart
from langmesh.wire.streams import SUBMIT_CONSUMER
from tests.durability.history import verify
from tests.graphs.durable import checked, gated
from tests.integration.kit import publish

GRAPHS = {"gated": gated, "checked": checked}
MODES = ["values", "updates", "tasks", "checkpoints"]
BEFORE_THE_GATE = [
    *("active:1:before", "active:1:after", "log:1:before", "log:1:after", "ack:1:before"),
    *("exec:1:before", "exec:1:after", "exec:3:before", "exec:3:after", "exec:8:after"),
    *("log:2:before", "log:3:before", "log:3:after", "log:7:before", "log:7:after"),
    # Between the last checkpoint and the word that the run waits: a gate must not be skipped.
    *("log:8:before", "log:8:after", "event:9:before", "event:9:after"),
]
BEHIND_A_NODE = [
    # The superstep that the gate follows, and the word that the run waits.
    *("log:8:before", "log:8:after", "log:9:before", "log:9:after", "event:12:after"),
]
BEHIND_THE_GATE = [
    *("log:1:before", "log:1:after", "ack:1:before", "exec:1:before", "exec:1:after"),
    *("log:2:before", "log:2:after", "log:3:before", "log:3:after", "event:3:after"),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker hand a dead coordinator's submissions over after two seconds."""
    impatient = dataclasses.replace(SUBMIT_CONSUMER, ack_wait_s=2.0)
    monkeypatch.setattr("langmesh.coordinator.service.SUBMIT_CONSUMER", impatient)


async def crash(mesh: LocalMesh, point: str) -> None:
    """Let a coordinator work until it dies at a point, and its lease end."""
    module = "tests.durability.crashing_coordinator"
    victim = mesh.spawn("coordinator", module, env={"CRASH": point})
    assert await victim.wait() == 9, victim.output()
    await mesh.etcd.delete_prefix(keys.coordinators())
    await mesh.etcd.delete_prefix(keys.partitions())


async def oracle(name: str) -> dict:
    """What LangGraph makes of it in one process."""
    graph = GRAPHS[name]()
    graph.checkpointer = InMemorySaver()
    config = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"trail": []}, config)
    return await graph.ainvoke(None, config)


async def hold_up(mesh: LocalMesh, end: RunEnded, name: str) -> None:
    """Hold the run against the invariants; clients saw every state once."""
    history = await verify(mesh, end, name, interrupts=1)
    values = [e.data for e in history.events if isinstance(e, StreamPart) and e.mode == "values"]
    # One for the input and one for each superstep; the answer shows the last one again.
    assert len(values) == 1 + len(history.applied) - 2 + 1


@pytest.mark.parametrize(
    ("name", "point"),
    [("gated", point) for point in BEFORE_THE_GATE]
    + [("checked", point) for point in BEHIND_A_NODE],
)
async def test_before_the_gate(mesh: LocalMesh, name: str, point: str, trial: int) -> None:
    async with asyncio.timeout(90), _serving(mesh, name) as client:
        handle = await client.submit({"trail": []}, thread_id="t", stream_mode=MODES)
        await crash(mesh, point)
        async with mesh.coordinator():
            last = await handle.result()
            assert isinstance(last, RunInterrupted)
            assert last.next == ["sign" if name == "gated" else "close"]
            answer = await client.submit(None, **ANSWER)
            await _ends(mesh, await answer.result(), name)


@pytest.mark.parametrize(
    ("name", "point"),
    [("gated", point) for point in BEHIND_THE_GATE]
    + [("checked", point) for point in ("log:1:before", "log:1:after", "log:2:before")],
)
async def test_behind_the_gate(mesh: LocalMesh, name: str, point: str, trial: int) -> None:
    async with asyncio.timeout(90), _serving(mesh, name) as client:
        async with mesh.coordinator():
            handle = await client.submit({"trail": []}, thread_id="t", stream_mode=MODES)
            assert isinstance(await handle.result(), RunInterrupted)
        answer = await client.submit(None, **ANSWER)
        await crash(mesh, point)
        async with mesh.coordinator():
            await _ends(mesh, await answer.result(), name)


ANSWER = {"thread_id": "t", "command": {"resume": True}, "stream_mode": MODES}


@asynccontextmanager
async def _serving(mesh: LocalMesh, name: str) -> AsyncIterator[Client]:
    topology = await publish(mesh, f"tests.graphs.durable:{name}")
    async with mesh.agents(name, *topology.nodes), mesh.client(name) as client:
        yield client


async def _ends(mesh: LocalMesh, end: RunEnded | RunInterrupted, name: str) -> None:
    assert isinstance(end, RunEnded)
    assert (end.status, end.error) == ("success", None)
    assert end.output == await oracle(name)
    await hold_up(mesh, end, name)
