"""The only reads of the wall clock and of entropy, so that tests can replace them."""

from __future__ import annotations

import math
import os
import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

# A call of the system per identifier costs several per cent of a coordinator's time.
_generator: Final = random.Random(secrets.randbits(256))  # noqa: S311  identifiers are no secrets
os.register_at_fork(after_in_child=lambda: _generator.seed(secrets.randbits(256)))


def now_ms() -> int:
    """Wall-clock milliseconds since the Unix epoch; for people and logs, never for order."""
    return time.time_ns() // 1_000_000


def now_iso() -> str:
    """Wall-clock time as RFC 3339 in UTC with microseconds."""
    second, micros = divmod(time.time_ns() // 1_000, 1_000_000)
    return f"{_to_the_second(second)}.{micros:06}Z"


@lru_cache(maxsize=2)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def ago_iso(seconds: float) -> str:
    """The wall-clock time some seconds ago, in the form of :func:`now_iso`."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    return then.isoformat(timespec="microseconds").replace("+00:00", "Z")


def since_s(time: str) -> float:
    """Seconds since a wall-clock time in RFC 3339; infinite for an empty text."""
    if not time:
        return math.inf
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def monotonic() -> float:
    """Seconds on a clock that never goes back; for durations and deadlines."""
    return time.monotonic()


def new_id() -> str:
    """A fresh 128-bit identifier as 32 hex digits; unique, not secret."""
    return f"{_generator.getrandbits(128):032x}"


def new_instance(name: str) -> str:
    """An identifier of one process of the service `name`, e.g. ``researcher-3f9a1c2e``."""
    return f"{name}-{secrets.token_hex(4)}"
