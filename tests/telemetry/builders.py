"""Stored spans with everything that a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from langmesh.telemetry.store import StoredSpan

MS = 1_000_000


def stored(
    span_id: int | str, parent: int | str = "", *, trace: int = 1, **fields: Any
) -> StoredSpan:
    """A span with small numbers for ids; times are milliseconds."""
    begin = fields.pop("start", 0)
    end = fields.pop("end", begin + 1)
    values = {"name": f"span {span_id}", "service": "svc", "instance": "svc-1"} | fields
    return StoredSpan(
        trace_id=f"{trace:032x}",
        span_id=span_id if isinstance(span_id, str) else f"{span_id:016x}",
        parent_id=parent if isinstance(parent, str) else f"{parent:016x}",
        start_ns=begin * MS,
        end_ns=end * MS,
        **values,
    )
