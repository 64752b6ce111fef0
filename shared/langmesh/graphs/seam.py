"""The seam: how the tasks and checkpoints of LangGraph's loop come to the mesh.

All tasks of LangGraph's loop pass ``langgraph.pregel._runner.arun_with_retry``.
:func:`install_seam` replaces it by a function that looks for a dispatcher in the task's config: a
mesh run has one, every other run in the process goes on as before. The same goes for what the loop
saves, which finds a :class:`LoopHook` in its config.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

from langgraph._internal._constants import CONF, CONFIG_KEY_CALL, RETURN
from langgraph.pregel import _executor, _loop, _retry, _runner
from langgraph.pregel._checkpoint import put_writes_accepts_task_path
from langgraph.pregel._loop import AsyncPregelLoop
from langgraph.pregel.protocol import StreamProtocol
from langgraph.types import PregelExecutableTask

from langmesh.graphs import compat

DISPATCH_KEY: Final = "__langmesh_dispatch"
"""Key in ``configurable``; the leading underscores keep it out of checkpoint metadata."""

LOOP_KEY: Final = "__langmesh_loop"
"""Key in ``configurable`` of a ``LoopHook``."""

Caller = Callable[..., asyncio.Future[Any]]
"""LangGraph's own way for a task to call a ``@task`` function."""

