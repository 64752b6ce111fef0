"""What a node lends to the runs that it starts: the connection, its trace, its place.

It lies this low because both sides need it: agents set it, and the client API reads it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field

from langmesh.bus.client import Bus


@dataclass(frozen=True, slots=True, kw_only=True)
class Nesting:
    """The task around the caller, as the runs that it starts need it."""

    bus: Bus
    traceparent: str
    """Of the attempt's ``invoke_agent`` span: the parent of what the node starts."""
    tenant: str
    thread: str
    run: str
    idempotency_key: str
    lending: Callable[[], AbstractContextManager[None]]
    """Gives the task's place to another task while the block runs."""
    keeps_children: Callable[[], bool]
    """Whether a cancellation only moves the task to another agent, which joins its child runs."""
    _calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def next_id(self) -> str:
        """An id for the next call: the n-th call of every attempt gets the same one."""
        digest = hashlib.sha256(self.idempotency_key.encode()).hexdigest()[:32]
        return f"sub-{digest}-{next(self._calls)}"


_current: ContextVar[Nesting | None] = ContextVar("langmesh_nesting", default=None)


def current() -> Nesting | None:
    """The task around the caller, if there is one."""
    return _current.get()


def enter(nesting: Nesting) -> None:
    """Set it for this asyncio task and what it starts."""
    _current.set(nesting)
