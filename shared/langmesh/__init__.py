"""langmesh: ordinary LangGraph graphs as an event-driven mesh of microservices over NATS.

Modules, lowest first; arrows only point down (see docs/architecture.md):
``errors clock settings`` → ``wire`` → ``telemetry`` → ``bus | registry | embedded`` → ``service`` →
``log`` → ``checkpoint | store`` → ``graphs`` → ``agent | coordinator | client`` → ``stack`` →
``testing | bench`` → ``cli``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# gRPC's fork handlers kill children of an event loop that has a channel open, unless this is set
# before gRPC is imported for the first time. Services are started by exec, which needs no handler.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:
    from langmesh.agent import Agent
    from langmesh.agent.context import current
    from langmesh.client.mesh_graph import MeshGraph, Run, RunFailed
    from langmesh.client.sync import SyncMeshGraph, SyncRun
    from langmesh.graphs.lazy import lazy
    from langmesh.store import NatsStore

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "MeshGraph",
    "NatsStore",
    "Run",
    "RunFailed",
    "SyncMeshGraph",
    "SyncRun",
    "__version__",
    "current",
    "lazy",
]

_HOMES = {
    "Agent": "langmesh.agent",
    "current": "langmesh.agent.context",
    "MeshGraph": "langmesh.client.mesh_graph",
    "NatsStore": "langmesh.store",
    "Run": "langmesh.client.mesh_graph",
    "RunFailed": "langmesh.client.mesh_graph",
    "SyncMeshGraph": "langmesh.client.sync",
    "SyncRun": "langmesh.client.sync",
    "lazy": "langmesh.graphs.lazy",
}


def __getattr__(name: str) -> object:
    """Import the public names on first use: the command line must not pay for LangGraph."""
    from importlib import import_module

    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
