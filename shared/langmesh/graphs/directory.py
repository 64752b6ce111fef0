"""The published graphs in etcd: topologies pinned by revision, bindings of nodes to subjects.

A graph's last `REVISIONS_MAX` revisions are kept, for runs that are under way and for people who
want to know what changed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from langmesh import clock
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.sources import parse_source
from langmesh.graphs.topology import Topology
from langmesh.registry import keys
from langmesh.registry.configuring import operator
from langmesh.registry.etcd import Etcd, delete_op, mod_is, put_op
from langmesh.registry.model import Entry
from langmesh.registry.records import (
    Binding,
    Bindings,
    Publication,
    decode_bindings,
    decode_publication,
    encode,
)
from langmesh.registry.view import View
from langmesh.wire.codec import decode_json, encode_json

log = logging.getLogger(__name__)

REVISIONS_MAX: Final = 50


def decode_topology(document: bytes) -> Topology:
    """Decode a stored topology.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD naming the field.
    """
    return decode_json(Topology, document)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a graph that was published."""

    topology: Topology
    published: Publication | None
    """None if a version of langmesh that did not note it published the revision."""
    current: bool
    """Whether new runs take it."""


async def publish(etcd: Etcd, topology: Topology, *, release: str) -> bool:
    """Store a topology and make it the graph's current revision, atomically; False if it was.

    Bindings of nodes that stay keep what an operator set; new nodes are bound to ``release``. Nodes
    that the topology no longer has stay bound, since runs of earlier revisions go on.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE or REGISTRY_REJECTED.
    """
    of = (topology.tenant, topology.graph)
    key = keys.bindings(*of)
    note = Publication(published_at=clock.now_iso(), published_by=operator())
    while True:
        entry = await etcd.get(key)
        old = _readable(key, entry.value) if entry is not None else None
        new = {
            node: Binding(subject=topology.subject(node, release), release=release)
            for node in topology.nodes
        }
        bindings = Bindings(
            revision=topology.revision, nodes=new | (old.nodes if old is not None else {})
        )
        result = await etcd.txn(
            [mod_is(key, entry.mod_revision if entry is not None else 0)],
            [
                put_op(keys.route(*of, topology.revision), encode_json(topology)),
                put_op(keys.publication(*of, topology.revision), encode(note)),
                put_op(key, encode(bindings)),
                *await _forgetting(etcd, topology),
            ],
        )
        if result.succeeded:
            return old is None or old.revision != topology.revision


async def _forgetting(etcd: Etcd, topology: Topology) -> list[Any]:
    """What drops the oldest revisions when a topology joins them."""
    of = (topology.tenant, topology.graph)
    entries = (await etcd.list(keys.routes(*of))).entries.values()
    names = [entry.key.removeprefix(keys.routes(*of)) for entry in _newest_first(entries)]
    others = [name for name in names if name != topology.revision]
    return [
        delete_op(prefix + name)
        for name in others[REVISIONS_MAX - 1 :]
        for prefix in (keys.routes(*of), keys.publications(*of))
    ]


def _newest_first(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.mod_revision, reverse=True)


async def revisions(etcd: Etcd, *, tenant: str, graph: str) -> list[Revision]:
    """The revisions of a graph that are kept, newest first.

    Raises:
        MeshError: UNKNOWN_GRAPH, REGISTRY_UNAVAILABLE.
    """
    current, _ = await fetch(etcd, tenant=tenant, graph=graph)
    entries = (await etcd.list(keys.graphs(tenant, graph))).entries
    routes, notes = keys.routes(tenant, graph), keys.publications(tenant, graph)
    found = []
    for entry in _newest_first(entries.values()):
        if entry.key.startswith(routes):
            topology = decode_topology(entry.value)
            note = entries.get(notes + entry.key.removeprefix(routes))
            found.append(
                Revision(
                    topology,
                    decode_publication(note.value) if note is not None else None,
                    topology.revision == current.revision,
                )
            )
    return found


