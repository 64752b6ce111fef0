"""``langmesh publish``: make a graph, or a new revision of one, what new runs take."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from langmesh.cli.terminal import say, say_json, styled
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import directory
from langmesh.graphs.loading import load
from langmesh.graphs.topology import Topology
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.stack.project import of_arguments

_LOADED_S = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "graphs",
        nargs="+",
        metavar="SOURCE",
        help="[NAME=]PATH.py:ATTRIBUTE or [NAME=]MODULE:ATTRIBUTE, or a langgraph.json; the"
        " coordinator must be able to import it too",
    )
    parser.add_argument(
        "--release", metavar="R", help="release that new nodes are bound to; LANGMESH_RELEASE's"
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Publish graphs and wait until the coordinator has taken them."""
    mesh = state.find(settings, dict(os.environ))
    topologies = await asyncio.to_thread(_topologies, args.graphs, settings.tenant)
    async with Etcd(mesh.etcd_endpoints) as etcd:
        new = [
            await directory.publish(etcd, topology, release=args.release or settings.release)
            for topology in topologies
        ]
        taken = await _taken(etcd, settings.tenant, topologies)
    for topology, is_new in zip(topologies, new, strict=True):
        _show(topology, is_new=is_new, taken=taken, as_json=args.json)
    return 0


def _topologies(sources: list[str], tenant: str) -> list[Topology]:
    project = of_arguments(sources, Path.cwd())
    sys.path[:0] = [str(path) for path in project.paths if str(path) not in sys.path]
    os.environ.update(project.environment(os.environ))
    return [load(str(source), tenant=tenant).topology for source in project.sources]


async def _taken(etcd: Etcd, tenant: str, topologies: list[Topology]) -> bool:
    """Wait until the coordinators take the topologies; False if none runs.

    Raises:
        MeshError: Why a coordinator cannot; TIMED_OUT.
    """
    wanted = {each.graph: each.revision for each in topologies}

    def settled(records: Mapping[str, ServiceRecord]) -> bool:
        return all(
            record.graphs.get(graph) == revision or _problem(record, graph, revision)
            for record in records.values()
            for graph, revision in wanted.items()
        )

    prefix = keys.coordinators(tenant)
    async with View(etcd, prefix, lambda _, document: decode_service(document)) as view:
        await view.wait_for(settled, timeout_s=_LOADED_S)
        records = list(view.items.values())
    for record in records:
        for graph, revision in wanted.items():
            if problem := _problem(record, graph, revision):
                raise MeshError(
                    ErrorCode.GRAPH_IMPORT_FAILED,
                    f"coordinator {record.instance} cannot load graph {graph!r}: {problem}",
                    remedy="New runs take the revision from before, if there is one. Make the code"
                    " importable where the coordinator runs, and publish again.",
                )
    return bool(records)


def _problem(record: ServiceRecord, graph: str, revision: str) -> str:
    """Why a coordinator does not take a revision; empty if it does, or is not done."""
    of, _, reason = record.problems.get(graph, "").partition(": ")
    return reason if of == revision else ""


def _show(topology: Topology, *, is_new: bool, taken: bool, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "graph": topology.graph,
                "revision": topology.revision,
                "source": topology.source,
                "nodes": list(topology.nodes),
                "new": is_new,
                "taken": taken,
            }
        )
        return
    revision = styled(topology.revision, "bold")
    if is_new:
        say(f"{topology.graph} is published at revision {revision}")
    else:
        say(f"{topology.graph} has revision {revision} already: its topology did not change.")
        say("What changed in its functions counts when its services are started again.")
    if not taken:
        say(styled("no coordinator runs; the next one takes it", "yellow"))
