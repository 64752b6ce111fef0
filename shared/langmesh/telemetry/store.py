"""Spans on disk: one SQLite file, written by one process and readable by others at the same time.

The store is bounded by a number of spans; the traces that arrived first go first, whole, because
half a trace misleads.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from langmesh.telemetry import attributes as names
from langmesh.telemetry.attributes import Kind

SPANS_MAX: Final = 200_000
BUSY_TIMEOUT_S: Final = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS traces (
    seq INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS spans (
    seq INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    instance TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    status_message TEXT NOT NULL,
    attributes TEXT NOT NULL,
    links TEXT NOT NULL,
    events TEXT NOT NULL,
    UNIQUE (trace_id, span_id)
);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    PRIMARY KEY (run_id, trace_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_trace ON runs (trace_id);
"""
_COLUMNS = (
    "trace_id, span_id, parent_id, name, kind, service, instance, start_ns, end_ns, status,"
    " status_message, attributes, links, events"
)


class StoredLink(msgspec.Struct, frozen=True):
    """Another span that this one refers to."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = {}


class StoredEvent(msgspec.Struct, frozen=True):
    """Something that happened at one moment of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any] = {}


class StoredSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it was received."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    parent_id: str = ""
    """16 hex digits, empty for the root."""
    name: str
    kind: Kind = "internal"
    service: str = ""
    """``service.name`` of whoever sent it."""
    instance: str = ""
    """``service.instance.id`` of whoever sent it."""
    start_ns: int
    """Nanoseconds since the Unix epoch."""
    end_ns: int
    status: str = "unset"
    """``unset``, ``ok`` or ``error``."""
    status_message: str = ""
    attributes: dict[str, Any] = {}
    links: list[StoredLink] = []
    events: list[StoredEvent] = []


_decode_links = msgspec.json.Decoder(list[StoredLink]).decode
_decode_events = msgspec.json.Decoder(list[StoredEvent]).decode
_decode_attributes = msgspec.json.Decoder(dict[str, Any]).decode


class SpanReader:
    """Reads a store, also while another process writes it; one that does not exist yet is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trace(self, trace_id: str) -> list[StoredSpan]:
        """The spans of a trace, by start time."""
        return self._read("trace_id = ?", trace_id)

    def trace_of_run(self, run_id: str) -> list[StoredSpan]:
        """The spans of every trace that the run appears in, by start time."""
        return self._read("trace_id IN (SELECT trace_id FROM runs WHERE run_id = ?)", run_id)

    def _read(self, condition: str, value: str) -> list[StoredSpan]:
        if not self.path.exists():
            return []
        # A connection per read: readers may be on any thread, and opening one is cheap.
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            query = f"SELECT {_COLUMNS} FROM spans WHERE {condition} ORDER BY start_ns, seq"  # noqa: S608 - constants
            try:
                rows = connection.execute(query, (value,)).fetchall()
            except sqlite3.OperationalError as exc:
                if "no such table" in str(exc):
                    return []
                raise
        return [_from_row(row) for row in rows]


class SpanStore(SpanReader):
    """Writes a store and reads it; use as a context manager or call `close`.

    Args:
        path: The SQLite file; created with its folder when missing.
        spans_max: How many spans are kept.
    """

    def __init__(self, path: Path, *, spans_max: int = SPANS_MAX) -> None:
        super().__init__(path)
        self._spans_max = spans_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="span-store")
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        # Spans may be lost with the power; the file may not be damaged by it.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)
        (self._count,) = self._connection.execute("SELECT count(*) FROM spans").fetchone()

    async def add(self, spans: Sequence[StoredSpan]) -> None:
        """As `write`, on the store's own thread."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self.write, spans)

    def write(self, spans: Sequence[StoredSpan]) -> None:
        """Store spans in one transaction; a span that is sent again is kept once. Blocks."""
        if not spans:
            return
        with self._lock, self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO traces (trace_id) VALUES (?)",
                [(trace_id,) for trace_id in {span.trace_id: None for span in spans}],
            )
            added = connection.executemany(
                f"INSERT OR IGNORE INTO spans ({_COLUMNS}) VALUES ({', '.join('?' * 14)})",  # noqa: S608 - constants
                [_to_row(span) for span in spans],
            ).rowcount
            runs = {
                (run, span.trace_id) for span in spans if (run := span.attributes.get(names.RUN))
            }
            connection.executemany(
                "INSERT OR IGNORE INTO runs VALUES (?, ?)", [(str(r), t) for r, t in runs]
            )
            count = self._evict(connection, self._count + added)
        self._count = count

    def close(self) -> None:
        """Finish what is queued and close the file."""
        self._writer.shutdown(wait=True)
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _evict(self, connection: sqlite3.Connection, count: int) -> int:
        """Delete what is over the limit and return how many of ``count`` spans are left."""
        while count > self._spans_max:
            oldest = connection.execute(
                "SELECT trace_id FROM traces ORDER BY seq LIMIT 2"
            ).fetchall()
            if len(oldest) < 2:
                # One trace alone is too large: its first spans go.
                connection.execute(
                    "DELETE FROM spans WHERE seq IN (SELECT seq FROM spans ORDER BY seq LIMIT ?)",
                    (count - self._spans_max,),
                )
                return self._spans_max
            trace = oldest[0]
            count -= connection.execute("DELETE FROM spans WHERE trace_id = ?", trace).rowcount
            connection.execute("DELETE FROM runs WHERE trace_id = ?", trace)
            connection.execute("DELETE FROM traces WHERE trace_id = ?", trace)
        return count


def _to_row(span: StoredSpan) -> tuple[str | int, ...]:
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.kind,
        span.service,
        span.instance,
        span.start_ns,
        span.end_ns,
        span.status,
        span.status_message,
        _json(span.attributes),
        _json(span.links),
        _json(span.events),
    )


def _from_row(row: tuple[Any, ...]) -> StoredSpan:
    fields = dict(zip(StoredSpan.__struct_fields__[:11], row[:11], strict=True))
    return StoredSpan(
        **fields,
        attributes=_decode_attributes(row[11]),
        links=_decode_links(row[12]),
        events=_decode_events(row[13]),
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
