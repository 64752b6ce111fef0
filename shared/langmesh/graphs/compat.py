"""LangGraph's private names, in one place, checked at start-up.

Those of its loop stand in :mod:`langmesh.graphs.seam`. The names below were unchanged from
langgraph 1.2.0 to 1.2.22 except where :func:`check` pins a signature.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

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
)
from langgraph._internal._runnable import RunnableSeq, coerce_to_runnable
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph._internal._typing import MISSING
from langgraph.channels.base import BaseChannel
from langgraph.errors import ParentCommand
from langgraph.func import _TaskFunction as TaskFunction
from langgraph.managed.base import is_managed_value
from langgraph.pregel import Pregel, _retry
from langgraph.pregel._algo import LazyAtomicCounter, PregelTaskWrites, local_read
from langgraph.pregel._call import get_runnable_for_task
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
    "ERROR",
    "INTERRUPT",
    "MISSING",
    "PULL",
    "PUSH",
    "AsyncPregelLoop",
    "BaseChannel",
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
    "managed_of",
    "output_of",
    "reader",
    "run_attempt",
    "scratchpad",
    "serde_allowlist",
    "should_retry",
]

Signatures = Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]
"""What functions have as parameters, by the name that an error tells."""

_SIGNATURES: Signatures = {
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


def check(more: Signatures) -> None:
    """Verify that the private names have the signatures that this module was written against.

    Args:
        more: Those of another module.

    Raises:
        MeshError: LANGGRAPH_INCOMPATIBLE naming the function and both signatures.
    """
    for name, (function, expected) in {**_SIGNATURES, **more}.items():
        found = tuple(inspect.signature(function).parameters)
        if found != expected:
            from importlib.metadata import version

            raise MeshError(
                ErrorCode.LANGGRAPH_INCOMPATIBLE,
                f"langgraph {version('langgraph')}: {name} takes {found}, expected {expected}",
            )


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
