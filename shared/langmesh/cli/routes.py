"""``langmesh routes``: a graph's topology, where its nodes are bound, and what was before."""

from __future__ import annotations

import argparse
import os

import msgspec

from langmesh.cli.terminal import say, say_json, styled, table
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import directory
from langmesh.graphs.difference import Difference, difference
from langmesh.graphs.directory import Revision
from langmesh.graphs.topology import Topology, mermaid, routes
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import Bindings
from langmesh.settings import Settings
from langmesh.stack import state

_MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    parser.add_argument("--mermaid", action="store_true", help="draw the topology as Mermaid")
    parser.add_argument(
        "--revision", metavar="R", help="show this revision instead of the one that new runs take"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--revisions", action="store_true", help="list the revisions that are kept")
    what.add_argument("--diff", metavar="R", help="what changed since this revision")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Show the routes of a published graph, its revisions, or what changed between two."""
    mesh = state.find(settings, dict(os.environ))
    async with Etcd(mesh.etcd_endpoints) as etcd:
        where = {"tenant": settings.tenant, "graph": args.graph}
        topology, bindings = await directory.fetch(etcd, **where)
        known = []
        if args.revision or args.revisions or args.diff:
            known = await directory.revisions(etcd, **where)
    if args.revision:
        topology = _named(known, args.revision, args.graph)
    if args.revisions:
        _show_revisions(known, as_json=args.json)
    elif args.diff:
        before = _named(known, args.diff, args.graph)
        _show_difference(before, topology, as_json=args.json)
    else:
        _show(topology, bindings, drawn=args.mermaid, as_json=args.json)
    return 0


def _named(known: list[Revision], text: str, graph: str) -> Topology:
    """The topology of a revision that is given by its name or the beginning of it."""
    found = [each.topology for each in known if each.topology.revision.startswith(text)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(each.topology.revision for each in known[:10])
    problem = "is not kept" if not found else "fits several"
    raise MeshError(
        ErrorCode.INVALID_FIELD,
        f"revision {text!r} of graph {graph!r} {problem}; there is {there}",
        remedy=f"List them with `langmesh routes {graph} --revisions`.",
    )


def _show(topology: Topology, bindings: Bindings, *, drawn: bool, as_json: bool) -> None:
    bound = {node: each for node, each in bindings.nodes.items() if node in topology.nodes}
    if as_json:
        document = msgspec.to_builtins(topology)
        document["bindings"] = msgspec.to_builtins(bound)
        if drawn:
            document["mermaid"] = mermaid(topology)
        say_json(document)
    elif drawn:
        say(mermaid(topology))
    else:
        say(f"{topology.graph}  revision {topology.revision}  from {topology.source}")
        say()
        rows = [
            (node, leads, bound[node].subject if node in bound else "-")
            for node, leads in routes(topology)
        ]
        for line in table(("NODE", "LEADS TO", "SUBJECT"), rows):
            say(line)


def _show_revisions(known: list[Revision], *, as_json: bool) -> None:
    if as_json:
        say_json(
            [
                {
                    "revision": each.topology.revision,
                    "current": each.current,
                    "published_at": each.published.published_at if each.published else "",
                    "published_by": each.published.published_by if each.published else "",
                    "source": each.topology.source,
                    "nodes": list(each.topology.nodes),
                }
                for each in known
            ]
        )
        return
    rows = [
        (
            each.topology.revision,
            "current" if each.current else "",
            each.published.published_at if each.published else "-",
            each.published.published_by if each.published else "-",
            str(len(each.topology.nodes)),
        )
        for each in known
    ]
    for line in table(("REVISION", "", "PUBLISHED", "BY", "NODES"), rows):
        say(line)


def _show_difference(before: Topology, after: Topology, *, as_json: bool) -> None:
    found = difference(before, after)
    if as_json:
        document = {"before": before.revision, "after": after.revision, "differences": found}
        say_json(document)
        return
    say(f"{after.graph}  {before.revision} → {after.revision}")
    for each in found:
        say(_line(each))
    if not found:
        say("no difference")


def _line(each: Difference) -> str:
    mark, colour = _MARKS[each.kind]
    shown = " → ".join(text for text in (each.before, each.after) if text)
    return styled(f"  {mark} {each.what}  ", colour) + shown
