"""Every private name of LangGraph, in one place, checked at start-up.

The seam: all tasks of LangGraph's loop pass ``langgraph.pregel._runner.arun_with_retry``.
:func:`install_seam` replaces it by a function that looks for a dispatcher in the task's config: a
mesh run has one, every other run in the process goes on as before. The names below were unchanged
from langgraph 1.2.0 to 1.2.22 except where :func:`check` pins a signature.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, cast

from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal import _serde
from langgraph._internal._config import recast_checkpoint_ns
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_NODE_ERROR,
    CONFIG_KEY_READ,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_TASK_ID,
    CONFIG_KEY_THREAD_ID,
    ERROR,
    INTERRUPT,
    NS_SEP,
    PULL,
    PUSH,
    RETURN,
)
from langgraph._internal._runnable import RunnableSeq, coerce_to_runnable
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph._internal._typing import MISSING
from langgraph.channels.base import BaseChannel
from langgraph.errors import ParentCommand
from langgraph.func import _TaskFunction as TaskFunction
from langgraph.managed.base import is_managed_value
from langgraph.pregel import Pregel, _executor, _loop, _retry, _runner
from langgraph.pregel._algo import LazyAtomicCounter, PregelTaskWrites, local_read
from langgraph.pregel._call import get_runnable_for_task
from langgraph.pregel._checkpoint import put_writes_accepts_task_path
from langgraph.pregel._io import read_channels
from langgraph.pregel._loop import AsyncPregelLoop
from langgraph.pregel._messages import StreamMessagesHandler
from langgraph.pregel._read import PregelNode
from langgraph.pregel.protocol import StreamProtocol
from langgraph.types import PregelExecutableTask, interrupt
from langsmith.utils import tracing_is_enabled

from langmesh.errors import ErrorCode, MeshError

__all__ = [
    "CONF",
    "CONFIG_KEY_CHECKPOINTER",
    "CONFIG_KEY_CHECKPOINT_ID",
    "CONFIG_KEY_CHECKPOINT_MAP",
    "CONFIG_KEY_CHECKPOINT_NS",
    "CONFIG_KEY_NODE_ERROR",
    "CONFIG_KEY_READ",
    "CONFIG_KEY_RUNTIME",
    "CONFIG_KEY_SCRATCHPAD",
    "CONFIG_KEY_SEND",
    "CONFIG_KEY_TASK_ID",
    "CONFIG_KEY_THREAD_ID",
    "DISPATCH_KEY",
    "ERROR",
    "INTERRUPT",
    "LOOP_KEY",
    "MISSING",
    "PULL",
    "PUSH",
    "AsyncPregelLoop",
    "BaseChannel",
    "Caller",
    "Dispatch",
    "LoopHook",
    "PregelExecutableTask",
    "PregelNode",
    "RunnableSeq",
    "StreamMessagesHandler",
    "StreamProtocol",
    "TaskFunction",
    "calls",
    "channels_of",
    "check",
    "get_runnable_for_task",
    "install_seam",
    "managed_of",
    "output_of",
    "reader",
    "run_attempt",
    "scratchpad",
    "serde_allowlist",
    "should_retry",
]

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

_SIGNATURES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
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
    "_retry._arun_with_timeout": (
        _retry._arun_with_timeout,
        ("task", "config", "timeout", "attempt_ctx", "stream"),
    ),
    "_retry._should_retry_on": (_retry._should_retry_on, ("retry_policy", "exc")),
    "_algo.local_read": (
        local_read,
        ("scratchpad", "channels", "managed", "task", "select", "fresh"),
    ),
    "_io.read_channels": (read_channels, ("channels", "select", "skip_empty")),
    "_scratchpad.PregelScratchpad": (
        PregelScratchpad,
        (
            "step",
            "stop",
            "call_counter",
            "interrupt_counter",
            "get_null_resume",
            "resume",
            "subgraph_counter",
        ),
    ),
}


def check() -> None:
    """Verify that the private names have the signatures that this module was written against.

    Raises:
        MeshError: LANGGRAPH_INCOMPATIBLE naming the function and both signatures.
    """
    for name, (function, expected) in _SIGNATURES.items():
        found = tuple(inspect.signature(function).parameters)
        if found != expected:
            from importlib.metadata import version

            raise MeshError(
                ErrorCode.LANGGRAPH_INCOMPATIBLE,
                f"langgraph {version('langgraph')}: {name} takes {found}, expected {expected}",
            )


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
    check()
    setattr(_executor, "run_coroutine_threadsafe", _in_its_loop)  # noqa: B010  not exported either
    setattr(_runner, "arun_with_retry", _seam)  # noqa: B010  the name is imported there, not exported
    setattr(AsyncPregelLoop, "__aenter__", _entered)  # noqa: B010  likewise
    setattr(_loop, "AsyncBackgroundExecutor", _Executor)  # noqa: B010
    setattr(_loop, "put_writes_accepts_task_path", _put_writes_accepts_task_path)  # noqa: B010


def output_of(loop: AsyncPregelLoop, channels: str | Sequence[str]) -> Any:
    """What the loop's graph returns as the state stands."""
    return read_channels(loop.channels, channels)


def is_listened_to() -> bool:
    """Whether LangSmith records every run of this process."""
    return bool(tracing_is_enabled())


