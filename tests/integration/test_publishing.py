"""Graphs and revisions of graphs come into a running mesh, and runs go on with what they began."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from langmesh.bus.tail import Tail
from langmesh.client import RunHandle
from langmesh.embedded.process import Child
from langmesh.errors import ErrorCode
from langmesh.graphs import directory
from langmesh.graphs.topology import NodeSpec
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import codec, subjects
from langmesh.wire.messages import ExecuteTask, RunStarted, TaskOutcome, TaskStarted
from langmesh.wire.streams import SLOT
from tests.integration.kit import results, serving, tapping, until

GRAPH = """
    import asyncio, operator
    from pathlib import Path
    from typing import Annotated, TypedDict
    from langgraph.graph import START, StateGraph
    import langmesh

    class State(TypedDict):
        said: Annotated[list[str], operator.add]

    async def first(state):
        return {"said": ["first"]}

    async def second(state):
        thread = langmesh.current().thread
        while not Path(__file__).with_name(f"{thread} may go on").exists():
            await asyncio.sleep(0.02)
        return {"said": ["second"]}

    async def third(state):
        return {"said": ["third"]}

    graph = StateGraph(State).add_node("first", first).add_node("second", second)
    graph.add_edge(START, "first").add_edge("first", "second")
"""
REVISED = 'graph.add_node("third", third).add_edge("second", "third")\n'
OTHERS = {name: f"{name}=tests.graphs.shapes:{name}" for name in ("chain", "loop", "fan_out")}


@dataclass(slots=True)
class App:
    """A graph ``fourth`` in a file, and the command that publishes it."""

    mesh: LocalMesh
    folder: Path

    @property
    def module(self) -> str:
        """Of its own, as several tests import theirs into one process."""
        return f"fourth_{self.folder.name}"

    def write(self, more: str = "") -> None:
        (self.folder / f"{self.module}.py").write_text(textwrap.dedent(GRAPH) + more)

    def let_go_on(self, thread: str) -> None:
        (self.folder / f"{thread} may go on").touch()

    async def publish(self, source: str = "", *, within: str = ".", code: int = 0) -> Any:
        """What ``langmesh publish --json`` prints, called within a folder of the app's."""
        source = source or f"fourth={self.module}.py:graph"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "langmesh.cli", "publish", source, "--json"),
            cwd=self.folder / within,
            env=self.mesh.environ,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == code, out
        return json.loads(out)

    def agent(self, *nodes: str) -> Child:
        return self.mesh.spawn("agent", "langmesh.agent", "fourth", *nodes)


@pytest.fixture
def app(mesh: LocalMesh, tmp_path: Path) -> App:
    made = App(mesh, tmp_path)
    made.write()
    return made


async def revision_of(handle: RunHandle) -> str:
    started = await until(handle, RunStarted)
    assert isinstance(started, RunStarted)
    return started.revision


async def test_a_graph_is_published_run_and_revised_while_its_old_revision_runs(
    mesh: LocalMesh, app: App
) -> None:
    coordinator = mesh.spawn("coordinator", "langmesh.coordinator", *OTHERS.values())
    async with asyncio.timeout(120), mesh.client("chain") as chain, mesh.client("fourth") as fourth:
        # One of the three tells that the coordinator is up.
        async with mesh.agents(OTHERS["chain"]):
            await results([await chain.submit({"trail": []})], timeout_s=60)
        old = await app.publish()
        assert (old["nodes"], old["new"], old["taken"]) == (["first", "second"], True, True)
        agent = app.agent("first", "second")
        before = await fourth.submit({"said": []}, thread_id="old")
        assert await revision_of(before) == old["revision"]
        await until(before, TaskStarted, node="second")

        app.write(REVISED)
        new = await app.publish()
        assert new["nodes"] == ["first", "second", "third"]
        assert new["new"]
        app.agent("third")
        after = await fourth.submit({"said": []}, thread_id="new")
        assert await revision_of(after) == new["revision"] != old["revision"]
        app.let_go_on("new")
        [ended] = await results([after], timeout_s=60)
        assert ended.output == {"said": ["first", "second", "third"]}

        app.let_go_on("old")
        [ended] = await results([before], timeout_s=60)
        assert ended.output == {"said": ["first", "second"]}
        assert not (await app.publish())["new"]
    assert coordinator.returncode is None
    assert agent.returncode is None


async def test_what_the_coordinator_cannot_load_is_told_and_changes_nothing(
    mesh: LocalMesh, app: App, tmp_path: Path
) -> None:
    async with mesh.coordinator("tests.graphs.shapes:chain"), asyncio.timeout(60):
        await app.publish()
        # The command finds the module beside itself; the coordinator looks elsewhere.
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "of_nobody_else.py").write_text(textwrap.dedent(GRAPH) + REVISED)
        refused = await app.publish("fourth=of_nobody_else:graph", within="mine", code=1)
        assert refused["error"]["code"] == ErrorCode.GRAPH_IMPORT_FAILED
        assert "of_nobody_else" in refused["error"]["message"]
        app.agent("first", "second")
        async with mesh.client("fourth") as client:
            app.let_go_on("t")
            [ended] = await results(
                [await client.submit({"said": []}, thread_id="t")], timeout_s=60
            )
        assert ended.output == {"said": ["first", "second"]}


async def test_without_a_coordinator_the_next_one_takes_what_is_published(
    mesh: LocalMesh, app: App
) -> None:
    assert not (await app.publish())["taken"]
    app.let_go_on("t")
    app.agent("first", "second")
    async with mesh.coordinator(), mesh.client("fourth") as client:
        [ended] = await results([await client.submit({"said": []}, thread_id="t")], timeout_s=60)
    assert ended.status == "success"


async def test_a_task_of_a_revision_that_an_agent_cannot_have_fails_and_says_why() -> None:
    async with (
        local_mesh(LANGMESH_DELIVERIES_MAX="1") as mesh,
        tapping(mesh, "mesh.v1.exec.>") as tap,
        serving(mesh, "tests.graphs.shapes:chain") as client,
        asyncio.timeout(60),
    ):
        await results([await client.submit({"trail": []})], timeout_s=30)
        task = codec.decode(ExecuteTask, tap.messages[0].data)
        topology, _ = await directory.fetch(mesh.etcd, tenant="default", graph="chain")
        nodes = {**topology.nodes, "a": NodeSpec(successors=["c"])}
        foreign = msgspec.structs.replace(topology, nodes=nodes).pinned()
        await directory.publish(mesh.etcd, foreign, release="v1")
        slot = subjects.slot(0, "default", "chain", "a", "0" * 32)
        task = msgspec.structs.replace(
            task,
            payload=msgspec.structs.replace(task.payload, cap="0" * 32, slot=slot),
            context=msgspec.structs.replace(task.context, revision=foreign.revision),
        )
        outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        tail = Tail(mesh.bus, SLOT.name, (slot,), lambda _, body, __: outcome.set_result(body))
        async with tail.run():
            await mesh.bus.append(tap.messages[0].subject, codec.encode(task))
            fault = codec.decode(TaskOutcome, await outcome).payload.fault
    assert fault is not None
    assert fault.code == ErrorCode.GRAPH_CHANGED
    assert foreign.revision in fault.message
    assert topology.revision in fault.message
