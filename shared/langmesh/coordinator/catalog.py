"""The graphs that can run here, where their nodes are bound, who serves them: kept by watches.

A binding counts as soon as the watch tells of it. A new revision is loaded in a thread first; until
that is done, and if it fails, new runs take the revision from before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from langmesh.bus import Bus
from langmesh.bus.streams import ensure_consumer
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.directory import decode_topology
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.reimport import load_revision
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


@dataclass(slots=True)
class _Documents:
    topologies: dict[str, Topology] = field(default_factory=dict)
    bindings: Bindings | None = None

    @property
    def current(self) -> Topology | None:
        """The topology that new runs are to take."""
        return self.topologies.get(self.bindings.revision) if self.bindings is not None else None


class Catalog:
    """Published graphs and registered agents."""

    def __init__(self, bus: Bus, etcd: Etcd) -> None:
        self._bus = bus
        self._graphs = View(etcd, keys.graphs(), self._decode_graph)
        self._agents = View(etcd, keys.agents(), self._decode_agent)
        self._entries: dict[GraphKey, Entry] = {}
        self._problems: dict[GraphKey, tuple[str, MeshError]] = {}
        """Which revision of a graph cannot be loaded, and why."""
        self._unloaded: dict[GraphKey, Topology] = {}
        """Revisions that are to be loaded."""
        self._pinned: dict[tuple[str, str, str], LoadedGraph] = {}
        """What runs of earlier revisions go on with."""
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._consumers: set[str] = set()
        self._served: Counter[tuple[str, str, str, str]] = Counter()
        self._agent_listeners: list[Callable[[], None]] = []
        self._graph_listeners: list[Callable[[], None]] = []

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
            loader = asyncio.create_task(self._load_all(), name="load graphs")
            try:
                await self._idle.wait()
                yield self
            finally:
                for end in forget:
                    end()
                loader.cancel()
                await asyncio.gather(loader, return_exceptions=True)

    def get(self, tenant: str, graph: str) -> Entry:
        """The current revision of a graph.

        Raises:
            MeshError: UNKNOWN_GRAPH, or why the published graph cannot be loaded here.
        """
        entry = self._entries.get((tenant, graph))
        if entry is not None:
            return entry
        if (problem := self._problems.get((tenant, graph))) is not None:
            raise problem[1]
        known = sorted(name for of, name in self._entries if of == tenant)
        raise MeshError(
            ErrorCode.UNKNOWN_GRAPH,
            f"graph: {graph[:100]!r} is not published for tenant {tenant[:100]!r};"
            f" there is {', '.join(known) or 'none'}",
        )

    async def pinned(self, tenant: str, graph: str, revision: str) -> LoadedGraph:
        """The revision that a run began with; if its code is gone, the one that new runs take.

        Raises:
            MeshError: As :meth:`get`.
        """
        current = self.get(tenant, graph).loaded
        if current.topology.revision == revision:
            return current
        if (found := self._pinned.get((tenant, graph, revision))) is not None:
            return found
        where = keys.route(tenant, graph, revision).removeprefix(keys.graphs())
        topology = self._graphs.items.get(where)
        found = current
        if isinstance(topology, Topology):
            try:
                found = await asyncio.to_thread(
                    load_revision, topology.source, tenant=tenant, name=graph, revision=revision
                )
            except MeshError as exc:
                log.warning("runs of revision %s go on with the code of now: %s", revision, exc)
        self._pinned[(tenant, graph, revision)] = found
        return found

    def binding(self, tenant: str, graph: str, node: str) -> Binding:
        """Where the next task of a node goes.

        Raises:
            MeshError: UNKNOWN_NODE when the current bindings do not have the node.
        """
        found = self.get(tenant, graph).bindings.nodes.get(node)
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
        self._agent_listeners.append(listener)

    def on_graphs_changed(self, listener: Callable[[], None]) -> None:
        """Call back when new runs take another revision of a graph, or one cannot be loaded."""
        self._graph_listeners.append(listener)

    def revisions(self, tenant: str) -> dict[str, str]:
        """The revision that new runs take, by graph."""
        graphs = self._entries.items()
        return {
            name: entry.loaded.topology.revision for (of, name), entry in graphs if of == tenant
        }

    def problems(self, tenant: str) -> dict[str, str]:
        """Why the newest revision of a graph is not taken: ``REVISION: reason``, by graph."""
        found = self._problems.items()
        return {
            name: f"{revision}: {exc.message}"
            for (of, name), (revision, exc) in found
            if of == tenant
        }

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
            self._take(graph_key, documents)
        kept: tuple[dict[GraphKey, Any], ...] = (self._entries, self._problems, self._unloaded)
        for each in kept:
            for gone in each.keys() - found.keys():
                del each[gone]
        self._work.set()

    def _take(self, key: GraphKey, documents: _Documents) -> None:
        """Let bindings count, and have the current revision loaded if it is not."""
        self._unloaded.pop(key, None)
        bindings, topology = documents.bindings, documents.current
        if bindings is None:
            return
        if topology is None:
            log.error("graph %s: there is no route table %s", key[1], bindings.revision)
            return
        if (entry := self._entries.get(key)) is not None:
            entry.bindings = bindings
            if entry.loaded.topology.revision == topology.revision:
                self._problems.pop(key, None)
                self._prepare_all(bindings)
                return
        if key not in self._problems or self._problems[key][0] != topology.revision:
            self._unloaded[key] = topology
        self._prepare_all(bindings)

    async def _load_all(self) -> None:
        """Load what is to be loaded, one after the other, for ever."""
        while True:
            while self._unloaded:
                key, topology = next(iter(self._unloaded.items()))
                await self._load(key, topology)
            self._idle.set()
            self._work.clear()
            await self._work.wait()

    async def _load(self, key: GraphKey, topology: Topology) -> None:
        try:
            loaded = await asyncio.to_thread(
                load_revision,
                topology.source,
                tenant=topology.tenant,
                name=topology.graph,
                revision=topology.revision,
            )
        except MeshError as exc:
            self._finish(key, topology, exc)
        except Exception as exc:
            log.exception("loading graph %s failed", key[1])
            reason = f"{topology.source}: {type(exc).__name__}: {exc}"
            self._finish(key, topology, MeshError(ErrorCode.GRAPH_IMPORT_FAILED, reason))
        else:
            self._finish(key, topology, loaded)

    def _finish(self, key: GraphKey, topology: Topology, result: LoadedGraph | MeshError) -> None:
        """Let a revision count that was loaded, unless another one is wanted by now."""
        if self._unloaded.get(key) is not topology:
            return
        del self._unloaded[key]
        if isinstance(result, MeshError):
            log.error("graph %s cannot be loaded: %s", key[1], result)
            self._problems[key] = (topology.revision, result)
        else:
            self._problems.pop(key, None)
            bindings = self._bindings_of(key)
            self._entries[key] = Entry(result, bindings)
            log.info("graph %s at revision %s", key[1], topology.revision)
            self._warn_unserved(key, result.topology, bindings)
        for listener in self._graph_listeners:
            listener()

    def _bindings_of(self, key: GraphKey) -> Bindings:
        tenant, graph = key
        found = self._graphs.items[keys.bindings(tenant, graph).removeprefix(keys.graphs())]
        assert isinstance(found, Bindings)
        return found

    def _prepare_all(self, bindings: Bindings) -> None:
        for binding in bindings.nodes.values():
            if binding.subject not in self._consumers:
                asyncio.get_running_loop().create_task(self._prepare(binding.subject))

    async def _prepare(self, subject: str) -> None:
        try:
            await self.ensure_consumer(subject)
        except MeshError as exc:
            log.warning("consumer for %s: %s", subject, exc)

    def _warn_unserved(self, key: GraphKey, topology: Topology, bindings: Bindings) -> None:
        missing = [
            node
            for node in topology.nodes
            if not self.is_served(*key, node, bindings.nodes[node].release)
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
        for listener in self._agent_listeners:
            listener()
