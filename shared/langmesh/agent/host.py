"""Host nodes in a process: find their graphs, register, consume, drain."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from langmesh.agent import description
from langmesh.agent.executor import NodeExecutor
from langmesh.agent.lifeline import Lifeline
from langmesh.agent.revisions import NodeRevisions
from langmesh.bus import Bus, connect
from langmesh.bus.blobs import Blobs
from langmesh.bus.presence import Presence
from langmesh.bus.pull import PullConsumer
from langmesh.errors import MeshError
from langmesh.graphs.directory import locate, revisions
from langmesh.graphs.loading import LoadedGraph, load
from langmesh.graphs.stores import Stores
from langmesh.registry import keys, loads, policies, records
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import State
from langmesh.service import Service, run_service
from langmesh.service.configuration import Configuration, Effective, following
from langmesh.service.load import Meter
from langmesh.service.usage import Sample, Usage
from langmesh.settings import Settings
from langmesh.telemetry import logs
from langmesh.wire import subjects
from langmesh.wire.streams import EXEC

log = logging.getLogger(__name__)

GRACE_S: Final = 10.0
"""How long tasks in work may go on after SIGTERM."""
_THREADS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """A node to host: of which graph, with which body, as which release; None means the default."""

    graph: str
    node: str
    body: Callable[..., Any] | None = None
    release: str | None = None
    max_in_flight: int | None = None
    capabilities: Sequence[str] = ()


class _HostedNode:
    """One node while it is hosted."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        etcd: Etcd,
        lifeline: Lifeline,
        place: NodePlace,
        loaded: LoadedGraph,
        stores: Stores,
        interval_s: float,
    ) -> None:
        settings = service.settings
        graph = loaded.topology.graph
        self._service = service
        self._graph = graph
        self._node = place.node
        self._release = place.release or settings.release
        self._usual = place.max_in_flight or settings.max_in_flight
        self._capacity = self._usual
        self._bus = bus
        self.key = keys.agent(settings.tenant, graph, place.node, service.instance)
        revisions = NodeRevisions(
            etcd, loaded, place.node, Blobs(bus), body=place.body, stores=stores
        )
        self.executor = NodeExecutor(service, bus, lifeline, revisions, self._release)
        self._description = description.described(loaded, place.node, place.capabilities)
        self.load_key = keys.load(settings.tenant, graph, place.node, service.instance)
        self._meter = Meter(
            service.instance,
            self.executor.counts,
            in_flight=lambda: self.executor.in_flight,
            capacity=lambda: self._capacity,
            interval_s=interval_s,
        )
        subject = subjects.execution(settings.tenant, graph, place.node, self._release)
        self._consumer = PullConsumer(
            bus,
            EXEC.name,
            subjects.exec_consumer(subject),
            capacity=self._capacity,
            handler=self.executor.on_delivery,
        )
        self._effective = Effective(policies.NodePolicy(), 0, "")

    def configure(self, configuration: Configuration) -> str | None:
        """Let what is configured now count, at once; gives the log level that it asks for."""
        effective = configuration.node(self._graph, self._node)
        if effective != self._effective:
            self._effective = effective
            self._capacity = effective.policy.max_in_flight or self._usual
            self.executor.configure(effective)
            self._consumer.resize(self._capacity)
            log.info(
                "%s of %s runs with configuration %d: %s",
                self._node,
                self._graph,
                effective.revision,
                policies.encode(effective.policy).decode(),
            )
        return effective.policy.log_level

    def record(self, state: State) -> bytes:
        """The node's registration."""
        return records.encode(
            self._service.record(
                state,
                release=self._release,
                capacity=self._capacity,
                graph=self._graph,
                node=self._node,
                **self._description,
            )
        )

    def load(self, sample: Sample) -> bytes:
        """How busy the node is; called from the lifeline's thread."""
        return loads.encode(self._meter.measure(sample))

    def presence(self) -> Presence:
        """The node's service as NATS' tools show it."""
        return description.presence(
            self._service, self._graph, self._node, self._release, self.executor.counts
        )

    @contextlib.asynccontextmanager
    async def consuming(self) -> AsyncIterator[None]:
        """Take tasks while the block runs."""

        async def on_control(body: bytes) -> None:
            self.executor.on_control(body)

        subject = subjects.control(self._service.settings.tenant, self._graph, self._node)
        control = await self._bus.listen(subject, on_control)
        log.info("serving %s of %s, release %s", self._node, self._graph, self._release)
        async with self._consumer.run():
            yield
        await control()


