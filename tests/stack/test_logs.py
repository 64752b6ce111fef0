"""Many log files as one: by time, filtered, and followed through all that happens to files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.stack import logs
from langmesh.stack.logline import LogLine, parse
from langmesh.stack.logs import Logs, Wanted

WITHIN_S = 30


def line(second: int, message: str, level: str = "INFO", **fields: str) -> str:
    time = f"2026-01-01T00:00:{second:02}.000000Z"
    return json.dumps({"timestamp": time, "level": level, "message": message, **fields}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def write(folder: Path, name: str, *texts: str) -> None:
    with (folder / f"{name}.log").open("a") as file:
        file.write("".join(texts))


def stored(folder: Path, tail: int | None = None, **wanted: object) -> list[str]:
    with Logs(folder.parent, Wanted(**wanted)) as opened:  # type: ignore[arg-type]
        return [each.message for each in opened.stored(tail)]


def test_files_are_merged_by_time_and_lines_without_one_stay_where_they_are(folder: Path):
    write(folder, "a", line(1, "a1"), "Traceback of a\n", line(5, "a5"))
    write(folder, "b", line(2, "b2"), line(4, "b4"), "no newline at the end")
    everything = ["a1", "Traceback of a", "b2", "b4", "no newline at the end", "a5"]
    assert stored(folder) == everything
    for tail in range(1, 8):
        assert stored(folder, tail) == everything[-tail:]
    assert stored(folder, 0) == []


def test_the_last_lines_are_those_of_the_whole_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the blocks that a file is read in from its end cut through."""
    write(
        folder, "a", *(line(i, f"m{i} {'x' * i}", "ERROR" if i % 7 else "INFO") for i in range(60))
    )
    everything, errors = stored(folder), stored(folder, level=logging.ERROR)
    assert len(errors) < len(everything) == 60
    for block in (1, 2, 79, 80, 81, 1000):
        monkeypatch.setattr(logs, "_BLOCK", block)
        assert stored(folder, 10) == everything[-10:]
        assert stored(folder, 10, level=logging.ERROR) == errors[-10:]
        assert stored(folder) == everything


def test_services_levels_and_runs_are_told_apart(folder: Path):
    write(folder, "researcher-1", line(1, "one", run_id="run-1"), line(2, "of run-1: two", "ERROR"))
    write(folder, "researcher-2", line(3, "three", "WARNING", run_id="run-10"))
    write(folder, "shop.writer", line(4, "four", "DEBUG"), "five\n")
    assert stored(folder, services=("researcher",)) == ["one", "of run-1: two", "three"]
    assert stored(folder, services=("researcher-2", "writer")) == ["three", "four", "five"]
    assert stored(folder, level=logging.WARNING) == ["of run-1: two", "three", "five"]
    assert stored(folder, run="run-1") == ["one", "of run-1: two"]
    with pytest.raises(MeshError, match=r"researcher-1, researcher-2, shop\.writer") as caught:
        stored(folder, services=("nobody",))
    assert caught.value.code is ErrorCode.INVALID_SETTING


def test_without_logs_there_is_a_way_out(folder: Path):
    with pytest.raises(MeshError, match="no logs") as caught:
        stored(folder)
    assert caught.value.code is ErrorCode.NOT_RUNNING
    assert "langmesh up" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "time", "level", "message"),
    [
        (
            '{"level":"warn","ts":"2026-01-01T00:00:01.5Z","msg":"slow"}',
            "2026-01-01T00:00:01.5Z",
            "WARNING",
            "slow",
        ),
        (
            '{"level":"info","ts":"2026-01-01T02:00:01.500+0200","msg":"x"}',
            "2026-01-01T00:00:01.500000Z",
            "INFO",
            "x",
        ),
        ('{"pid": 7}', "", "", '{"pid": 7}'),
        ('{"broken', "", "", '{"broken'),
        ('{"ts": "yesterday"}', "", "", '{"ts": "yesterday"}'),
        ("plain \ufffd", "", "", "plain \ufffd"),
    ],
)
def test_what_others_write_is_read_as_far_as_it_can_be(
    text: str, time: str, level: str, message: str
):
    found = parse("etcd", text.replace("\ufffd", "\udcff").encode(errors="surrogateescape"))
    assert (found.time, found.level, found.message) == (time, level, message)
    document = found.document()
    assert document["service"] == "etcd"
    assert document["message"] == message


def test_nats_servers_lines_have_a_time_and_a_level():
    text = "[17] 2026/01/01 00:00:01.500000 [WRN] careful"
    found = parse("nats-server", text.encode())
    assert (found.level, found.message) == ("WARNING", text)
    assert found.time.endswith(":01.500000Z")


@contextlib.asynccontextmanager
async def following(folder: Path, tail: int | None = 0) -> AsyncIterator[AsyncIterator[LogLine]]:
    async def lines(opened: Logs) -> AsyncIterator[LogLine]:
        async with contextlib.aclosing(opened.follow()) as found:
            async for some in found:
                for each in some:
                    yield each

    with Logs(folder.parent, Wanted(), follow=True) as opened:
        list(opened.stored(tail))
        async with asyncio.timeout(WITHIN_S), contextlib.aclosing(lines(opened)) as found:
            yield found


async def test_what_is_written_next_follows_without_a_gap(folder: Path):
    write(folder, "a", line(1, "old"), line(2, "half")[:20])
    for tail in (0, 5, None):
        async with following(folder, tail) as found:
            write(folder, "a", line(2, "half")[20:])
            assert (await anext(found)).message == "half"
            write(folder, "a", line(3, "next"), line(4, "half")[:20])
            assert (await anext(found)).message == "next"
            write(folder, "new", line(5, "of a new file"))
            assert (await anext(found)).message == "of a new file"
        write(folder, "a", line(4, "half")[20:], line(2, "half")[:20])


async def test_files_may_be_truncated_and_replaced(folder: Path):
    write(folder, "a", *(line(1, f"old {i}") for i in range(9)))
    path = folder / "a.log"
    async with following(folder) as found:
        path.write_text("")
        write(folder, "a", line(2, "after truncation"))
        assert (await anext(found)).message == "after truncation"
        write(folder, "a", line(3, "last words"), "no newline")
        (folder / "a.log.new").write_text(line(4, "first words"))
        os.replace(folder / "a.log.new", path)
        told = [(await anext(found)).message for _ in range(3)]
        assert told == ["last words", "no newline", "first words"]
        path.unlink()
        write(folder, "b", line(5, "meanwhile"))
        assert (await anext(found)).message == "meanwhile"
        write(folder, "a", line(6, "again"))
        assert (await anext(found)).message == "again"


async def test_it_ends_with_the_folder(folder: Path):
    write(folder, "a", line(1, "old"))
    async with following(folder) as found:
        write(folder, "a", line(2, "new"))
        assert (await anext(found)).message == "new"
        (folder / "a.log").unlink()
        folder.rmdir()
        assert [each async for each in found] == []
