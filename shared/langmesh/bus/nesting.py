"""What a node lends to the runs that it starts: the connection, its trace, its place.

It lies this low because both sides need it: agents set it, and the client API reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import msgspec

from langmesh.bus.client import Bus
from langmesh.errors import MeshError
from langmesh.wire import subjects

_CANCEL_S: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Nesting:
    """The task around the caller, as the runs that it starts need it."""

    bus: Bus
    loop: asyncio.AbstractEventLoop
    """Of the bus: a node may run in a thread."""
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
    children: set[tuple[str, str]] = field(default_factory=set)
    """Tenant and id of the runs that the attempt started and that are not known to be over."""
    _calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: int = 0
    _lent: AbstractContextManager[None] | None = None

    def next_id(self) -> str:
        """An id for the next call: the n-th call of every attempt gets the same one."""
        digest = hashlib.sha256(self.idempotency_key.encode()).hexdigest()[:32]
        return f"sub-{digest}-{next(self._calls)}"

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Lend the task's place while the node waits for one run or more."""
        self._waiting += 1
        if self._waiting == 1:
            self._lent = self.lending()
            self._lent.__enter__()
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and self._lent is not None:
                self._lent.__exit__(None, None, None)

    async def call_off(self) -> None:
        """Cancel the children that are not over, as the attempt ended without a result."""
        async with asyncio.TaskGroup() as group:
            for tenant, run_id in self.children:
                group.create_task(cancel_run(self.bus, tenant, run_id))


async def cancel_run(bus: Bus, tenant: str, run_id: str) -> None:
    """Ask for the end of a run whose caller does not wait for it; gives up after some seconds."""
    body = msgspec.json.encode({"run_id": run_id})
    with contextlib.suppress(MeshError):
        await bus.request(subjects.rpc(tenant, "run.cancel"), body, timeout_s=_CANCEL_S)


_current: ContextVar[Nesting | None] = ContextVar("langmesh_nesting", default=None)


def current() -> Nesting | None:
    """The task around the caller, if there is one."""
    return _current.get()


def enter(nesting: Nesting) -> None:
    """Set it for this asyncio task and what it starts."""
    _current.set(nesting)