@contextlib.asynccontextmanager
async def hosting(
    service: Service,
    places: Sequence[NodePlace],
    *,
    load_interval_s: float = loads.INTERVAL_S,
) -> AsyncIterator[None]:
    """Serve nodes while the block runs; at its end, take no more and let tasks in work finish.

    Args:
        service: The process.
        places: The nodes.
        load_interval_s: Seconds between two reports of the load.

    Raises:
        MeshError: BROKER_UNAVAILABLE, REGISTRY_UNAVAILABLE, GRAPH_IMPORT_FAILED, UNKNOWN_NODE;
            INVALID_FIELD for capabilities that cannot be registered.
    """
    settings = service.settings
    # The places bound the threads of blocking nodes. The loop's own few would not do: a node that
    # waits for a run lends its place, but not its thread.
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="node")
    )
    async with (
        connect(settings.nats_url, name=service.instance, wait_s=30) as bus,
        Etcd(settings.etcd_endpoints) as etcd,
        contextlib.AsyncExitStack() as around,
    ):
        lifeline = Lifeline(settings, service.instance)
        stores = Stores(bus, settings.tenant)
        around.push_async_callback(stores.aclose)
        graphs = {
            graph: await _load(etcd, settings.tenant, graph)
            for graph in {place.graph for place in places}
        }
        nodes = [
            _HostedNode(
                service, bus, etcd, lifeline, place, graphs[place.graph], stores, load_interval_s
            )
            for place in places
        ]
        usage = Usage()

        def measure() -> Mapping[str, bytes]:
            sample = usage.sample()  # one for all, as they share a process
            return {node.load_key: node.load(sample) for node in nodes}

        configuration = await around.enter_async_context(following(etcd, settings))
        configuration.subscribe(functools.partial(_configure, nodes, configuration, settings))
        async with lifeline.run(
            {node.key: node.record("ready") for node in nodes},
            presences=[node.presence() for node in nodes],
            measure=measure,
            interval_s=load_interval_s,
        ):
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(_registering(lifeline, nodes, configuration))
                for node in nodes:
                    await stack.enter_async_context(node.consuming())
                with service.announced():
                    yield
            for node in nodes:
                with contextlib.suppress(MeshError):
                    await lifeline.update(node.key, node.record("draining"))
            await asyncio.shield(asyncio.gather(*(node.executor.drain(GRACE_S) for node in nodes)))
        await bus.flush()


@contextlib.asynccontextmanager
async def _registering(
    lifeline: Lifeline, nodes: Sequence[_HostedNode], configuration: Configuration
) -> AsyncIterator[None]:
    """Register the nodes anew whenever their capacity changes."""
    changed = asyncio.Event()

    async def register() -> None:
        known = {node.key: b"" for node in nodes}
        while True:
            await changed.wait()
            changed.clear()
            for node in nodes:
                if (record := node.record("ready")) != known[node.key]:
                    with contextlib.suppress(MeshError):
                        await lifeline.update(node.key, record)
                        known[node.key] = record

    task = asyncio.create_task(register(), name="registration")
    configuration.subscribe(changed.set)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _configure(
    nodes: Sequence[_HostedNode], configuration: Configuration, settings: Settings
) -> None:
    wanted = [node.configure(configuration) or settings.log_level for node in nodes]
    # A process has one level; the node that wants to hear most gets it.
    logs.set_level(min(wanted, key=lambda level: logging.getLevelNamesMapping()[level]))


async def _load(etcd: Etcd, tenant: str, graph: str) -> LoadedGraph:
    """Import a graph; if its newest revision cannot be, one that runs may still be at.

    Raises:
        MeshError: Why the newest revision cannot be imported, if no other can either.
    """
    name, source = await locate(etcd, tenant=tenant, graph=graph)
    try:
        return load(source, tenant=tenant, name=name)
    except MeshError as exc:
        if ":" in graph:
            raise
        log.warning("%s", exc)
        for other in await revisions(etcd, tenant=tenant, graph=name):
            with contextlib.suppress(MeshError):
                return load(other.topology.source, tenant=tenant, name=name)
        raise


def serve_nodes(graph: str, nodes: Sequence[str]) -> None:
    """Serve nodes until SIGTERM, each with the graph's own function.

    Args:
        graph: Name of a published graph, or ``module:attribute``.
        nodes: At least one node.
    """

    async def main(service: Service) -> None:
        async with hosting(service, [NodePlace(graph=graph, node=node) for node in nodes]):
            await service.stop.wait()

    run_service(nodes[0] if len(nodes) == 1 else f"{graph.partition(':')[0]}-agent", main)
