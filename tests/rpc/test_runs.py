"""run.start, run.get, run.wait and run.resume."""

from __future__ import annotations

import asyncio
import json

import pytest

from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunStarted
from langmesh.wire.streams import SUBMIT
from tests.graphs.gates import Gate
from tests.integration.kit import publish
from tests.rpc.kit import APPROVAL, GATES, Asker, error_code, history, serving

LOOP = "tests.graphs.shapes:loop"


async def test_a_run_from_start_to_end(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        started = await ask("run.start", graph="loop", input={"n": 3}, thread_id="t1")
        assert started.keys() == {"run_id", "thread_id", "submit_seq", "trace_id"}
        assert (started["thread_id"], started["submit_seq"]) == ("t1", 1)
        ended = await ask("run.wait", run_id=started["run_id"], timeout_s=30)
        assert ended == {
            "run_id": started["run_id"],
            "thread_id": "t1",
            "graph": "loop",
            "status": "success",
            "output": {"trail": ["count"], "n": 4},
        }
        assert await ask("run.get", run_id=started["run_id"]) == ended
        # Waiting for what is over takes no time.
        assert await ask("run.wait", run_id=started["run_id"]) == ended
    events = await history(mesh.bus, "loop", started)
    assert events[0].trace_id == started["trace_id"]


async def test_a_chosen_run_id_is_used_once(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        fields = {"graph": "loop", "input": {"n": 3}, "thread_id": "t1", "run_id": "mine"}
        assert (await ask("run.start", **fields))["run_id"] == "mine"
        assert await ask.code("run.start", **fields) == "duplicate_run"
        assert (await ask("run.wait", run_id="mine"))["status"] == "success"


async def test_the_run_joins_the_callers_trace(mesh: LocalMesh, ask: Asker) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with serving(mesh, LOOP):
        body = json.dumps({"graph": "loop", "input": {"n": 3}}).encode()
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        started = await ask.raw("run.start", body, headers=headers)
    assert started["trace_id"] == trace


async def test_an_error_is_told_with_the_run(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, "tests.graphs.shapes:endless"):
        config = {"recursion_limit": 3}
        started = await ask("run.start", graph="endless", input={"n": 1}, config=config)
        ended = await ask("run.wait", run_id=started["run_id"])
        assert (ended["status"], ended["error"]["code"]) == ("error", "recursion_limit")


BAD = {
    "no body": ("run.start", b"", "invalid_field"),
    "no JSON": ("run.start", b'{"graph"', "malformed_body"),
    "a list": ("run.get", b"[]", "invalid_field"),
    "too large": ("run.get", b" " * 1_000_001, "payload_too_large"),
    "an unknown field": ("run.get", b'{"run_id": "r", "runid": "r"}', "invalid_field"),
    "deep input": (
        "run.start",
        b'{"graph": "loop", "input": {"n": ' + b"[" * 150 + b"]" * 150 + b"}}",
        "malformed_body",
    ),
    "wrong input": ("run.start", b'{"graph": "loop", "input": {"n": "x"}}', "invalid_input"),
    "an odd name": (
        "run.start",
        b'{"graph": "loop", "input": {"n": 1}, "thread_id": ""}',
        "invalid_name",
    ),
    "an unknown graph": ("run.start", b'{"graph": "pool", "input": {}}', "unknown_graph"),
    "an unknown run": ("run.get", b'{"run_id": "nobody"}', "unknown_run"),
    "waiting for an unknown run": ("run.wait", b'{"run_id": "nobody"}', "unknown_run"),
    "cancelling an unknown run": ("run.cancel", b'{"run_id": "nobody"}', "unknown_run"),
    "a run without a name": ("run.get", b'{"run_id": ""}', "invalid_name"),
    "too long": ("run.wait", b'{"run_id": "r", "timeout_s": 61}', "invalid_field"),
    "no time": ("run.wait", b'{"run_id": "r", "timeout_s": 0}', "invalid_field"),
    "nobody asks": (
        "run.resume",
        b'{"graph": "loop", "thread_id": "t", "resume": 1}',
        "unknown_thread",
    ),
    "no answer": (
        "run.resume",
        b'{"graph": "loop", "thread_id": "t", "resume": null}',
        "invalid_field",
    ),
    "an unknown verb": ("run.stop", b"{}", "unknown_verb"),
    "no verb": ("nonsense", b"{}", "unknown_verb"),
    "a verb of three words": ("run.get.now", b"{}", "unknown_verb"),
}


async def test_what_cannot_be_answered_is_refused_with_a_code(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        for what, (verb, body, code) in BAD.items():
            assert (what, error_code(await ask.raw(verb, body))) == (what, code)
        body = b'{"graph": "loop", "input": {"n": 1}}'
        assert error_code(await ask.raw("run.start", body, "stranger")) == "unknown_graph"
        started = await ask("run.start", graph="loop", input={"n": 3})
        assert await ask.code("run.get", tenant="stranger", run_id=started["run_id"]) == (
            "unknown_run"
        )


async def test_a_refused_submission_is_not_left_behind(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP):
        assert await ask.code("run.start", graph="loop", input={"n": "x"}) == "invalid_input"
        started = await ask("run.start", graph="loop", input={"n": 3})
        await ask("run.wait", run_id=started["run_id"])
    state = (await mesh.bus.api(f"STREAM.INFO.{SUBMIT.name}"))["state"]
    assert state["messages"] == 0


async def test_waiting_is_bounded_and_holds_nobody_up(
    mesh: LocalMesh, ask: Asker, gate: Gate
) -> None:
    async with serving(mesh, GATES):
        first = await ask("run.start", graph="gated_loop", input={"n": 1}, thread_id="t1")
        second = await ask("run.start", graph="gated_loop", input={"n": 1}, thread_id="t1")
        await gate.reached("t1")
        waiting = [
            asyncio.create_task(ask("run.wait", run_id=run["run_id"], timeout_s=30))
            for run in (first, second)
        ]
        assert (await ask("run.get", run_id=first["run_id"]))["status"] == "running"
        assert (await ask("run.get", run_id=second["run_id"]))["status"] == "queued"
        late = await ask("run.wait", run_id=second["run_id"], timeout_s=0.1)
        assert (late["status"], late["timed_out"]) == ("queued", True)
        assert not any(task.done() for task in waiting)
        gate.open("t1")
        ended = await asyncio.gather(*waiting)
        assert [view["status"] for view in ended] == ["success", "success"]
        assert ["timed_out" in view for view in ended] == [False, False]


async def test_an_answer_lets_the_same_run_go_on(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, APPROVAL):
        started = await ask("run.start", graph="approval", input={"n": 0}, thread_id="t1")
        asked = await ask("run.wait", run_id=started["run_id"])
        assert asked["status"] == "interrupted"
        assert [each["value"] for each in asked["interrupts"]] == [{"approve": "draft"}]
        assert await ask("run.get", run_id=started["run_id"]) == asked
        again = await ask("run.resume", graph="approval", thread_id="t1", resume="yes")
        assert again["run_id"] == started["run_id"]
        assert again["submit_seq"] > started["submit_seq"]
        ended = await ask("run.wait", run_id=started["run_id"])
        assert ended["output"] == {"n": 0, "trail": ["draft", "ask yes"]}
        code = await ask.code("run.resume", graph="approval", thread_id="t1", resume="yes")
        assert code == "unknown_thread"


async def test_answers_by_interrupt_id(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, APPROVAL):
        started = await ask("run.start", graph="approval", input={"n": 0}, thread_id="t1")
        [asked] = (await ask("run.wait", run_id=started["run_id"]))["interrupts"]
        await ask("run.resume", graph="approval", thread_id="t1", resume={asked["id"]: "no"})
        ended = await ask("run.wait", run_id=started["run_id"])
        assert ended["output"]["trail"] == ["draft", "ask no"]


async def test_runs_of_an_earlier_coordinator_are_known(mesh: LocalMesh, ask: Asker) -> None:
    topology = await publish(mesh, APPROVAL)
    async with mesh.agents("approval", *topology.nodes):
        async with mesh.coordinator():
            over = await ask("run.start", graph="approval", input={"n": 1}, thread_id="t1")
            await ask("run.wait", run_id=over["run_id"])
            await ask("run.resume", graph="approval", thread_id="t1", resume="yes")
            await ask("run.wait", run_id=over["run_id"])
            asks = await ask("run.start", graph="approval", input={"n": 1}, thread_id="t2")
            await ask("run.wait", run_id=asks["run_id"])
        async with mesh.coordinator():
            assert (await ask("run.get", run_id=over["run_id"]))["output"]["n"] == 1
            assert (await ask("run.wait", run_id=asks["run_id"]))["status"] == "interrupted"


async def test_only_the_coordinator_that_drives_answers(
    mesh: LocalMesh, ask: Asker, gate: Gate
) -> None:
    """A stop is no end: the runs in hand go to the coordinator that stands by."""
    topology = await publish(mesh, GATES)
    async with mesh.agents("gated_loop", *topology.nodes):
        async with mesh.coordinator() as first:
            started = await ask("run.start", graph="gated_loop", input={"n": 2}, thread_id="t1")
            behind = await ask("run.start", graph="gated_loop", input={"n": 1}, thread_id="t1")
            await gate.reached("t1")
            waiting = asyncio.create_task(ask("run.wait", run_id=started["run_id"]))
            successor = asyncio.create_task(_serve_until_ended(mesh, ask, started, behind, gate))
            ping = await ask.client.request("$SRV.PING.langmesh-coordinator", b"", timeout=5)
            assert json.loads(ping.data)["metadata"]["instance"] == first.instance
        assert error_code(await waiting) == "busy"
        views = await successor
    assert [view["status"] for view in views] == ["success", "success"]
    events = await history(mesh.bus, "gated_loop", started)
    starts = [event for event in events if isinstance(event, RunStarted)]
    # The successor goes on where the first has stopped.
    assert [event.restarted for event in starts] == [False]
    assert starts[0].coordinator == first.instance
    await history(mesh.bus, "gated_loop", behind)


async def _serve_until_ended(
    mesh: LocalMesh, ask: Asker, started: dict, behind: dict, gate: Gate
) -> list[dict]:
    async with mesh.coordinator():
        waiting = [
            asyncio.create_task(ask("run.wait", run_id=run["run_id"])) for run in (started, behind)
        ]
        gate.open("t1")
        return list(await asyncio.gather(*waiting))


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_the_coordinator_is_a_micro_service(mesh: LocalMesh, ask: Asker, verb: str) -> None:
    async with serving(mesh, LOOP):
        answer = await ask.client.request(f"$SRV.{verb}.langmesh-coordinator", b"", timeout=5)
    shown = json.loads(answer.data)
    assert (shown["name"], shown["version"]) == ("langmesh-coordinator", "1.0.0")
    if verb != "PING":
        subjects = [each["subject"] for each in shown["endpoints"]]
        assert subjects == [
            "mesh.v1.rpc.*.>",
            f"mesh.v1.peer.{shown['metadata']['instance']}.rpc.*.>",
        ]
