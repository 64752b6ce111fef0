"""What a node can ask about its own task, beyond LangGraph's ``Runtime``."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from langmesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """The task that runs: where it belongs, and a key for calls to the outside."""

    tenant: str
    graph: str
    node: str
    release: str
    thread: str
    run: str
    superstep: int
    task_id: str
    attempt: int
    idempotency_key: str
    """Equal for every attempt of this task: send it to services that honour one."""
    instance: str


_current: ContextVar[TaskInfo | None] = ContextVar("langmesh_task", default=None)


def current() -> TaskInfo:
    """The task in which the caller runs.

    Raises:
        MeshError: NOT_RUNNING outside of a node that an agent executes.
    """
    info = _current.get()
    if info is None:
        raise MeshError(
            ErrorCode.NOT_RUNNING,
            "langmesh.current() was called outside of a node that an agent executes",
            remedy="Call it inside the node's function.",
        )
    return info


def enter(info: TaskInfo) -> None:
    """Set the task of this asyncio task and of what it starts."""
    _current.set(info)
