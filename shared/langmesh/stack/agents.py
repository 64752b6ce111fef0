"""Agents for graphs that bring no services of their own: one generic host per node."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from langmesh.errors import MeshError
from langmesh.graphs import directory
from langmesh.graphs.topology import Topology
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import Bindings, decode_bindings
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.supervisor import Stack

_LISTED_S: Final = 30.0


async def start_agents(
    stack: Stack, settings: Settings, graphs: Sequence[str]
) -> list[ServiceSpec]:
    """Start an agent for every node of the graphs that the coordinator published."""
    wanted = set(graphs)
    async with (
        Etcd(stack.state.etcd_endpoints) as etcd,
        View(etcd, keys.graphs(settings.tenant), _decode) as view,
    ):
        await view.wait_for(lambda items: wanted <= _current(items).keys(), timeout_s=30)
        found = _current(view.items)
    specs = spec.agents({graph: found[graph].nodes for graph in graphs})
    for item in specs:
        stack.start(item)
    return specs


async def serve_published(
    stack: Stack,
    settings: Settings,
    *,
    without: AbstractSet[str],
    report: Callable[[ServiceSpec, MeshError | None], None],
) -> None:
    """Start an agent for every node of what is published from now on, until cancelled.

    Args:
        stack: A stack that is ready.
        settings: Its settings.
        without: Graphs that have their agents from elsewhere.
        report: Told of each agent that was started, and why one cannot be kept running.
    """
    async with (
        Etcd(stack.state.etcd_endpoints) as etcd,
        View(etcd, keys.graphs(settings.tenant), _decode) as view,
    ):
        await view.wait_ready(_LISTED_S)
        before = view.revision
        served: set[tuple[str, str]] = set()
        changed = asyncio.Event()
        view.subscribe(changed.set)
        while True:
            await changed.wait()
            changed.clear()
            for graph, topology in _current(view.items).items():
                key = keys.bindings(settings.tenant, graph).removeprefix(
                    keys.graphs(settings.tenant)
                )
                if graph in without or view.written(key) <= before:
                    continue
                for node in topology.nodes:
                    if (graph, node) not in served:
                        served.add((graph, node))
                        item = spec.agent(graph, node)
                        stack.start(item, on_failure=functools.partial(report, item))
                        report(item, None)


def _decode(key: str, document: bytes) -> Topology | Bindings | None:
    if key.endswith("/bindings"):
        return decode_bindings(document)
    return directory.decode_topology(document) if "/routes/" in key else None


def _current(items: Mapping[str, Topology | Bindings | None]) -> dict[str, Topology]:
    """The topologies that new runs take, by their graphs."""
    current = {item.revision for item in items.values() if isinstance(item, Bindings)}
    return {
        item.graph: item
        for item in items.values()
        if isinstance(item, Topology) and item.revision in current
    }