Dispatch = Callable[[PregelExecutableTask, Caller | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LoopHook:
    """What a mesh run does with LangGraph's loop."""

    stream: StreamProtocol
    """Gets every chunk at the moment when it comes to be, as (namespace, mode, data)."""
    entered: Callable[[AsyncPregelLoop], None]
    """Called when the loop has taken its input, before its first task and its first save."""
    put: Callable[[str], None]
    """Called with a checkpoint's id when the loop hands it over to be saved, which comes later."""
    save: Callable[..., asyncio.Future[Any] | None]
    """Saves a checkpoint like ``aput``, at once where that waits for nothing; else returns None."""
    save_writes: Callable[..., asyncio.Future[Any] | None]
    """Likewise with a task's writes, like ``aput_writes``."""


_original = _retry.arun_with_retry
_enter = AsyncPregelLoop.__aenter__
_threadsafe: Any = getattr(_executor, "run_coroutine_threadsafe")  # noqa: B009  not exported

_SIGNATURES: compat.Signatures = {
    "_runner.arun_with_retry": (_original, ("task", "retry_policy", "stream", "configurable")),
    "_executor.run_coroutine_threadsafe": (
        _threadsafe,
        ("coro", "loop", "lazy", "name", "context"),
    ),
    "_executor.AsyncBackgroundExecutor.submit": (
        _executor.AsyncBackgroundExecutor.submit,
        (
            "self",
            "fn",
            "args",
            "__name__",
            "__cancel_on_exit__",
            "__reraise_on_exit__",
            "__next_tick__",
            "kwargs",
        ),
    ),
    "_loop.AsyncPregelLoop._checkpointer_put_after_previous": (
        AsyncPregelLoop._checkpointer_put_after_previous,
        (
            "self",
            "prev",
            "delta_write_futs",
            "config",
            "checkpoint",
            "metadata",
            "new_versions",
        ),
    ),
    "_checkpoint.put_writes_accepts_task_path": (put_writes_accepts_task_path, ("put_writes",)),
}


class _AtOnce:
    """What LangGraph hands over to be done in the background, and may be done at once instead.

    Args:
        now: Does it and returns a future of the outcome; None if it has to wait for something.
        later: A coroutine function that does it whatever it takes.
    """

    __slots__ = ("later", "now")

    def __init__(
        self,
        now: Callable[..., asyncio.Future[Any] | None],
        later: Callable[..., Coroutine[Any, Any, Any]],
    ) -> None:
        self.now = now
        self.later = later

    def __call__(self, *args: Any) -> Coroutine[Any, Any, Any]:
        return self.later(*args)


class _Executor(_executor.AsyncBackgroundExecutor):
    """LangGraph's executor, without a task for what is done at once."""

    def submit(self, fn: Any, *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Start something; a failure is raised where the executor ends."""
        if isinstance(fn, _AtOnce) and (future := fn.now(*args)) is not None:
            self.tasks[future] = (False, True)
            future.add_done_callback(self.done)
            return future
        started: asyncio.Future[Any] = super().submit(fn, *args, **options)
        return started


async def _entered(self: AsyncPregelLoop) -> AsyncPregelLoop:
    hook: LoopHook | None = self.config.get(CONF, {}).get(LOOP_KEY)
    if hook is None or self.is_nested:
        return await _enter(self)
    self.stream = hook.stream
    if self.manager is not None and not self.manager.handlers:
        # Child managers of tasks cost more than all else that prepares them.
        self.manager = None
    for config in (self.config, self.checkpoint_config):
        # LangGraph's ChainMap is slow to read, and each task and each checkpoint reads all of it.
        config["metadata"] = dict(config.get("metadata") or {})
    entered = _save_at_once(self, hook)
    await _enter(self)
    hook.entered(self)
    entered()
    return self


def _save_at_once(loop: AsyncPregelLoop, hook: LoopHook) -> Callable[[], None]:
    """Let a loop save through a hook; returns what is to be called when the loop is entered.

    What it saves before that waits, as the hook has not seen the loop yet.
    """
    is_entered = False

    def entered() -> None:
        nonlocal is_entered
        is_entered = True

    def put(
        prev: asyncio.Future[Any] | None, writes: Iterable[asyncio.Future[Any]], *args: Any
    ) -> asyncio.Future[Any] | None:
        hook.put(args[1]["id"])
        before = writes if prev is None else (prev, *writes)
        return hook.save(*args) if is_entered and all(map(_succeeded, before)) else None

    if (later := loop.checkpointer_put_writes) is not None:
        loop.checkpointer_put_writes = _AtOnce(hook.save_writes, later)
    setattr(  # noqa: B010  a method cannot be assigned to
        loop,
        "_checkpointer_put_after_previous",
        _AtOnce(put, loop._checkpointer_put_after_previous),
    )
    return entered


def _succeeded(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


@functools.lru_cache(maxsize=64)
def _accepts_task_path(function: Callable[..., Any]) -> bool:
    return put_writes_accepts_task_path(function)


def _put_writes_accepts_task_path(put_writes: Callable[..., Any]) -> bool:
    """LangGraph asks at each run, and reading a signature takes as long as a superstep's writes."""
    return _accepts_task_path(getattr(put_writes, "__func__", put_writes))


async def _seam(
    task: PregelExecutableTask,
    retry_policy: Sequence[Any] | None,
    stream: bool = False,
    configurable: dict[str, Any] | None = None,
) -> Any:
    dispatch: Dispatch | None = task.config.get(CONF, {}).get(DISPATCH_KEY)
    if dispatch is None or task.name == "__start__":
        return await _original(task, retry_policy, stream=stream, configurable=configurable)
    # Retries, timeouts and the rest of the node's policies apply at the agent.
    await dispatch(task, (configurable or {}).get(CONFIG_KEY_CALL))
    # What the caller of a function waits for; a node's task only writes.
    return next((value for channel, value in task.writes if channel == RETURN), None)


def _in_its_loop(
    coro: Coroutine[Any, Any, Any],
    loop: asyncio.AbstractEventLoop,
    *,
    lazy: bool,
    name: str | None = None,
    context: Context | None = None,
) -> asyncio.Future[Any]:
    """Start a coroutine as LangGraph does; from the loop's own thread, without waking that up."""
    if asyncio._get_running_loop() is loop:
        return loop.create_task(coro, name=name, context=context)
    future: asyncio.Future[Any] = _threadsafe(coro, loop, lazy=lazy, name=name, context=context)
    return future


def install_seam() -> None:
    """Route the tasks of runs that carry a dispatcher through it; idempotent."""
    compat.check(_SIGNATURES)
    setattr(_executor, "run_coroutine_threadsafe", _in_its_loop)  # noqa: B010  not exported either
    setattr(_runner, "arun_with_retry", _seam)  # noqa: B010  the name is imported there, not exported
    setattr(AsyncPregelLoop, "__aenter__", _entered)  # noqa: B010  likewise
    setattr(_loop, "AsyncBackgroundExecutor", _Executor)  # noqa: B010
    setattr(_loop, "put_writes_accepts_task_path", _put_writes_accepts_task_path)  # noqa: B010
