"""A mesh in memory: langmesh's own coordinators and agents around the simulated server.

Only what speaks to etcd is replaced: the catalog knows one graph, :mod:`tests.simulation.owners`
says who owns what, and policies are empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from langmesh.agent.executor import NodeExecutor
from langmesh.agent.revisions import NodeRevisions
from langmesh.bus import Bus
from langmesh.bus.blobs import Blobs
from langmesh.bus.pull import PullConsumer
from langmesh.bus.streams import ensure_consumer, ensure_streams
from langmesh.coordinator.admission import Admission
from langmesh.coordinator.catalog import Entry
from langmesh.coordinator.dealing import Dealer
from langmesh.coordinator.dispatch import Dispatcher
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.peers import Peers
from langmesh.coordinator.recovery import recovering
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import Threads
from langmesh.errors import MeshError
from langmesh.graphs import seam
from langmesh.graphs.loading import LoadedGraph, load
from langmesh.registry.policies import NodePolicy
from langmesh.registry.records import Binding, Bindings
from langmesh.service import Service
from langmesh.service.configuration import Effective
from langmesh.service.ending import end
from langmesh.settings import Settings
from langmesh.telemetry.tracing import Telemetry, Tracer
from langmesh.wire import subjects
from langmesh.wire.streams import EXEC_ACK_WAIT_S, SUBMIT_CONSUMER, exec_consumer
from tests.simulation.broker import Broker
from tests.simulation.connection import Connection
from tests.simulation.loop import Process
from tests.simulation.owners import Beliefs, Owners

GRAPH = "simulated"
RELEASE = "v1"
LOADED = load(f"{GRAPH}=tests.simulation.graph:graph", tenant="default")
TRACER = Tracer(0, None)
seam.install_seam()


class OneGraph:
    """Stands in for ``langmesh.coordinator.catalog.Catalog``."""

    def __init__(self) -> None:
        nodes = {
            node: Binding(subject=_subject(node), release=RELEASE) for node in nodes_of(LOADED)
        }
        bindings = Bindings(revision=LOADED.topology.revision, nodes=nodes)
        self._entry = Entry(LOADED, bindings)

    def get(self, tenant: str, graph: str) -> Entry:
        assert (tenant, graph) == ("default", GRAPH)
        return self._entry

    async def pinned(self, tenant: str, graph: str, revision: str) -> LoadedGraph:
        assert revision == LOADED.topology.revision
        return self.get(tenant, graph).loaded

    def binding(self, tenant: str, graph: str, node: str) -> Binding:
        return self.get(tenant, graph).bindings.nodes[node]

    async def ensure_consumer(self, subject: str) -> None:
        """All are there from the beginning."""

    def is_served(self, tenant: str, graph: str, node: str, release: str) -> bool:
        return True

    def on_agents_changed(self, listener: Callable[[], None]) -> None:
        """They do not."""

    def on_graphs_changed(self, listener: Callable[[], None]) -> None:
        """They do not."""


class Unconfigured:
    """Stands in for ``langmesh.service.configuration.Configuration``."""

    def sample_ratio(self, graph: str) -> None:
        return None


class Beats:
    """Stands in for the agent's lifeline: a thread that keeps deliveries alive."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._watched: set[str] = set()

    def watch(self, reply: str) -> None:
        self._watched.add(reply)

    def unwatch(self, reply: str) -> None:
        self._watched.discard(reply)

    async def beat(self) -> None:
        """Keep all alive, for ever."""
        while True:
            await asyncio.sleep(EXEC_ACK_WAIT_S / 4)
            for reply in self._watched:
                self._bus.send(reply, b"+WPI")


@dataclass(eq=False)
class Node:
    """A process of the mesh."""

    name: str
    process: Process
    connection: Connection
    bus: Bus
    beliefs: Beliefs | None = None
    runs: LiveRuns | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def alive(self) -> bool:
        return not self.process.dead


