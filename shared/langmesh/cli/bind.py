"""``langmesh bind``: choose the release that gets a node's next tasks."""

from __future__ import annotations

import argparse
import os

from langmesh.cli.terminal import say, say_json
from langmesh.graphs import directory
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import Binding
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire import subjects


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    place(parser)
    parser.add_argument("--release", required=True, metavar="R", help="release that serves it")
    parser.add_argument(
        "--encoding",
        choices=["msgpack", "json"],
        default="msgpack",
        help="json for agents in other languages; msgpack, for Python, if not given",
    )


def place(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name a node."""
    parser.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    parser.add_argument("node", metavar="NODE", help="name of one of its nodes")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Bind a node; its next task goes there, also of runs that are under way."""
    return await bind(args, settings, release=args.release, encoding=args.encoding)


async def bind(args: argparse.Namespace, settings: Settings, *, release: str, encoding: str) -> int:
    """Bind the node that ``args`` names, and show the binding."""
    subject = subjects.execution(settings.tenant, args.graph, args.node, release)
    binding = Binding(
        subject=subject, release=release, encoding="json" if encoding == "json" else "msgpack"
    )
    mesh = state.find(settings, dict(os.environ))
    async with Etcd(mesh.etcd_endpoints) as etcd:
        await directory.rebind(
            etcd, tenant=settings.tenant, graph=args.graph, node=args.node, binding=binding
        )
    if args.json:
        say_json(
            {
                "graph": args.graph,
                "node": args.node,
                "subject": subject,
                "release": release,
                "encoding": binding.encoding,
                "consumer": subjects.exec_consumer(subject),
            }
        )
    else:
        say(f"tasks of {args.node} in {args.graph} go to {subject} ({binding.encoding})")
    return 0
