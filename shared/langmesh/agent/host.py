"""The generic agent: hosts any nodes of a published graph in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from langmesh.agent.agent import Agent
from langmesh.bus import connect
from langmesh.registry.etcd import Etcd
from langmesh.service import Service, run_service


def serve_nodes(graph: str, nodes: Sequence[str]) -> None:
    """Serve nodes until SIGTERM, each with the graph's own function.

    Args:
        graph: Name of a published graph, or ``module:attribute``.
        nodes: At least one node.
    """
    agents = [Agent(graph=graph, node=node) for node in nodes]

    async def main(service: Service) -> None:
        async with (
            connect(service.settings.nats_url, name=service.instance, wait_s=30) as bus,
            Etcd(service.settings.etcd_endpoints) as etcd,
            contextlib.AsyncExitStack() as stack,
        ):
            for agent in agents:
                await stack.enter_async_context(agent.serving(service, bus, etcd))
            await service.stop.wait()

    run_service(nodes[0] if len(nodes) == 1 else f"{graph.partition(':')[0]}-agent", main)
