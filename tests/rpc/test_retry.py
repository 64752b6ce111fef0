"""run.retry, and a submission without input: both go on where a run failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langmesh import MeshGraph
from langmesh.client.following import RunFailed
from langmesh.testing import LocalMesh
from tests.graphs.fragile import fragile
from tests.graphs.gates import Gate
from tests.integration.kit import publish
from tests.rpc.kit import APPROVAL, GATES, Asker, history, serving

FRAGILE = "tests.graphs.fragile:fragile"
NODES = ("first", "sound", "broken", "last")


class Files:
    """What the graph's nodes read and write."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "record"
        self.mended = folder / "mended"
        self.input = {"record": str(self.record), "mended": str(self.mended), "done": []}

    def mend(self) -> None:
        self.mended.touch()

    def executions(self) -> Counter[str]:
        return Counter(self.record.read_text().splitlines())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def failed(ask: Asker, files: Files, **fields: object) -> dict:
    run = await ask("run.start", graph="fragile", thread_id="t", input=files.input, **fields)
    assert (await ask("run.wait", run_id=run["run_id"]))["status"] == "error"
    return run


async def test_only_what_failed_is_executed_again(
    mesh: LocalMesh, ask: Asker, files: Files
) -> None:
    async with serving(mesh, FRAGILE):
        run = await failed(ask, files, config={"tags": ["kept"]})
        again = await ask("run.retry", run_id=run["run_id"])
        assert again["run_id"] != run["run_id"]
        assert (await ask("run.wait", run_id=again["run_id"]))["status"] == "error"
        files.mend()
        third = await ask("run.retry", run_id=again["run_id"])
        view = await ask("run.wait", run_id=third["run_id"])
        assert view["status"] == "success"
        assert view["thread_id"] == "t"
        assert sorted(view["output"]["done"]) == ["broken", "first", "last", "sound"]
        for each in (run, again, third):
            await history(mesh.bus, "fragile", each)
    assert files.executions() == {"first": 1, "sound": 1, "broken": 3, "last": 1}


async def test_a_run_without_input_does_the_same_as_in_one_process(
    mesh: LocalMesh, files: Files, tmp_path: Path
) -> None:
    alone = Files(tmp_path / "alone")
    alone.record.parent.mkdir()
    config = {"configurable": {"thread_id": "t"}}
    graph = fragile().compile(checkpointer=InMemorySaver())
    with pytest.raises(RuntimeError):
        await graph.ainvoke(alone.input, config)
    alone.mend()
    wanted = await graph.ainvoke(None, config)
    async with serving(mesh, FRAGILE), MeshGraph("fragile", bus=mesh.bus) as remote:
        with pytest.raises(RunFailed, match="not mended yet"):
            await remote.ainvoke(files.input, config)
        files.mend()
        found = await remote.ainvoke(None, config)
    assert found["done"] == wanted["done"]
    assert files.executions() == alone.executions()


async def test_what_another_coordinator_saw_fail_is_retried(
    mesh: LocalMesh, ask: Asker, files: Files
) -> None:
    async with serving(mesh, FRAGILE):
        run = await failed(ask, files)
    files.mend()
    async with mesh.coordinator(), mesh.agents("fragile", *NODES):
        again = await ask("run.retry", run_id=run["run_id"])
        assert (await ask("run.wait", run_id=again["run_id"]))["status"] == "success"
    assert files.executions() == {"first": 1, "sound": 1, "broken": 2, "last": 1}


async def test_a_run_that_was_cancelled_goes_on(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    async with serving(mesh, GATES):
        run = await ask("run.start", graph="gated_loop", thread_id="t", input={"n": 1})
        await gate.reached("t")
        await ask("run.cancel", run_id=run["run_id"])
        gate.open("t")
        again = await ask("run.retry", run_id=run["run_id"])
        view = await ask("run.wait", run_id=again["run_id"])
        assert view["status"] == "success"


async def test_what_cannot_be_retried_is_refused_with_the_way_out(
    mesh: LocalMesh, ask: Asker, files: Files
) -> None:
    await publish(mesh, APPROVAL)
    async with serving(mesh, FRAGILE), mesh.agents("approval", "draft", "ask"):
        assert await ask.code("run.retry", run_id="nobody") == "unknown_run"
        run = await failed(ask, files)
        files.mend()
        again = await ask("run.retry", run_id=run["run_id"])
        await ask("run.wait", run_id=again["run_id"])
        # Not the last one any more, and one that succeeded.
        for each in (run, again):
            reply = await ask("run.retry", run_id=each["run_id"])
            assert reply["error"]["code"] == "invalid_field"
            assert "run_id" in reply["error"]["message"]
        asked = await ask("run.start", graph="approval", thread_id="a", input={"n": 0})
        assert (await ask("run.wait", run_id=asked["run_id"]))["status"] == "interrupted"
        reply = await ask("run.retry", run_id=asked["run_id"])
        assert "runs resume" in reply["error"]["remedy"]


async def test_a_run_under_way_is_not_retried(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    async with serving(mesh, GATES), asyncio.timeout(60):
        run = await ask("run.start", graph="gated_loop", thread_id="t", input={"n": 1})
        await gate.reached("t")
        assert await ask.code("run.retry", run_id=run["run_id"]) == "busy"
        gate.open("t")
        await ask("run.wait", run_id=run["run_id"])
