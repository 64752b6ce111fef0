"""Agents for graphs that bring no services of their own: one generic host per node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
