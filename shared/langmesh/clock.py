"""The only reads of the wall clock and of entropy, so that tests can replace them."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta


def now_ms() -> int:
    """Wall-clock milliseconds since the Unix epoch; for people and logs, never for order."""
    return time.time_ns() // 1_000_000


def now_iso() -> str:
    """Wall-clock time as RFC 3339 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ago_iso(seconds: float) -> str:
    """The wall-clock time some seconds ago, in the form of :func:`now_iso`."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    return then.isoformat(timespec="microseconds").replace("+00:00", "Z")


def monotonic() -> float:
    """Seconds on a clock that never goes back; for durations and deadlines."""
    return time.monotonic()


def new_id() -> str:
    """A fresh 128-bit identifier as 32 hex digits."""
    return secrets.token_hex(16)


def new_instance(name: str) -> str:
    """An identifier of one process of the service `name`, e.g. ``researcher-3f9a1c2e``."""
    return f"{name}-{secrets.token_hex(4)}"
