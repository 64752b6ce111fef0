"""``langmesh status``: servers and services."""

from __future__ import annotations

import argparse
import os

from langmesh.bus import connect
from langmesh.cli.terminal import say, say_json, styled, table
from langmesh.registry.etcd import Etcd
from langmesh.settings import Settings
from langmesh.stack import inventory, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    del parser


async def command(_args: argparse.Namespace, settings: Settings) -> int:
    """Show the mesh; fails if a server does not answer."""
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh status"):
        pass
    async with Etcd(mesh.etcd_endpoints) as etcd:
        services = await inventory.services(etcd)
    if _args.json:
        say_json(
            {
                "nats_url": mesh.nats_url,
                "etcd_endpoints": mesh.etcd_endpoints,
                "otlp_endpoint": mesh.otlp_endpoint,
                "durability_profile": mesh.profile,
                "services": [
                    {
                        "name": record.service,
                        "instance": record.instance,
                        "pid": record.pid,
                        "host": record.host,
                        "state": record.state,
                        "event_loop": record.event_loop,
                        "release": record.release,
                        "graph": record.graph,
                        "node": record.node,
                        "started_at": record.started_at,
                    }
                    for record in services
                ],
            }
        )
        return 0
    say(f"nats  {mesh.nats_url}")
    say(f"etcd  {', '.join(mesh.etcd_endpoints)}")
    say(f"otlp  {mesh.otlp_endpoint or 'none'}")
    say()
    rows = [
        (r.service, r.instance, str(r.pid), r.state, r.graph or "-", r.release, r.event_loop)
        for r in services
    ]
    head = ("SERVICE", "INSTANCE", "PID", "STATE", "GRAPH", "RELEASE", "LOOP")
    for line in table(head, rows):
        say(line)
    if not rows:
        say(styled("no service is registered", "yellow"))
    return 0