def _readable(key: str, document: bytes) -> Bindings | None:
    """The stored bindings; what cannot be read is replaced, as nothing can be kept of it."""
    try:
        return decode_bindings(document)
    except MeshError as exc:
        log.warning("replaced what is stored at %s: %s", key, exc.message)
        return None


async def fetch(etcd: Etcd, *, tenant: str, graph: str) -> tuple[Topology, Bindings]:
    """The current topology and bindings of a graph.

    Raises:
        MeshError: UNKNOWN_GRAPH, REGISTRY_UNAVAILABLE.
    """
    entry = await etcd.get(keys.bindings(tenant, graph))
    if entry is not None:
        bindings = decode_bindings(entry.value)
        table = await etcd.get(keys.route(tenant, graph, bindings.revision))
        if table is not None:
            return decode_topology(table.value), bindings
    known = sorted(await published(etcd, tenant=tenant))
    raise MeshError(
        ErrorCode.UNKNOWN_GRAPH,
        f"no graph {graph!r} is published; there is {', '.join(known) or 'none'}",
    )


async def route(etcd: Etcd, *, tenant: str, graph: str, revision: str) -> Topology:
    """One revision's topology.

    Raises:
        MeshError: GRAPH_CHANGED if it is not kept, REGISTRY_UNAVAILABLE.
    """
    entry = await etcd.get(keys.route(tenant, graph, revision))
    if entry is None:
        raise MeshError(
            ErrorCode.GRAPH_CHANGED, f"graph {graph!r}: there is no route table {revision}"
        )
    return decode_topology(entry.value)


async def published(etcd: Etcd, *, tenant: str) -> list[str]:
    """Names of the graphs of a tenant."""
    prefix = keys.graphs(tenant)
    snapshot = await etcd.list(prefix)
    names = set()
    for key in snapshot.entries:
        # Whoever may write to the registry may have left a key that is none of ours.
        with contextlib.suppress(MeshError):
            names.add(keys.names(key.removeprefix(prefix))[0])
    return sorted(names)


async def rebind(etcd: Etcd, *, tenant: str, graph: str, node: str, binding: Binding) -> None:
    """Send the next tasks of a node somewhere else.

    Raises:
        MeshError: UNKNOWN_GRAPH, UNKNOWN_NODE, REGISTRY_UNAVAILABLE.
    """
    key = keys.bindings(tenant, graph)
    while True:
        entry = await etcd.get(key)
        if entry is None:
            raise MeshError(ErrorCode.UNKNOWN_GRAPH, f"no graph {graph!r} is published")
        bindings = decode_bindings(entry.value)
        if node not in bindings.nodes:
            raise MeshError(
                ErrorCode.UNKNOWN_NODE,
                f"graph {graph!r} has no node {node!r}; it has {', '.join(bindings.nodes)}",
            )
        changed = msgspec.structs.replace(bindings, nodes={**bindings.nodes, node: binding})
        done, _ = await etcd.compare_and_put(key, encode(changed), entry.mod_revision)
        if done:
            return


async def locate(etcd: Etcd, *, tenant: str, graph: str) -> tuple[str, str]:
    """Name and source of a graph given by its name or as ``module:attribute``.

    A name waits until the graph is published.
    """
    if ":" in graph:
        source = parse_source(graph)
        return source.name, source.ref
    prefix = keys.graphs(tenant, graph)
    async with View(etcd, prefix, lambda _, document: document) as view:
        if "bindings" not in view.items:
            log.info("waiting until graph %s is published", graph)
        await view.wait_for(lambda items: "bindings" in items, timeout_s=None)
        revision = decode_bindings(view.items["bindings"]).revision
        table = keys.route(tenant, graph, revision).removeprefix(prefix)
        await view.wait_for(lambda items: table in items, timeout_s=None)
        return graph, decode_topology(view.items[table]).source