async def _invoke(task: PregelExecutableTask, *, lean: bool) -> None:
    """Run a node and its writers.

    LangGraph's own sequence asks LangChain for a callback manager, a run and a child config at
    every node, which costs more than all else that a short node does. Where nobody listens
    (``lean``), its steps are called one after the other.
    """
    sequence = task.proc
    if not lean or not isinstance(sequence, RunnableSeq):
        await sequence.ainvoke(task.input, task.config)
        return
    # The caller's asyncio task belongs to this LangGraph task alone, so nothing needs to be reset.
    var_child_runnable_config.set(task.config)
    value = task.input
    for step in sequence.steps:
        value = await step.ainvoke(value, task.config)


async def run_attempt(task: PregelExecutableTask, *, lean: bool = False) -> None:
    """Run a task once, with its timeout but without its retries; writes end up in ``task.writes``.

    Call it in an asyncio task of its own.

    What LangGraph's ``arun_with_retry`` does for one attempt, except that the attempt's number
    comes from the coordinator.
    """
    config = task.config
    try:
        task.writes.clear()
        if task.timeout is None:
            await _invoke(task, lean=lean)
        else:
            await _retry._arun_with_timeout(
                task, config, _retry._resolve_timeout(task.timeout), None, stream=False
            )
    except ParentCommand as exc:
        namespace: str = config[CONF][CONFIG_KEY_CHECKPOINT_NS]
        command = exc.args[0]
        if command.graph not in (namespace, recast_checkpoint_ns(namespace), task.name):
            raise
        for writer in task.writers:
            writer.invoke(command, config)


def answers_of(task: PregelExecutableTask) -> list[Any]:
    """What humans answered to a task's questions so far, oldest first."""
    pad: PregelScratchpad = task.config[CONF][CONFIG_KEY_SCRATCHPAD]
    answer = pad.get_null_resume(False)
    return [*pad.resume, *([] if answer is None else [answer])]


def ask(task: PregelExecutableTask, *questions: Any) -> None:
    """Ask for a task whose node ran elsewhere: first for every answer that it has, then anew.

    Raises:
        GraphInterrupt: The first question that has no answer.
    """
    token = var_child_runnable_config.set(task.config)
    try:
        for question in (*answers_of(task), *questions):
            interrupt(question)
    finally:
        var_child_runnable_config.reset(token)


async def run_writers(task: PregelExecutableTask, returned: Any) -> None:
    """Write what a node returned: to its channels, and where its branches lead."""
    for writer in task.writers:
        await writer.ainvoke(returned, task.config)


def should_retry(policy: Any, exc: Exception) -> bool:
    """Whether a retry policy covers an exception."""
    return bool(_retry._should_retry_on(policy, exc))


def scratchpad(step: int, stop: int, resume: list[Any], null_resume: list[Any]) -> PregelScratchpad:
    """Rebuild a scratchpad; an answer that the task consumes leaves ``null_resume`` empty."""

    def get_null_resume(consume: bool = False) -> Any:
        if not null_resume:
            return None
        return null_resume.pop() if consume else null_resume[0]

    return PregelScratchpad(
        step=step,
        stop=stop,
        call_counter=LazyAtomicCounter(),
        interrupt_counter=LazyAtomicCounter(),
        resume=resume,
        get_null_resume=get_null_resume,
        subgraph_counter=LazyAtomicCounter(),
    )


def reader(
    pad: PregelScratchpad,
    channels: Mapping[str, BaseChannel[Any, Any, Any]],
    managed: Mapping[str, Any],
    path: tuple[Any, ...],
    name: str,
    writes: deque[tuple[str, Any]],
    triggers: Sequence[str],
) -> Callable[..., Any]:
    """What a node's branches call to read the state with the node's own writes applied."""
    from functools import partial

    task = PregelTaskWrites(path, name, writes, triggers)
    return partial(local_read, pad, channels, cast("Any", managed), task)


def channels_of(task: PregelExecutableTask) -> Mapping[str, BaseChannel[Any, Any, Any]]:
    """The state channels behind a task's reader."""
    return cast(
        "Mapping[str, BaseChannel[Any, Any, Any]]", task.config[CONF][CONFIG_KEY_READ].args[1]
    )


def channel(
    graph: Pregel[Any, Any, Any, Any], name: str, checkpoint: Any
) -> BaseChannel[Any, Any, Any]:
    """A state channel rebuilt from its checkpoint; an empty one from ``MISSING``."""
    spec = cast("BaseChannel[Any, Any, Any]", graph.channels[name])
    return spec.from_checkpoint(checkpoint)


def managed_of(graph: Pregel[Any, Any, Any, Any]) -> dict[str, Any]:
    """The managed values (``IsLastStep``, ``RemainingSteps``) of a graph."""
    return {name: item for name, item in graph.channels.items() if is_managed_value(item)}


def serde_allowlist(schemas: list[type[Any]], channels: dict[str, Any]) -> set[tuple[str, ...]]:
    """The types that a graph's values may have beyond LangGraph's own safe list."""
    return _serde.build_serde_allowlist(schemas=schemas, channels=channels)


def calls(call: Callable[..., Any]) -> dict[str, Any]:
    """Config entries of a task at an agent: how it calls ``@task`` functions, and no saver."""
    return {CONFIG_KEY_CALL: call, CONFIG_KEY_CHECKPOINTER: None}


def namespace_of(checkpoint_ns: str) -> list[str]:
    """The graph's namespace as streams show it: the task's own segment left out."""
    return checkpoint_ns.split(NS_SEP)[:-1]


def with_body(node: PregelNode, name: str, body: Callable[..., Any]) -> PregelNode:
    """The same node with another function as its body; schema, branches and policies stay."""
    return node.copy({"bound": coerce_to_runnable(body, name=name, trace=False)})
