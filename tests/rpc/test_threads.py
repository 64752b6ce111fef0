"""thread.state, thread.history, thread.update and graph.routes."""

from __future__ import annotations

import asyncio
from typing import Any

from langmesh.testing import LocalMesh
from tests.graphs.gates import Gate
from tests.rpc.kit import APPROVAL, GATES, Asker, serving

LOOP = "tests.graphs.shapes:loop"


async def test_the_state_of_a_thread_that_asks(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, APPROVAL):
        started = await ask("run.start", graph="approval", input={"n": 7}, thread_id="t1")
        await ask("run.wait", run_id=started["run_id"])
        state = await ask("thread.state", graph="approval", thread_id="t1")
        assert state["values"] == {"n": 7, "trail": ["draft"]}
        assert (state["next"], state["superstep"]) == (["ask"], 1)
        assert [each["value"] for each in state["interrupts"]] == [{"approve": "draft"}]
        assert state["checkpoint_id"]
        assert state["created_at"]


async def test_the_history_of_a_thread(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        started = await ask("run.start", graph="loop", input={"n": 2}, thread_id="t1")
        await ask("run.wait", run_id=started["run_id"])
        told = await ask("thread.history", graph="loop", thread_id="t1")
        states = told["states"]
        assert [state["superstep"] for state in states] == [2, 1, 0, -1]
        assert [state["values"].get("n") for state in states] == [4, 3, 2, None]
        assert states[0] == await ask("thread.state", graph="loop", thread_id="t1")
        few = await ask("thread.history", graph="loop", thread_id="t1", limit=2)
        assert few["states"] == states[:2]
        before = states[1]["checkpoint_id"]
        rest = await ask("thread.history", graph="loop", thread_id="t1", before=before)
        assert rest["states"] == states[2:]
        for limit in (0, 101):
            code = await ask.code("thread.history", graph="loop", thread_id="t1", limit=limit)
            assert code == "invalid_field"


async def test_runs_of_the_durability_exit_show_their_last_checkpoints(
    mesh: LocalMesh, ask: Asker
) -> None:
    async with serving(mesh, LOOP):
        for n in (1, 2):
            started = await ask(
                "run.start", graph="loop", input={"n": n}, thread_id="t1", durability="exit"
            )
            await ask("run.wait", run_id=started["run_id"])
        told = await ask("thread.history", graph="loop", thread_id="t1")
        assert [(each["superstep"], each["next"]) for each in told["states"]] == [(7, []), (3, [])]
        assert told["states"][0] == await ask("thread.state", graph="loop", thread_id="t1")


async def test_an_update_is_where_the_thread_goes_on(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        started = await ask("run.start", graph="loop", input={"n": 4}, thread_id="t1")
        await ask("run.wait", run_id=started["run_id"])
        values = {"n": 1, "trail": ["by hand"]}
        updated = await ask(
            "thread.update", graph="loop", thread_id="t1", values=values, as_node="count"
        )
        state = await ask("thread.state", graph="loop", thread_id="t1")
        assert state["checkpoint_id"] == updated["checkpoint_id"]
        assert state["values"] == {"n": 1, "trail": ["count", "by hand"]}
        assert state["next"] == ["count"]
        again = await ask("run.start", graph="loop", input={"trail": ["go"]}, thread_id="t1")
        ended = await ask("run.wait", run_id=again["run_id"])
        assert ended["output"]["trail"] == ["count", "by hand", "go", "count", "count", "count"]


async def test_an_update_can_make_a_thread(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        await ask("thread.update", graph="loop", thread_id="new", values={"n": 3}, as_node="count")
        state = await ask("thread.state", graph="loop", thread_id="new")
        assert (state["values"], state["next"]) == ({"n": 3, "trail": []}, ["count"])


async def test_an_update_waits_for_no_run(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    fields = {"graph": "gated_loop", "thread_id": "t1", "values": {"n": 5}, "as_node": "before"}
    async with serving(mesh, GATES):
        started = await ask("run.start", graph="gated_loop", input={"n": 1}, thread_id="t1")
        await gate.reached("t1")
        refused = await ask("thread.update", **fields)
        assert (refused["error"]["code"], refused["error"]["retryable"]) == ("busy", True)
        gate.open("t1")
        await ask("run.wait", run_id=started["run_id"])
        assert "checkpoint_id" in await ask("thread.update", **fields)


async def test_updates_and_runs_of_a_thread_never_meet(mesh: LocalMesh, ask: Asker) -> None:
    fields = {"graph": "loop", "thread_id": "t1", "values": {"n": 0}, "as_node": "count"}
    async with serving(mesh, LOOP):
        runs = [ask("run.start", graph="loop", input={"n": 2}, thread_id="t1") for _ in range(10)]
        updates = [ask("thread.update", **fields) for _ in range(30)]
        told = await asyncio.gather(*runs, *updates)
        for run in told[:10]:
            ended = await ask("run.wait", run_id=run["run_id"])
            # Each run counts from 2 to 4: nobody has written in between.
            assert (ended["status"], ended["output"]["n"]) == ("success", 4)
        refused = [each["error"]["code"] for each in told[10:] if "error" in each]
        assert set(refused) <= {"busy"}


async def test_threads_and_graphs_that_nobody_knows(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        for verb in ("thread.state", "thread.history"):
            assert await ask.code(verb, graph="loop", thread_id="nobody") == "unknown_thread"
        for verb, more in (
            ("thread.state", {}),
            ("thread.history", {}),
            ("thread.update", {"values": {"n": 1}}),
        ):
            fields = {"graph": "pool", "thread_id": "t1", **more}
            assert await ask.code(verb, **fields) == "unknown_graph"
            assert await ask.code(verb, **{**fields, "graph": "loop", "thread_id": ""}) == (
                "invalid_name"
            )


async def test_updates_that_the_graph_does_not_take(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        place = {"graph": "loop", "thread_id": "t1"}
        code = await ask.code("thread.update", **place, values={"n": 1}, as_node="nobody")
        assert code == "unknown_node"
        code = await ask.code("thread.update", **place, values=7, as_node="count")
        assert code == "invalid_input"
        # The reducer of a list refuses a number; what it says is not for strangers.
        refused = await ask("thread.update", **place, values={"trail": 7}, as_node="count")
        assert refused["error"]["code"] == "invalid_input"
        assert "TypeError" in refused["error"]["message"]
        assert "concatenate" not in refused["error"]["message"]


async def served_routes(ask: Asker, graph: str) -> dict[str, Any]:
    """The routes of a graph, once the coordinator has seen an agent for every node."""
    async with asyncio.timeout(60):
        while True:
            routes = await ask("graph.routes", graph=graph)
            if all(binding["served"] for binding in routes["bindings"].values()):
                return routes


async def test_the_routes_of_a_graph(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, GATES):
        routes = await served_routes(ask, "gated_loop")
        assert routes["graph"] == "gated_loop"
        assert routes["topology"]["revision"] == routes["revision"]
        assert sorted(routes["topology"]["nodes"]) == ["after", "before"]
        assert routes["bindings"] == {
            node: {
                "subject": f"mesh.v1.exec.default.gated_loop.{node}.v1",
                "release": "v1",
                "served": True,
            }
            for node in ("before", "after")
        }
        assert await ask.code("graph.routes", graph="pool") == "unknown_graph"
