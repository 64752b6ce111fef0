"""The graphs that can run here, where their nodes are bound, who serves them: kept by watches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from langgraph.checkpoint.memory import InMemorySaver

from langmesh.bus import Bus
from langmesh.bus.streams import ensure_consumer
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.directory import decode_topology
from langmesh.graphs.loading import LoadedGraph, load
from langmesh.graphs.topology import Topology
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import (
    Binding,
    Bindings,
    ServiceRecord,
    decode_bindings,
    decode_service,
)
from langmesh.registry.view import View
from langmesh.wire.streams import exec_consumer
from langmesh.wire.subjects import parse_execution

log = logging.getLogger(__name__)

GraphKey = tuple[str, str]


@dataclass(slots=True)
class Entry:
    """One published graph: the revision that new runs take, and the bindings for the next task."""

    loaded: LoadedGraph
    bindings: Bindings
    saver: InMemorySaver
    problem: MeshError | None = None


@dataclass(slots=True)
class _Documents:
    topologies: dict[str, Topology] = field(default_factory=dict)
    bindings: Bindings | None = None


class Catalog:
    """Published graphs and registered agents."""

    def __init__(self, bus: Bus, etcd: Etcd) -> None:
        self._bus = bus
        self._graphs = View(etcd, keys.graphs(), self._decode_graph)
        self._agents = View(etcd, keys.agents(), self._decode_agent)
        self._entries: dict[GraphKey, Entry] = {}
        self._problems: dict[GraphKey, MeshError] = {}
        self._consumers: set[str] = set()
        self._served: Counter[tuple[str, str, str, str]] = Counter()
        self._listeners: list[Callable[[], None]] = []

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Catalog]:
        """Follow etcd while the block runs; entered once everything published is loaded."""
        async with self._graphs, self._agents:
            await self._graphs.wait_ready(timeout_s=30)
            await self._agents.wait_ready(timeout_s=30)
            forget = [
                self._graphs.subscribe(self._on_graphs),
                self._agents.subscribe(self._on_agents),
            ]
            self._on_graphs()
            self._on_agents()
            try:
                yield self
            finally:
                for end in forget:
                    end()

    def get(self, tenant: str, graph: str) -> Entry:
        """The current revision of a graph.

        Raises:
            MeshError: UNKNOWN_GRAPH, or why the published graph cannot be loaded here.
        """
        entry = self._entries.get((tenant, graph))
        if entry is not None:
            return entry
        if (problem := self._problems.get((tenant, graph))) is not None:
            raise problem
        known = sorted(name for of, name in self._entries if of == tenant)
        raise MeshError(
            ErrorCode.UNKNOWN_GRAPH,
            f"graph: {graph[:100]!r} is not published for tenant {tenant[:100]!r};"
            f" there is {', '.join(known) or 'none'}",
        )

    def binding(self, tenant: str, graph: str, node: str) -> Binding:
        """Where the next task of a node goes.

        Raises:
            MeshError: UNKNOWN_NODE when the current bindings do not have the node.
        """
        entry = self._entries[(tenant, graph)]
        found = entry.bindings.nodes.get(node)
        if found is None:
            raise MeshError(ErrorCode.UNKNOWN_NODE, f"node {node!r} of {graph!r} is not bound")
        return found

    async def ensure_consumer(self, subject: str) -> None:
        """Make sure that tasks on a subject wait for agents, whoever comes first."""
        if subject not in self._consumers:
            await ensure_consumer(self._bus, exec_consumer(subject))
            self._consumers.add(subject)

    def is_served(self, tenant: str, graph: str, node: str, release: str) -> bool:
        """Whether an agent of that release is registered."""
        return self._served[(tenant, graph, node, release)] > 0

    def on_agents_changed(self, listener: Callable[[], None]) -> None:
        """Call back when an agent came or went."""
        self._listeners.append(listener)

    @staticmethod
    def _decode_agent(key: str, document: bytes) -> ServiceRecord:
        if len(names := keys.names(key)) != 4:
            raise MeshError(ErrorCode.INVALID_NAME, f"{key!r} has {len(names)} parts, not 4")
        return decode_service(document)

    @staticmethod
    def _decode_graph(key: str, document: bytes) -> Topology | Bindings | None:
        if len(names := keys.names(key)) < 3:
            raise MeshError(ErrorCode.INVALID_NAME, f"{key!r} has {len(names)} parts, not 3 or 4")
        what = names[2]
        if what == "bindings":
            bindings = decode_bindings(document)
            for binding in bindings.nodes.values():
                parse_execution(binding.subject)
            return bindings
        return decode_topology(document) if what == "routes" else None

    def _on_graphs(self) -> None:
        found: dict[GraphKey, _Documents] = {}
        for key, item in self._graphs.items.items():
            tenant, graph = keys.names("/".join(key.split("/")[:2]))
            documents = found.setdefault((tenant, graph), _Documents())
            if isinstance(item, Bindings):
                documents.bindings = item
            elif isinstance(item, Topology):
                documents.topologies[item.revision] = item
        for graph_key, documents in found.items():
            if documents.bindings is not None:
                self._take(graph_key, documents.bindings, documents.topologies)
        for gone in self._entries.keys() - found.keys():
            del self._entries[gone]

    def _take(self, key: GraphKey, bindings: Bindings, topologies: dict[str, Topology]) -> None:
        entry = self._entries.get(key)
        topology = topologies.get(bindings.revision)
        if entry is None or entry.loaded.topology.revision != bindings.revision:
            if topology is None:
                log.warning("graph %s: no topology has revision %s", key[1], bindings.revision)
                return
            saver = entry.saver if entry is not None else InMemorySaver()
            try:
                loaded = self._load(topology, saver)
            except MeshError as exc:
                log.error("graph %s cannot be loaded: %s", key[1], exc)  # noqa: TRY400
                self._problems[key] = exc
                return
            self._problems.pop(key, None)
            entry = self._entries[key] = Entry(loaded, bindings, saver)
            log.info("graph %s at revision %s", key[1], bindings.revision)
            self._warn_unserved(key, bindings)
        entry.bindings = bindings
        for binding in bindings.nodes.values():
            if binding.subject not in self._consumers:
                asyncio.get_running_loop().create_task(self._prepare(binding.subject))

    async def _prepare(self, subject: str) -> None:
        try:
            await self.ensure_consumer(subject)
        except MeshError as exc:
            log.warning("consumer for %s: %s", subject, exc)

    @staticmethod
    def _load(topology: Topology, saver: InMemorySaver) -> LoadedGraph:
        loaded = load(topology.source, tenant=topology.tenant, name=topology.graph, saver=saver)
        saver.serde = loaded.serde.serializer
        if loaded.topology.revision != topology.revision:
            raise MeshError(
                ErrorCode.GRAPH_CHANGED,
                f"graph {topology.graph!r}: the code at {topology.source} has revision"
                f" {loaded.topology.revision}, published is {topology.revision}",
            )
        return loaded

    def _warn_unserved(self, key: GraphKey, bindings: Bindings) -> None:
        missing = [
            node
            for node, binding in bindings.nodes.items()
            if not self.is_served(*key, node, binding.release)
        ]
        if missing:
            log.warning("graph %s: nobody serves %s yet", key[1], ", ".join(missing))

    def _on_agents(self) -> None:
        served: Counter[tuple[str, str, str, str]] = Counter()
        for key, record in self._agents.items.items():
            if record.state == "ready":
                tenant, graph, node, _ = keys.names(key)
                served[(tenant, graph, node, record.release)] += 1
        self._served = served
        for listener in self._listeners:
            listener()
