"""Agents for graphs that bring no services of their own: one generic host per node."""

from __future__ import annotations

from collections.abc import Sequence

from langmesh.graphs import directory
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.supervisor import Stack


async def start_agents(
    stack: Stack, etcd: Etcd, settings: Settings, sources: Sequence[str]
) -> list[ServiceSpec]:
    """Start an agent for every node of the graphs that the coordinator published."""
    specs: list[ServiceSpec] = []
    prefix = keys.graphs(settings.tenant)
    async with View(etcd, prefix, lambda _, document: document) as view:
        await view.wait_for(
            lambda items: sum(key.endswith("/bindings") for key in items) >= len(sources),
            timeout_s=30,
        )
    for graph in await directory.published(etcd, tenant=settings.tenant):
        topology, _ = await directory.fetch(etcd, tenant=settings.tenant, graph=graph)
        if topology.source in sources:
            specs += [spec.agent(graph, node) for node in topology.nodes]
    for item in specs:
        stack.start(item)
    return specs
