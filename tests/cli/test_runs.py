"""Runs by the command line: submitted, listed, shown, answered, cancelled and watched."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from tests.cli.conftest import Shell
from tests.graphs.gates import Gate
from tests.integration.kit import publish

Call = Callable[..., Awaitable[Any]]
INPUT = ("--input", '{"n": 1}')


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh(shell: Shell) -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        shell.env = mesh.environ
        yield mesh


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    return gate


@pytest.fixture
def called(mesh: LocalMesh, shell: Shell) -> Call:
    """Runs a command in a thread; the mesh's own loop goes on."""

    async def call(*args: str, code: int = 0) -> Any:
        return await asyncio.to_thread(shell.json, *args, code=code)

    return call


@pytest.fixture
def told(mesh: LocalMesh, shell: Shell) -> Call:
    """What a command prints for people."""

    async def call(*args: str, code: int = 0) -> str:
        return await asyncio.to_thread(shell.call, *args, code=code)

    return call


@asynccontextmanager
async def serving(mesh: LocalMesh) -> AsyncIterator[None]:
    """One coordinator, and agents for a graph that waits, one that asks and one that fails."""
    sources = (
        "tests.graphs.gates:gated_loop",
        "tests.graphs.approvals:approval",
        "tests.graphs.failing:failing",
    )
    topologies = [await publish(mesh, source) for source in sources]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(mesh.coordinator())
        for topology in topologies:
            await stack.enter_async_context(mesh.agents(topology.graph))
        yield


