"""What a node can ask about its own task, beyond LangGraph's ``Runtime``."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from langmesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """The hot configuration that was in force when the attempt began."""

    revision: int = 0
    """The registry's revision of the newest document; 0 if there is none."""
    model: str = ""
    """Chat model, as ``init_chat_model`` takes it: the policy's, else ``LANGMESH_MODEL``."""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What operators set with ``langmesh config set NODE.settings.NAME=VALUE``; read-only."""


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
    config: NodeConfig = field(default_factory=NodeConfig)
    """Hot configuration of the node; the next attempt may see another."""


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


def read_only(value: Any) -> Any:
    """A view of JSON that its readers cannot change for each other: lists become tuples."""
    if isinstance(value, dict):
        return MappingProxyType({name: read_only(each) for name, each in value.items()})
    return tuple(map(read_only, value)) if isinstance(value, list) else value


def enter(info: TaskInfo) -> None:
    """Set the task of this asyncio task and of what it starts."""
    _current.set(info)
