"""How runs stand, by what stream EVENT keeps of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from langmesh.bus import reading
from langmesh.client import overview
from langmesh.client.eventlog import EventLog
from langmesh.client.overview import Story
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    Event,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    RunStarted,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
)
from langmesh.wire.streams import EVENT

MANY = 4_000


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


def event(kind: type[Event], number: int, seq: int, **fields: Any) -> Event:
    time = f"2026-01-01T00:00:{seq:02}.000000Z"
    return kind(seq=seq, run_id=f"r{number}", thread_id=f"t{number % 7}", time=time, **fields)


async def store(mesh: LocalMesh, number: int, *events: Event) -> None:
    subject = subjects.event("default", f"g{number % 2}", f"t{number % 7}", f"r{number}")
    for each in events:
        await mesh.bus.client.publish(subject, msgspec.json.encode(each))


def accepted(number: int) -> Event:
    return event(RunAccepted, number, 1, graph="g", submit_seq=number, trace_id=f"trace{number}")


def ended(number: int, status: str = "success") -> Event:
    return event(RunEnded, number, 2, status=status, output="x" * 100)


async def test_a_listing_reads_no_more_than_it_needs(mesh: LocalMesh):
    asks = event(RunInterrupted, 5, 2, interrupts=[])
    for i in range(MANY):
        await store(mesh, i, accepted(i), asks if i == 5 else ended(i))
    # A run that began first may be the one that changed last.
    await store(mesh, 3, event(RunEnded, 3, 3, status="error"))
    await mesh.bus.flush()
    await mesh.bus.append(subjects.event("default", "g1", "t0", "garbage"), b"no event")
    assert (await reading.bounds(mesh.bus, EVENT.name))[1] == 2 * MANY + 2

    listing = await overview.recent(mesh.bus, "default", limit=3)
    assert [run.run_id for run in listing.runs] == ["r3", f"r{MANY - 1}", f"r{MANY - 2}"]
    assert [run.status for run in listing.runs] == ["error", "success", "success"]
    newest = listing.runs[1]
    assert (newest.graph, newest.thread_id) == (f"g{(MANY - 1) % 2}", f"t{(MANY - 1) % 7}")
    assert (newest.accepted_at[17:19], newest.changed_at[17:19]) == ("01", "02")
    assert newest.trace_id == f"trace{MANY - 1}"
    assert listing.complete
    assert listing.looked_at <= 1_024

    everything = await overview.recent(mesh.bus, "default", limit=MANY + 1)
    assert len({run.run_id for run in everything.runs}) == len(everything.runs) == MANY
    assert everything.complete
    rare = await overview.recent(mesh.bus, "default", status="interrupted")
    assert ([run.run_id for run in rare.runs], rare.complete) == (["r5"], True)
    given_up = await overview.recent(mesh.bus, "default", status="queued", look_max=2_000)
    assert (given_up.runs, given_up.complete) == ([], False)
    assert given_up.looked_at < 4_000
    narrow = await overview.recent(mesh.bus, "default", graph="g0", thread="t2", limit=MANY)
    wanted = [f"r{i}" for i in reversed(range(MANY)) if i % 2 == 0 and i % 7 == 2]
    assert [run.run_id for run in narrow.runs] == wanted
    assert narrow.looked_at == 2 * len(wanted), "others are not even sent"


async def test_an_empty_stream_has_no_runs_and_a_missing_one_is_told(mesh: LocalMesh):
    listing = await overview.recent(mesh.bus, "default")
    assert (listing.runs, listing.complete, listing.looked_at) == ([], True, 0)
    for read in (
        reading.bounds(mesh.bus, "NOSUCH"),
        anext(reading.read(mesh.bus, "NOSUCH", ">", last=9)),
        reading.seq_since(mesh.bus, "NOSUCH", "2026-01-01T00:00:00Z"),
    ):
        with pytest.raises(MeshError) as caught:
            await read
        assert caught.value.code is ErrorCode.BROKER_UNAVAILABLE


async def test_a_range_of_a_stream_is_read_in_order(mesh: LocalMesh):
    for i in range(1_200):
        await store(mesh, i, accepted(i))
    await mesh.bus.flush()
    pattern = subjects.events("default", "g0")

    async def seqs(first: int, last: int) -> list[int]:
        found = reading.read(mesh.bus, EVENT.name, pattern, first=first, last=last)
        return [message.seq async for message in found]

    assert await seqs(1, 9_999) == list(range(1, 1_201, 2))
    assert await seqs(2, 7) == [3, 5, 7]
    assert await seqs(8, 8) == []
    assert await seqs(9_000, 9_999) == []
    log = EventLog(mesh.bus, "default", graph="g0")
    refusals = subjects.reject("default", "g0")
    await mesh.bus.append(refusals, b"no refusal")
    await mesh.bus.append(
        refusals,
        b'{"type":"run.rejected.v1","submit_seq":1,"code":"c","message":"m","remedy":"r","time":"t"}',
    )
    told = [each.stream_seq async for each in log.stored(1_198, 1_203)]
    assert told == [1_199, 1_202]


def test_a_run_that_begins_anew_has_only_the_tasks_of_its_new_life():
    def task(kind: type[Event], seq: int, name: str, **fields: Any) -> Event:
        return event(kind, 1, seq, task_id=name, node=name, **fields)

    story = Story()
    started = {"graph": "g", "revision": "r"}
    for each in (
        accepted(1),
        event(RunStarted, 1, 2, coordinator="first", **started),
        task(TaskStarted, 3, "lost", superstep=1),
        event(RunStarted, 1, 4, coordinator="second", restarted=True, **started),
        task(TaskWaiting, 5, "a task from before what is kept", reason="nobody"),
        task(TaskStarted, 6, "a", superstep=1),
        task(TaskWaiting, 7, "a", reason="no agent"),
        task(TaskRestarted, 8, "a", attempt=2, delay_ms=1),
        task(TaskEnded, 9, "a", superstep=1, status="ok", attempt=2, execute_ms=5.0),
        task(TaskStarted, 10, "b", superstep=2),
        codec.UnknownEvent(type="new.v1", seq=11, run_id="r1", thread_id="t", time="later"),
    ):
        story.take(each)  # type: ignore[arg-type]
    assert [(t.node, t.status, t.attempts) for t in story.tasks.values()] == [
        ("a", "ok", 2),
        ("b", "running", 1),
    ]
    facts = story.facts
    assert (facts["coordinator"], facts["supersteps"], facts["events"]) == ("second", 2, 11)
    assert (facts["accepted_at"][17:19], facts["started_at"][17:19]) == ("01", "04")
    assert (facts["changed_at"], "ended_at" in facts) == ("later", False)
