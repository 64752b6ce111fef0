"""An event loop whose time passes only when nothing is left to do at the present moment.

Sixty seconds of silence cost nothing, and what happens in which order hangs on the delays alone.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from langmesh import clock

T = TypeVar("T")
BEGAN_NS = 1_750_000_000 * 10**9
"""The wall clock when the virtual one shows 0."""


class Stalled(Exception):
    """Everything waits for something that nothing will bring about."""


class _Selector(selectors.SelectSelector):
    """Waits for no file: nothing comes from outside."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled
        self.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; each of its tasks belongs to the process that began it."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_task_factory(_make_task)
        self.set_exception_handler(self._note)
        self.faults: list[str] = []
        """Exceptions that nobody caught."""

    def time(self) -> float:
        return self._virtual.now

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if (exc := context.get("exception")) is not None:
            self.faults.append(f"{context['message']}: {exc!r}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise AssertionError(f"{func} would run beside the virtual time")


class Process:
    """Tasks that live and die together."""

    def __init__(self) -> None:
        self.dead = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as a part of the process."""
        token = _process.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            _process.reset(token)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Let a task die with the process."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.dead:
            task.cancel()

    def kill(self) -> None:
        """End all tasks; they must have lost their connections before."""
        self.dead = True
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()

    @property
    def alive(self) -> int:
        """How many tasks have not ended."""
        return len(self._tasks)


_process: ContextVar[Process | None] = ContextVar("process", default=None)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    task = asyncio.Task(work, loop=loop, **options)
    if (process := _process.get()) is not None:
        process.adopt(task)
    return task


@contextmanager
def virtual_time(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Let langmesh read its clocks off the loop and make its identifiers from a seed."""
    module = SimpleNamespace(
        monotonic=loop.time,
        time_ns=lambda: BEGAN_NS + int(loop.time() * 1e9),
        strftime=time.strftime,
        gmtime=time.gmtime,
    )
    clock._generator.seed(seed)
    with mock.patch.object(clock, "time", module):
        yield
