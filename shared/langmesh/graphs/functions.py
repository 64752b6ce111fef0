"""``@task`` functions that nodes call: how LangGraph makes tasks of calls, and who finds them."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from langgraph.types import PregelExecutableTask

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat, seam


class Called:
    """Stands in the coordinator for a ``@task`` function that only agents import.

    Args:
        function: Where agents find it, ``module:name``.
        name: What LangGraph calls it.
        node: The node whose agents execute it.
        invocation: Tells its attempts from those of a call by another attempt of its caller.
        caller: Id of the task that calls it.
        returned: Whether it is known to have returned, so that only its result is looked up.
    """

    def __init__(
        self,
        function: str,
        name: str,
        *,
        node: str,
        invocation: str,
        caller: str,
        returned: bool = False,
    ) -> None:
        self.function = function
        self.returned = returned
        self.caller = caller
        self.node = node
        self.invocation = invocation
        self.__name__ = name

    async def __call__(self, *_: Any, **__: Any) -> Any:
        """Is not called: LangGraph only asks what it is."""
        raise AssertionError(f"{self.function} is executed by agents")


class _Indexes(deque[int]):
    """Gives the calls of a task the places that its agent counted."""

    def __call__(self) -> int:
        return self.popleft()


def begin_call(
    task: PregelExecutableTask, caller: seam.Caller, called: Called, given: Any, index: int
) -> asyncio.Future[Any]:
    """Let a task call a function; a call of the same place is the same task.

    Args:
        task: The caller.
        caller: What LangGraph gave it to call with.
        called: The function.
        given: Its arguments, (args, kwargs).
        index: The how manieth call of the task it is, from 0.
    """
    pad = task.config[compat.CONF][compat.CONFIG_KEY_SCRATCHPAD]
    if not isinstance(pad.call_counter, _Indexes):
        object.__setattr__(pad, "call_counter", _Indexes())
    pad.call_counter.append(index)
    return caller(called, given, retry_policy=None, cache_policy=None, callbacks=None, timeout=None)


def called_of(task: PregelExecutableTask) -> Called | None:
    """The function that a task is a call of; None for a node's task."""
    steps = task.proc.steps if isinstance(task.proc, compat.RunnableSeq) else ()
    function = getattr(steps[0], "afunc", None) if steps else None
    return function if isinstance(function, Called) else None


def task_function(name: str) -> Any:
    """The ``@task`` function of a name, ``module:name``, with its policies.

    Raises:
        MeshError: GRAPH_NOT_SUPPORTED; only what is decorated, at the top of a module, and imported
            in this process is found.
    """
    module, _, attribute = name.partition(":")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, compat.TaskFunction):
        raise MeshError(
            ErrorCode.GRAPH_NOT_SUPPORTED,
            f"there is no @task function {name!r} at the top of a module that every agent imports",
            remedy="Define it in the module of the graph, or of the node's body.",
        )
    return found


def name_of_task_function(function: Callable[..., Any]) -> str:
    """Where agents find a ``@task`` function, ``module:name``.

    Raises:
        MeshError: GRAPH_NOT_SUPPORTED; others would find another one or none.
    """
    name = f"{function.__module__}:{getattr(function, '__qualname__', '')}"
    if task_function(name).func is not function:
        raise MeshError(ErrorCode.GRAPH_NOT_SUPPORTED, f"{name} is another function by now")
    return name


def runnable_of(function: Any) -> Any:
    """What LangGraph runs for a ``@task`` function."""
    return compat.get_runnable_for_task(function.func)
