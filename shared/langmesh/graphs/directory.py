"""The published graphs in etcd: topologies pinned by revision, bindings of nodes to subjects."""

from __future__ import annotations

import contextlib
import logging

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.sources import parse_source
from langmesh.graphs.topology import Topology
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd, mod_is, put_op
from langmesh.registry.records import Binding, Bindings, decode_bindings, encode
from langmesh.registry.view import View
from langmesh.wire.codec import decode_json, encode_json

log = logging.getLogger(__name__)


def decode_topology(document: bytes) -> Topology:
    """Decode a stored topology.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD naming the field.
    """
    return decode_json(Topology, document)


async def publish(etcd: Etcd, topology: Topology, *, release: str) -> Bindings:
    """Store a topology and make it the graph's current revision, atomically.

    Bindings of nodes that stay keep what an operator set; new nodes are bound to ``release``.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE or REGISTRY_REJECTED.
    """
    key = keys.bindings(topology.tenant, topology.graph)
    route = keys.route(topology.tenant, topology.graph, topology.revision)
    while True:
        entry = await etcd.get(key)
        old = _readable(key, entry.value) if entry is not None else {}
        bindings = Bindings(
            revision=topology.revision,
            nodes={
                node: old.get(node)
                or Binding(subject=topology.subject(node, release), release=release)
                for node in topology.nodes
            },
        )
        result = await etcd.txn(
            [mod_is(key, entry.mod_revision if entry is not None else 0)],
            [put_op(route, encode_json(topology)), put_op(key, encode(bindings))],
        )
        if result.succeeded:
            return bindings


def _readable(key: str, document: bytes) -> dict[str, Binding]:
    """The stored bindings; what cannot be read is replaced, as nothing can be kept of it."""
    try:
        return decode_bindings(document).nodes
    except MeshError as exc:
        log.warning("replaced what is stored at %s: %s", key, exc.message)
        return {}


async def fetch(etcd: Etcd, *, tenant: str, graph: str) -> tuple[Topology, Bindings]:
    """The current topology and bindings of a graph.

    Raises:
        MeshError: UNKNOWN_GRAPH, REGISTRY_UNAVAILABLE.
    """
    entry = await etcd.get(keys.bindings(tenant, graph))
    if entry is not None:
        bindings = decode_bindings(entry.value)
        route = await etcd.get(keys.route(tenant, graph, bindings.revision))
        if route is not None:
            return decode_topology(route.value), bindings
    known = sorted(await published(etcd, tenant=tenant))
    raise MeshError(
        ErrorCode.UNKNOWN_GRAPH,
        f"no graph {graph!r} is published; there is {', '.join(known) or 'none'}",
    )


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
        route = keys.route(tenant, graph, revision).removeprefix(prefix)
        await view.wait_for(lambda items: route in items, timeout_s=None)
        return graph, decode_topology(view.items[route]).source