async def followed(mesh: LocalMesh, shell: Shell, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *shell.command("events", *args, "--follow", "--json"),
        env=shell.environment(),
        cwd=shell.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_submission_waits_for_a_coordinator(mesh: LocalMesh, called: Call, gate: Gate):
    gate.open("mine")
    stored = await called("submit", "gated_loop", *INPUT, "--thread", "mine", "--stream", "values")
    assert stored == {
        "graph": "gated_loop",
        "run_id": stored["run_id"],
        "thread_id": "mine",
        "submit_seq": 1,
    }
    named = await called(
        *("submit", "gated_loop", *INPUT, "--run-id", "r", "--thread", "mine"),
        *("--config", '{"recursion_limit": 1}'),
    )
    assert (named["run_id"], named["submit_seq"]) == ("r", 2)
    other = await called("submit", "gated_loop", *INPUT)
    assert other["thread_id"] not in {"mine", None}
    unknown = await called("runs", "show", stored["run_id"], code=1)
    assert unknown["error"]["code"] == "broker_unavailable"
    assert "langmesh status" in unknown["error"]["remedy"]
    gate.open(other["thread_id"])
    async with serving(mesh), asyncio.timeout(30):
        for run, status in ((stored, "success"), (named, "error"), (other, "success")):
            await mesh.bus.request(
                "mesh.v1.rpc.default.run.wait",
                json.dumps({"run_id": run["run_id"]}).encode(),
                timeout_s=30,
            )
            shown = await called("runs", "show", run["run_id"])
            assert shown["status"] == status
            assert shown["submit_seq"] == run["submit_seq"]
        assert shown["output"]["trail"] == ["before", "after v1"]


async def test_runs_are_listed_shown_answered_and_cancelled(
    mesh: LocalMesh, shell: Shell, called: Call, told: Call, gate: Gate
):
    async with serving(mesh):
        # The last event of each is the same whenever this is run.
        failed = await called("run", "failing", *INPUT, code=3)
        await called("run", "approval", *INPUT, "--thread", "asks")
        waiting = await called("submit", "gated_loop", *INPUT, "--thread", "waits")
        await gate.reached("waits")

        runs = (await called("runs", "ls"))["runs"]
        assert [(run["graph"], run["status"]) for run in runs] == [
            ("gated_loop", "running"),
            ("approval", "interrupted"),
            ("failing", "error"),
        ]
        assert runs[0]["run_id"] == waiting["run_id"]
        assert runs[2]["error"]["message"] == "out of order"
        assert runs[2]["accepted_at"] < runs[2]["changed_at"]
        assert all(len(run["trace_id"]) == 32 for run in runs)
        assert (await called("runs", "ls", "--graph", "approval"))["runs"] == [runs[1]]
        assert (await called("runs", "ls", "--thread", "waits"))["runs"] == [runs[0]]
        assert (await called("runs", "ls", "--status", "error"))["runs"] == [runs[2]]
        assert (await called("runs", "ls", "--limit", "2"))["runs"] == runs[:2]
        assert (await called("runs", "ls", "--graph", "nosuch"))["runs"] == []
        table = await told("runs", "ls")
        for run in runs:
            assert run["run_id"] in table

        shown = await called("runs", "show", failed["run_id"])
        assert shown["error"]["message"] == "out of order"
        assert shown["ended_at"] == failed["time"]
        (task,) = shown["tasks"]
        assert (task["node"], task["status"], task["attempts"]) == ("fail", "error", 2)
        assert task["note"] == "not yet"
        assert task["instance"].startswith("agent-")
        text = await told("runs", "show", failed["run_id"])
        for words in (failed["trace_id"], "out of order", "not yet", task["instance"]):
            assert words in text

        again = await called("runs", "retry", failed["run_id"])
        assert again["run_id"] != failed["run_id"]
        assert again["thread_id"] == failed["thread_id"]
        refused = await called("runs", "retry", failed["run_id"], code=1)
        assert refused["error"]["code"] in ("busy", "invalid_field")

        text = await told("runs", "show", runs[1]["run_id"])
        assert "langmesh runs resume asks --graph approval" in text
        answered = await called("runs", "resume", "asks", "--graph", "approval", "--value", '"yes"')
        assert answered["run_id"] == runs[1]["run_id"]
        refused = await called(
            *("runs", "resume", "waits", "--graph", "gated_loop", "--value", "1"), code=1
        )
        assert refused["error"]["code"] == "unknown_thread"

        cancelled = await called("runs", "cancel", waiting["run_id"])
        assert cancelled["status"] == "cancelled"
        unknown = await called("runs", "cancel", "nosuch", code=1)
        assert unknown["error"]["code"] == "unknown_run"
        assert "langmesh events --run nosuch" in unknown["error"]["remedy"]


async def test_events_are_shown_as_they_are_stored(
    mesh: LocalMesh, shell: Shell, told: Call, gate: Gate
):
    async with serving(mesh), asyncio.timeout(60):
        for thread in ("one", "two"):
            gate.open(thread)
            await told("run", "gated_loop", *INPUT, "--thread", thread)
        run = json.loads((await told("run", "approval", *INPUT, "--json")).splitlines()[0])[
            "run_id"
        ]
        refused = json.loads(await told("submit", "nosuch", *INPUT, "--json"))

        async def events(*args: str) -> list[dict[str, Any]]:
            return [
                json.loads(line) for line in (await told("events", *args, "--json")).splitlines()
            ]

        follower = await followed(mesh, shell, "--run", refused["run_id"])
        assert follower.stdout is not None
        # It is told of what is stored already, or follows: in both cases the refusal.
        refusal = json.loads(await follower.stdout.readline())
        assert (refusal["type"], refusal["graph"]) == ("run.rejected.v1", "nosuch")
        follower.send_signal(signal.SIGINT)
        assert await follower.wait() == 130

        everything = await events()
        assert [e["stream_seq"] for e in everything] == list(range(1, len(everything) + 1))
        assert everything[-1] == refusal
        one = await events("--thread", "one")
        assert [e["seq"] for e in one] == list(range(1, len(one) + 1))
        assert {e["graph"] for e in one} == {"gated_loop"}
        assert {e["thread_id"] for e in await events("--graph", "gated_loop")} == {"one", "two"}
        assert {e["run_id"] for e in await events("--run", run)} == {run}
        assert await events("--since", str(refusal["stream_seq"])) == [refusal]
        assert await events("--since", "1d") == everything
        assert await events("--since", str(refusal["stream_seq"] + 1)) == []
        text = await told("events")
        assert "success after 2 supersteps" in text
        assert "rejected: graph: 'nosuch'" in text
        assert len(text.splitlines()) == len(everything)


async def test_events_are_followed_as_they_come(
    mesh: LocalMesh, shell: Shell, told: Call, gate: Gate
):
    async with serving(mesh), asyncio.timeout(60):
        follower = await followed(mesh, shell, "--thread", "mine")
        assert follower.stdout is not None
        await told("submit", "gated_loop", *INPUT, "--thread", "mine")
        await told("submit", "gated_loop", *INPUT, "--thread", "another")
        await gate.reached("mine")
        told_so_far = [json.loads(await follower.stdout.readline()) for _ in range(3)]
        kinds = [event["type"] for event in told_so_far]
        assert kinds == ["run.accepted.v1", "run.started.v1", "task.started.v1"]
        gate.open("mine")
        while told_so_far[-1]["type"] != "run.ended.v1":
            told_so_far.append(json.loads(await follower.stdout.readline()))
        assert [e["seq"] for e in told_so_far] == list(range(1, len(told_so_far) + 1))
        follower.send_signal(signal.SIGINT)
        assert await follower.wait() == 130
        gate.open("another")
