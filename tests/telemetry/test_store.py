"""The span store: what goes in comes out, it stays bounded, and others read while it is written."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from langmesh.telemetry.attributes import RUN
from langmesh.telemetry.store import SpanReader, SpanStore, StoredEvent, StoredLink
from tests.telemetry.builders import stored


def test_a_span_comes_back_equal(store):
    span = stored(
        1,
        kind="consumer",
        status="error",
        status_message="größer \n",
        attributes={RUN: "r1", "n": 1 << 53, "f": 0.5, "b": True, "l": ["a", None], "m": {"k": 1}},
        links=[StoredLink("a" * 32, "b" * 16, {"why": "join"})],
        events=[StoredEvent("e", 5, {"k": "v"})],
    )
    store.write([span])
    assert store.trace(span.trace_id) == [span]
    assert store.trace_of_run("r1") == [span]


def test_a_run_finds_the_whole_trace_and_only_that(store):
    inside = [stored(1, attributes={RUN: "r1"}), stored(2, 1, start=3)]
    store.write([*reversed(inside), stored(3, trace=2, attributes={RUN: "r2"})])
    assert store.trace_of_run("r1") == inside
    assert store.trace_of_run("unknown") == []
    assert store.trace("0" * 32) == []


def test_a_batch_that_is_sent_again_is_kept_once(tmp_path):
    batch = [stored(1), stored(2, 1, start=1)]
    with SpanStore(tmp_path / "s.db", spans_max=3) as store:
        store.write(batch)
        store.write(batch)
        store.write([stored(3, trace=2)])
        assert store.trace(batch[0].trace_id) == batch
        assert len(store.trace(f"{2:032x}")) == 1


def test_the_oldest_traces_go_first_and_whole(tmp_path):
    with SpanStore(tmp_path / "s.db", spans_max=10) as store:
        for trace in range(1, 8):
            store.write(
                [stored(i, trace=trace, attributes={RUN: f"r{trace}"}) for i in range(1, 4)]
            )
        kept = [len(store.trace(f"{trace:032x}")) for trace in range(1, 8)]
        assert kept == [0, 0, 0, 0, 3, 3, 3]
        assert store.trace_of_run("r1") == []
        assert len(store.trace_of_run("r7")) == 3


def test_one_endless_trace_is_bounded_too(tmp_path):
    with SpanStore(tmp_path / "s.db", spans_max=10) as store:
        for i in range(1, 31):
            store.write([stored(i, start=i)])
        assert [s.span_id for s in store.trace(f"{1:032x}")] == [f"{i:016x}" for i in range(21, 31)]


def test_the_bound_holds_after_a_restart(tmp_path):
    for trace in (1, 2):
        with SpanStore(tmp_path / "s.db", spans_max=4) as store:
            store.write([stored(i, trace=trace) for i in range(1, 4)])
    reader = SpanReader(tmp_path / "s.db")
    assert [len(reader.trace(f"{trace:032x}")) for trace in (1, 2)] == [0, 3]


def test_a_store_that_does_not_exist_yet_is_empty(tmp_path):
    reader = SpanReader(tmp_path / "none.db")
    assert reader.trace_of_run("r") == []
    (tmp_path / "none.db").touch()
    assert reader.trace_of_run("r") == []


async def test_another_process_reads_while_this_one_writes(store):
    """The reader must see whole batches of 10 only, growing, and never an error or a lock."""
    reader_code = f"""
import pathlib, sys
from langmesh.telemetry.store import SpanReader
reader = SpanReader(pathlib.Path({str(store.path)!r}))
seen = [0]
print("ready", flush=True)
while seen[-1] < 1000:
    count = len(reader.trace({"0" * 31 + "1"!r}))
    assert count % 10 == 0 and count >= seen[-1], (count, seen[-1])
    if count != seen[-1]:
        seen.append(count)
print(len(seen))
"""
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", reader_code, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert await reader.stdout.readline() == b"ready\n"
    for batch in range(100):
        await store.add([stored(batch * 10 + i + 1) for i in range(10)])
    out, err = await asyncio.wait_for(reader.communicate(), 60)
    assert (reader.returncode, err) == (0, b"")
    assert int(out) >= 2


async def test_concurrent_writers_lose_nothing(store):
    await asyncio.gather(*(store.add([stored(i, trace=i)]) for i in range(1, 101)))
    assert all(len(store.trace(f"{i:032x}")) == 1 for i in range(1, 101))


async def test_spans_without_any_are_no_write(store):
    await store.add([])
