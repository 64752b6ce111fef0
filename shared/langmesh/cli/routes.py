"""``langmesh routes``: a graph's topology and where its nodes are bound."""

from __future__ import annotations

import argparse
import os

import msgspec

from langmesh.cli.terminal import say, say_json, table
from langmesh.graphs import directory
from langmesh.graphs.topology import mermaid, routes
from langmesh.registry.etcd import Etcd
from langmesh.settings import Settings
from langmesh.stack import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    parser.add_argument("--mermaid", action="store_true", help="draw the topology as Mermaid")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Show the routes of a published graph."""
    mesh = state.find(settings, dict(os.environ))
    async with Etcd(mesh.etcd_endpoints) as etcd:
        topology, bindings = await directory.fetch(etcd, tenant=settings.tenant, graph=args.graph)
    if args.json:
        document = msgspec.to_builtins(topology)
        document["bindings"] = msgspec.to_builtins(bindings.nodes)
        if args.mermaid:
            document["mermaid"] = mermaid(topology)
        say_json(document)
    elif args.mermaid:
        say(mermaid(topology))
    else:
        say(f"{topology.graph}  revision {topology.revision}  from {topology.source}")
        say()
        rows = [
            (node, leads, bindings.nodes[node].subject if node in bindings.nodes else "-")
            for node, leads in routes(topology)
        ]
        for line in table(("NODE", "LEADS TO", "SUBJECT"), rows):
            say(line)
    return 0
