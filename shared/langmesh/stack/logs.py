"""The logs of a local stack: many files as one, by time, up to now and from now on.

Services write JSON lines; what servers and dying interpreters write is taken as it is. A line
without a time has that of the line before it in its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.stack.logline import LogLine, parse
from langmesh.wire.names import to_token

_BLOCK: Final = 65_536
_LINE_BYTES_MAX: Final = 1 << 20
"""Without a newline in so many bytes, a line is taken to end."""
_DEBOUNCE_MS: Final = 100
_STEP_MS: Final = 20
_REPLICA: Final = re.compile(r"-\d+\Z")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines to read; all by default."""

    services: Sequence[str] = ()
    """Names of services; a service has as many files as replicas and graphs."""
    level: int = 0
    """Lowest level, as in :mod:`logging`; lines without one are always wanted."""
    run: str = ""
    """Only lines that name this run."""

    def file(self, path: Path) -> bool:
        """Whether a file's lines are wanted."""
        label = path.stem
        name = _REPLICA.sub("", label)
        known = {label, name, name.rpartition(".")[2]}
        return not self.services or any(
            {each, to_token(each, field="service")} & known for each in self.services
        )

    def line(self, line: LogLine) -> bool:
        """Whether a line is wanted."""
        return line.severity >= self.level and (not self.run or line.names(self.run))


class Logs:
    """The log files of a home folder; use it in a ``with`` block.

    Args:
        home: The home folder.
        wanted: Which lines to read.
        follow: Whether :meth:`follow` will be called; if not, a line that is being written counts.

    Raises:
        MeshError: NOT_RUNNING if there are no logs, INVALID_SETTING if a service has none.
    """

    def __init__(self, home: Path, wanted: Wanted, *, follow: bool = False) -> None:
        self._folder = home / "logs"
        self._wanted = wanted
        self._closed = not follow
        self._files: dict[Path, _File] = {}
        paths = self._paths()
        if not paths:
            raise MeshError(
                ErrorCode.NOT_RUNNING,
                f"there are no logs in {self._folder}/",
                remedy="Start a mesh here with `langmesh up`, or name its folder in LANGMESH_HOME.",
            )
        for name in wanted.services:
            if not any(Wanted((name,)).file(path) for path in paths):
                there = ", ".join(path.stem for path in paths)
                raise MeshError(
                    ErrorCode.INVALID_SETTING,
                    f"no service {name!r} has a log here; there are {there}",
                    remedy="Name one of these, or none for all.",
                )

    def __enter__(self) -> Self:
        """Open the files; what they hold now is what :meth:`stored` yields."""
        for path in filter(self._wanted.file, self._paths()):
            with contextlib.suppress(FileNotFoundError):
                self._files[path] = _File(path, closed=self._closed)
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def stored(self, tail: int | None = None) -> Iterator[LogLine]:
        """The lines up to now, or the last of them, oldest first.

        All lines are read one at a time, the last ones from the files' ends.
        """
        files = list(self._files.values())
        if tail is None:
            lines = (filter(self._wanted.line, file.lines()) for file in files)
            return heapq.merge(*lines, key=_time)
        ends = (file.last(tail, self._wanted) for file in files)
        merged = list(heapq.merge(*ends, key=_time))
        return iter(merged[max(len(merged) - tail, 0) :])

    async def follow(self) -> AsyncGenerator[list[LogLine]]:
        """Yield the lines that come after those of :meth:`stored`, as soon as they are written.

        Ends when the folder is deleted.
        """
        # Loaded by whoever follows, and by nothing else.
        from watchfiles import awatch

        notices = awatch(
            self._folder, recursive=False, debounce=_DEBOUNCE_MS, step=_STEP_MS, watch_filter=None
        )
        async with contextlib.aclosing(notices):
            notice = asyncio.ensure_future(anext(notices))
            try:
                # It listens from its first step on; a look after that misses nothing.
                await asyncio.sleep(0)
                while True:
                    lines = await asyncio.to_thread(self._new)
                    if lines:
                        yield lines
                    if not self._folder.is_dir():
                        return
                    await notice
                    notice = asyncio.ensure_future(anext(notices))
            except (StopAsyncIteration, FileNotFoundError):
                return
            finally:
                notice.cancel()
                await asyncio.gather(notice, return_exceptions=True)

    def _new(self) -> list[LogLine]:
        lines: list[LogLine] = []
        there = [path for path in self._paths() if self._wanted.file(path)]
        for path in {*there, *self._files}:
            file = self._files.get(path)
            if file is not None:
                lines += file.new()
            if file is None or file.replaced():
                if file is not None:
                    lines += file.unfinished()
                    self._files.pop(path).close()
                with contextlib.suppress(FileNotFoundError):
                    file = self._files[path] = _File(path, closed=self._closed)
                    lines += file.new()
        return sorted(filter(self._wanted.line, lines), key=_time)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.log"))


class _File:
    """One open log file, which may grow, shrink or be replaced."""

    def __init__(self, path: Path, *, closed: bool) -> None:
        self._path = path
        self._closed = closed
        """Whether what follows the last newline counts as a line."""
        self._file: BinaryIO = path.open("rb")
        self._at = 0
        self._rest = b""
        self._time = ""

    def close(self) -> None:
        self._file.close()

    def lines(self) -> Iterator[LogLine]:
        """All lines up to the end as it is now; what :meth:`new` yields comes after them."""
        end = self._size()
        while self._at < end and (block := self._read(min(_BLOCK, end - self._at))):
            yield from self._split(block)
        if self._closed:
            yield from self.unfinished()

    def new(self) -> list[LogLine]:
        """The lines that were completed since."""
        if self._size() < self._at:
            self._at, self._rest = 0, b""
        return list(self.lines())

    def unfinished(self) -> Iterator[LogLine]:
        """What follows the last newline, as a line."""
        lines, self._rest = [self._rest], b""
        yield from self._dated(self._parsed(lines))

    def last(self, count: int, wanted: Wanted) -> list[LogLine]:
        """The last wanted lines up to the end as it is now; others are read over."""
        end = begin = self._size()
        found: list[LogLine] = []
        rest, ended = b"", self._closed
        while begin > 0 and (len(found) < count or not ended) and len(rest) <= _LINE_BYTES_MAX:
            size = min(_BLOCK, begin)
            begin -= size
            self._file.seek(begin)
            rest, *lines = (self._file.read(size) + rest).split(b"\n")
            if lines and not ended:
                self._rest = lines.pop()
                ended = True
            if begin == 0 and ended:
                lines.insert(0, rest)
            found[:0] = filter(wanted.line, self._parsed(lines))
        if not ended:
            self._rest = rest
        self._at = end
        dated = list(self._dated(found))
        return dated[max(len(dated) - count, 0) :]

    def replaced(self) -> bool:
        """Whether another file, or none, has this one's name."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True

    def _read(self, size: int) -> bytes:
        self._file.seek(self._at)
        block = self._file.read(size)
        self._at += len(block)
        return block

    def _split(self, block: bytes) -> Iterator[LogLine]:
        *complete, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > _LINE_BYTES_MAX:
            complete.append(self._rest)
            self._rest = b""
        yield from self._dated(self._parsed(complete))

    def _parsed(self, lines: Iterable[bytes]) -> Iterator[LogLine]:
        return (parse(self._path.stem, each) for each in lines if each)

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _dated(self, lines: Iterable[LogLine]) -> Iterator[LogLine]:
        for line in lines:
            if line.time:
                self._time = line.time
                yield line
            else:
                yield msgspec.structs.replace(line, time=self._time)


def _time(line: LogLine) -> Any:
    return line.time