class World:
    """All of it.

    Args:
        chance: Decides what nobody else does.
    """

    def __init__(self, chance: random.Random) -> None:
        self.broker = Broker(chance)
        self.owners = Owners()
        self.coordinators: list[Node] = []
        self.agents: list[Node] = []
        self.client = self._connected("client")
        self.bus = self.client.bus
        self.broken: list[str] = []
        """Processes that ended by themselves."""
        self._catalog = OneGraph()
        self._numbers = itertools.count(1)

    async def begin(self) -> None:
        """Make the streams."""
        await self.client.bus.start()
        await ensure_streams(self.bus)
        await ensure_consumer(self.bus, SUBMIT_CONSUMER)
        for node in nodes_of(LOADED):
            await ensure_consumer(self.bus, exec_consumer(_subject(node)))

    async def start_coordinator(self) -> Node:
        """Begin a coordinator; it owns what nobody else does."""
        node = self._connected(f"coordinator-{next(self._numbers)}")
        node.beliefs = Beliefs(self.owners, node.name)
        self.coordinators.append(node)
        self._run(node, self._coordinate(node, node.beliefs))
        await node.up.wait()
        return node

    async def start_agent(self) -> Node:
        """Begin an agent that serves all nodes."""
        node = self._connected(f"agent-{next(self._numbers)}")
        self.agents.append(node)
        self._run(node, self._serve(node))
        await node.up.wait()
        return node

    def kill(self, node: Node, *, lease_s: float) -> None:
        """End a process at once; what it owned gets another owner when its lease has ended."""
        if not node.alive:
            return
        node.connection.kill()
        for group in (self.coordinators, self.agents):
            if node in group:
                group.remove(node)
        asyncio.get_running_loop().call_later(lease_s, self._bury, node)

    async def end(self) -> None:
        """End all processes, those that were killed as well, and see that they do end."""
        for connection in list(self.broker.connections):
            connection.kill()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await end(task for task in others)
        assert not {task for task in asyncio.all_tasks() if not task.done()} - {
            asyncio.current_task()
        }

    async def man(self) -> None:
        """See that there is a coordinator and an agent."""
        if not self.coordinators:
            await self.start_coordinator()
        if not self.agents:
            await self.start_agent()

    def unblind(self) -> None:
        """Let every coordinator know who owns what."""
        for node in self.coordinators:
            assert node.beliefs is not None
            node.beliefs.blind = False
        self.owners.tell()

    def _bury(self, node: Node) -> None:
        self.owners.leave(node.name)
        self.owners.adopt()

    def all(self) -> list[Node]:
        """Coordinators and agents that live."""
        return self.coordinators + self.agents

    def _run(self, node: Node, main: Coroutine[Any, Any, None]) -> None:
        """Run a process that ends only by being killed."""

        def on_end(task: asyncio.Task[None]) -> None:
            if node.alive:
                self.broken.append(f"{node.name}: {task.exception()!r}")

        node.process.start(main).add_done_callback(on_end)

    def _connected(self, name: str) -> Node:
        process = Process()
        connection = Connection(self.broker, process)
        bus = Bus(connection, "simulated")  # type: ignore[arg-type]
        connection.on_reconnect = bus.reconnected
        return Node(name, process, connection, bus)

    async def _coordinate(self, node: Node, beliefs: Any) -> None:
        bus, name = node.bus, node.name
        await bus.start()
        catalog: Any = self._catalog
        async with Dispatcher(bus, catalog, name).run() as dispatcher:
            engine = Engine(
                catalog=catalog,
                dispatcher=dispatcher,
                blobs=Blobs(bus),
                tracer=TRACER,
                key=b"simulated",
                instance=name,
                configuration=Unconfigured(),  # type: ignore[arg-type]
            )
            threads = Threads(
                bus, instance=name, epoch=beliefs.epoch, confirm=beliefs.confirm, idle_max=64
            )
            runs = node.runs = LiveRuns(bus, engine, threads)
            admission = Admission(bus, engine, runs)
            peers = Peers(bus, name, beliefs, admission, runs)
            dealer = Dealer(bus, name, beliefs, admission, runs, peers, max_runs=64)

            async def on_lost(partitions: frozenset[int]) -> None:
                if 0 in partitions:
                    await dealer.stopped()
                await runs.release(partitions)

            async with (
                admission.run(),
                peers.listening(),
                dealer.run(),
                recovering(bus, runs, catalog, beliefs),
            ):
                self.owners.join(name, beliefs)
                node.up.set()
                await beliefs.follow(dispatcher.follow, on_lost)

    async def _serve(self, node: Node) -> None:
        bus = node.bus
        await bus.start()
        beats = Beats(bus)
        service = Service(
            name="agent", instance=node.name, settings=Settings(), telemetry=Telemetry(TRACER, None)
        )
        async with contextlib.AsyncExitStack() as stack:
            for name in nodes_of(LOADED):
                await stack.enter_async_context(_serving(service, bus, beats, name))
            node.up.set()
            await beats.beat()


@contextlib.asynccontextmanager
async def _serving(service: Service, bus: Bus, beats: Any, name: str) -> AsyncIterator[None]:
    etcd: Any = None
    revisions = NodeRevisions(etcd, LOADED, name, Blobs(bus))
    executor = NodeExecutor(service, bus, beats, revisions, RELEASE)
    executor.configure(Effective(NodePolicy(), 0, ""))

    async def on_control(body: bytes) -> None:
        executor.on_control(body)

    await bus.listen(subjects.control("default", GRAPH, name), on_control)
    durable = subjects.exec_consumer(_subject(name))
    consumer = PullConsumer(bus, "EXEC", durable, capacity=4, handler=executor.on_delivery)
    async with consumer.run():
        yield


def nodes_of(loaded: LoadedGraph) -> list[str]:
    """The nodes that agents serve."""
    return [node for node in loaded.topology.nodes if not node.startswith("__")]


def _subject(node: str) -> str:
    return subjects.execution("default", GRAPH, node, RELEASE)


async def submitted(world: World, body: bytes) -> int | None:
    """Publish a submission; its sequence, or None if it was not acknowledged."""
    try:
        return await world.bus.append(subjects.submit("default", GRAPH), body)
    except MeshError:
        return None
