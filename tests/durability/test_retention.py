"""Threads are pruned and deleted when their time is over, and never under a run's feet."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from langmesh.bus.reading import purge
from langmesh.bus.streams import ensure_streams, lifetimes
from langmesh.client import Client
from langmesh.coordinator.tidying import Policy, policies, tidy
from langmesh.log import Logs
from langmesh.log.condense import condensed
from langmesh.log.idle import idle_threads
from langmesh.registry import keys
from langmesh.settings import Settings
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import subjects
from langmesh.wire.log import (
    AppliedTask,
    RunEndedRecord,
    RunStartedRecord,
    SuperstepRecord,
    UnknownRecord,
)
from langmesh.wire.messages import RunEnded, RunInterrupted
from langmesh.wire.names import partition
from langmesh.wire.streams import CHUNK, EVENT, LOG, SLOT
from tests.durability.history import history_of
from tests.graphs.durable import gated
from tests.graphs.gates import Gate
from tests.integration.kit import publish, serving
from tests.rpc.kit import Asker, asking

LOOP = "tests.graphs.shapes:loop"
FRAGILE = "tests.graphs.fragile:fragile"


@pytest.fixture
async def ask(mesh: LocalMesh) -> AsyncIterator[Asker]:
    async with asking(mesh) as asker:
        yield asker


async def end_of(client: Client, thread: str | None = None, **fields: object) -> RunEnded:
    given = {"stream_mode": [], **fields}
    handle = await client.submit({"n": 0}, thread_id=thread, **given)
    end = await handle.result()
    assert isinstance(end, RunEnded)
    assert end.status == "success"
    return end


async def log_bytes(mesh: LocalMesh) -> int:
    return (await mesh.bus.api(f"STREAM.INFO.{LOG.name}"))["state"]["bytes"]


async def test_a_pruned_thread_holds_together_and_goes_on(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP) as client, asyncio.timeout(60):
        for _ in range(3):
            before = await end_of(client, "t")
        asked = {"graph": "loop", "thread_id": "t"}
        state = await ask("thread.state", **asked)
        size = await log_bytes(mesh)
        pruned = await ask("thread.prune", thread_id="t")
        assert pruned["kept"] == 1
        assert pruned["dropped"] >= 9
        assert await log_bytes(mesh) < size / 4
        assert await ask("thread.prune", thread_id="t") == {**pruned, "dropped": 0}
        # Read and verified by somebody who has nothing in memory.
        fresh = await Logs(mesh.bus, tenant="default", writer="test").shared("t").load()
        assert len(fresh.checkpoints) == 1
        assert (await ask("thread.history", **asked))["states"] == [state]
        after = await end_of(client, "t")
        assert after.output["trail"][: len(before.output["trail"])] == before.output["trail"]
    async with mesh.coordinator(), mesh.agents("loop", "count"), mesh.client("loop") as client:
        # Another owner, which knows the log and nothing else.
        again = await end_of(client, "t")
        assert again.output["trail"][: len(after.output["trail"])] == after.output["trail"]


async def test_pruning_and_runs_at_once_lose_nothing(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP) as client, asyncio.timeout(90):
        stop, pruned = asyncio.Event(), asyncio.Event()

        async def prune() -> None:
            while not stop.is_set():
                reply = await ask("thread.prune", thread_id="t")
                if "error" not in reply:
                    pruned.set()
                await asyncio.sleep(0.005)

        steps = len((await end_of(client, "t")).output["trail"])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(prune())
            for number in range(2, 22):
                end = await end_of(client, "t")
                assert len(end.output["trail"]) == steps * number
                if number % 5 == 0:
                    # Runs that follow each other at once may leave it no gap.
                    pruned.clear()
                    await pruned.wait()
            stop.set()


async def test_a_run_that_failed_is_retried_on_its_pruned_thread(
    mesh: LocalMesh, ask: Asker, tmp_path: Path
) -> None:
    record, mended = tmp_path / "record", tmp_path / "mended"
    given = {"record": str(record), "mended": str(mended), "done": []}
    async with serving(mesh, FRAGILE), asyncio.timeout(60):
        run = await ask("run.start", graph="fragile", thread_id="t", input=given)
        assert (await ask("run.wait", run_id=run["run_id"]))["status"] == "error"
        assert (await ask("thread.prune", thread_id="t"))["kept"] == 1
        mended.touch()
        again = await ask("run.retry", run_id=run["run_id"])
        assert (await ask("run.wait", run_id=again["run_id"]))["status"] == "success"
    # What had succeeded beside the failure is not executed again.
    assert sorted(record.read_text().split()) == ["broken", "broken", "first", "last", "sound"]


async def test_a_deleted_thread_is_gone_and_can_begin_anew(mesh: LocalMesh, ask: Asker) -> None:
    async with serving(mesh, LOOP) as client, asyncio.timeout(60):
        first = await end_of(client, "t")
        await end_of(client, "other")
        refused = await ask("thread.delete", thread_id="t", graph="nosuch")
        assert refused["error"]["code"] == "unknown_thread"
        refused = await ask("thread.delete", thread_id="t", unchanged_since=1)
        assert "unchanged_since" in refused["error"]["message"]
        assert await ask("thread.delete", thread_id="t", graph="loop") == {"thread_id": "t"}
        asked = {"graph": "loop", "thread_id": "t"}
        assert await ask.code("thread.state", **asked) == "unknown_thread"
        assert await ask.code("thread.delete", thread_id="t") == "unknown_thread"
        assert "values" in await ask("thread.state", graph="loop", thread_id="other")
        assert (await end_of(client, "t")).output == first.output


async def test_a_thread_with_a_run_is_left_alone(mesh: LocalMesh, ask: Asker, gate: Gate) -> None:
    await publish(mesh, "tests.graphs.approvals:approval")
    async with (
        serving(mesh, "tests.graphs.gates:gated_loop"),
        mesh.agents("approval", "draft", "ask"),
        asyncio.timeout(60),
    ):
        run = await ask("run.start", graph="gated_loop", thread_id="t", input={"n": 1})
        await gate.reached("t")
        asked = await ask("run.start", graph="approval", thread_id="a", input={"n": 0})
        await ask("run.wait", run_id=asked["run_id"])
        for verb in ("thread.delete", "thread.prune"):
            assert await ask.code(verb, thread_id="t") == "busy"
            reply = await ask(verb, thread_id="a")
            assert reply["error"]["code"] == "invalid_field"
            assert "waits for a human" in reply["error"]["message"]
        gate.open("t")
        assert (await ask("run.wait", run_id=run["run_id"]))["status"] == "success"


@asynccontextmanager
async def tidy_mesh(**overrides: str) -> AsyncIterator[tuple[LocalMesh, Client]]:
    async with local_mesh(**overrides) as mesh, serving(mesh, LOOP) as client:
        yield mesh, client


async def test_threads_go_when_their_time_is_over() -> None:
    async with (
        asyncio.timeout(60),
        tidy_mesh(LANGMESH_KEEP_UNNAMED_THREADS="1s") as (mesh, client),
        asking(mesh) as ask,
    ):
        named = await end_of(client, "mine")
        unnamed = await end_of(client)
        place = partition("default", unnamed.thread_id)
        subject = subjects.log(place, "default", unnamed.thread_id)
        while await mesh.bus.last(LOG.name, subject) is not None:
            await asyncio.sleep(0.1)
        assert await ask.code("thread.state", graph="loop", thread_id=unnamed.thread_id) == (
            "unknown_thread"
        )
        state = await ask("thread.state", graph="loop", thread_id="mine")
        assert state["values"] == named.output


async def test_what_was_looked_at_is_not_looked_at_again(mesh: LocalMesh) -> None:
    policy = Policy("threads", "thread.prune", 1, unnamed=False)
    async with serving(mesh, LOOP) as client, asyncio.timeout(60):
        for number in range(4):
            await end_of(client, f"t{number}")
        await asyncio.sleep(1.2)
        assert await tidy(mesh.bus, mesh.etcd, policy) == 4
        kept = await mesh.etcd.get(keys.tidied(policy.name))
        assert kept is not None
        # The pruned threads' new entries are old by now, and there is nothing behind them.
        await asyncio.sleep(1.2)
        await tidy(mesh.bus, mesh.etcd, policy)
        first = int((await mesh.etcd.get(keys.tidied(policy.name))).value)
        assert first > int(kept.value)
        pages = [page async for page in idle_threads(mesh.bus, first_seq=first, idle_s=0.0)]
        assert [thread for page in pages for thread in page.idle] == []


def test_policies_are_off_unless_they_have_a_time() -> None:
    assert [policy.name for policy in policies(Settings())] == ["unnamed"]
    everything = Settings(keep_threads=5, keep_history=3, keep_unnamed_threads=0)
    assert [(policy.name, policy.idle_s) for policy in policies(everything)] == [
        ("history", 3),
        ("threads", 5),
    ]


async def test_an_answer_is_heard_after_the_questions_events_have_expired(
    mesh: LocalMesh,
) -> None:
    await publish(mesh, "tests.graphs.durable:gated")
    nodes = gated().nodes.keys() - {"__start__"}
    async with (
        asyncio.timeout(60),
        mesh.agents("gated", *nodes),
        mesh.client("gated") as client,
    ):
        async with mesh.coordinator():
            asked = await (await client.submit({"trail": []}, thread_id="t")).result()
            assert isinstance(asked, RunInterrupted)
        await purge(mesh.bus, EVENT.name, subjects.event("default", "gated", "t", asked.run_id))
        async with mesh.coordinator():
            command = {"resume": True}
            end = await (await client.submit(None, thread_id="t", command=command)).result()
            assert isinstance(end, RunEnded)
            assert end.status == "success"
            events = (await history_of(mesh, end, "gated")).events
            # Those that the log had kept are told once more, under their own numbers.
            first = events[0].seq
            assert first <= asked.seq + 1
            assert [each.seq for each in events] == [*range(first, first + len(events))]


async def test_lifetimes_reach_streams_that_exist(mesh: LocalMesh) -> None:
    settings = dataclasses.replace(mesh.settings, keep_events=60, keep_slots=30, keep_chunks=0)
    await ensure_streams(mesh.bus, ages_s=lifetimes(settings))
    ages = {}
    for stream in (EVENT, SLOT, CHUNK):
        info = await mesh.bus.api(f"STREAM.INFO.{stream.name}")
        ages[stream.name] = info["config"]["max_age"] / 1e9
    assert ages == {"EVENT": 60, "SLOT": 30, "CHUNK": 0}
    # Whoever has no opinion takes them as they are.
    await ensure_streams(mesh.bus)
    async with mesh.coordinator():
        info = await mesh.bus.api(f"STREAM.INFO.{EVENT.name}")
        assert info["config"]["max_age"] / 1e9 == mesh.settings.keep_events


def started(run: str) -> RunStartedRecord:
    return RunStartedRecord(
        run_id=run,
        seq=1,
        events=[b"told"],
        submit_epoch="e",
        submit_seq=1,
        submission=b"{}",
        stop=25,
        graph="g",
        revision="v",
    )


def step(run: str, checkpoint: str) -> SuperstepRecord:
    applied = [AppliedTask("t", "n", 1)]
    return SuperstepRecord(
        run_id=run, seq=2, events=[b"told"], checkpoint_id=checkpoint, applied=applied
    )


def ended(run: str) -> RunEndedRecord:
    return RunEndedRecord(run_id=run, seq=3, events=[b"last"], status="success")


def test_of_runs_that_are_over_the_last_one_stays_in_short() -> None:
    unknown = UnknownRecord("later.v9", b"")
    journal = [started("a"), step("a", "1"), ended("a"), unknown, started("b"), step("b", "2")]
    less = condensed([*journal, step("b", "3"), ended("b")])
    assert less == [
        unknown,
        RunStartedRecord(**{**_fields(started("b")), "events": []}),
        SuperstepRecord(run_id="b", seq=2, checkpoint_id="3"),
        ended("b"),
    ]
    assert condensed(less) == less


def test_of_a_run_that_is_not_over_all_stays() -> None:
    unfinished = [started("b"), step("b", "2"), step("b", "3")]
    assert condensed([started("a"), ended("a"), *unfinished]) == unfinished


def _fields(record: RunStartedRecord) -> dict:
    return {name: getattr(record, name) for name in record.__struct_fields__}
