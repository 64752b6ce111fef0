"""A test kit: a private mesh on real servers, in a fraction of a second.

Example:
    >>> async with local_mesh() as mesh:
    ...     async with mesh.coordinator("my_app:graph"), mesh.agents("my_app:graph"):
    ...         ended = await mesh.run("my_app", {"question": "Why?"})
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langmesh import clock, settings
from langmesh.agent.host import NodePlace, hosting
from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_streams
from langmesh.client import Client
from langmesh.coordinator.service import Coordinator
from langmesh.embedded.pool import lease_servers
from langmesh.embedded.process import Child
from langmesh.embedded.servers import Servers
from langmesh.graphs import directory
from langmesh.graphs.loading import load
from langmesh.graphs.sources import parse_source
from langmesh.registry.etcd import Etcd
from langmesh.registry.loads import INTERVAL_S
from langmesh.service import Service
from langmesh.settings import Settings
from langmesh.telemetry.tracing import Telemetry, setup
from langmesh.wire.messages import RunEnded, RunInterrupted

__all__ = ["LocalMesh", "local_mesh"]


@dataclass(slots=True)
class LocalMesh:
    """A private stack; made by :func:`local_mesh`.

    Attributes:
        nats_url: ``nats://HOST:PORT`` of a server that nobody else uses.
        etcd_endpoints: ``HOST:PORT`` of an etcd that nobody else uses.
        settings: Settings that point at both.
        bus: A connection to the server.
        etcd: A client of the etcd.
        servers: The server processes, to be killed and started again.
    """

    nats_url: str
    etcd_endpoints: tuple[str, ...]
    settings: Settings
    bus: Bus
    etcd: Etcd
    servers: Servers

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a service process of this mesh."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "NATS_URL": self.nats_url,
            "ETCD_ENDPOINTS": ",".join(self.etcd_endpoints),
        }

    @asynccontextmanager
    async def coordinator(
        self,
        *sources: str,
        telemetry: Telemetry | None = None,
        load_interval_s: float = INTERVAL_S,
    ) -> AsyncIterator[Service]:
        """Run a coordinator in this event loop while the block runs; it publishes ``sources``."""
        service = self._service("coordinator", telemetry)
        async with (
            connect(self.nats_url, name=service.instance) as bus,
            Etcd(self.etcd_endpoints) as etcd,
            Coordinator(sources, load_interval_s=load_interval_s).serving(service, bus, etcd),
        ):
            yield service

    @asynccontextmanager
    async def agents(
        self,
        graph: str,
        *nodes: str,
        release: str | None = None,
        max_in_flight: int | None = None,
        capabilities: Sequence[str] = (),
        telemetry: Telemetry | None = None,
        load_interval_s: float = INTERVAL_S,
    ) -> AsyncIterator[Service]:
        """Serve nodes of a graph in this event loop while the block runs; all if none is named.

        Args:
            graph: Name of a published graph, or its ``module:attribute``.
            nodes: The nodes.
            release: Release that the agents belong to.
            max_in_flight: Tasks that an agent works on at once.
            capabilities: What the agents say that they can do.
            telemetry: Where spans go; nowhere unless the settings say so.
            load_interval_s: Seconds between two reports of the load.

        Raises:
            MeshError: UNKNOWN_GRAPH, GRAPH_IMPORT_FAILED.
        """
        tenant = self.settings.tenant
        if nodes:
            names = nodes
        elif ":" in graph:
            names = tuple(load(graph, tenant=tenant).topology.nodes)
        else:
            topology, _ = await directory.fetch(self.etcd, tenant=tenant, graph=graph)
            names = tuple(topology.nodes)
        service = self._service("agent", telemetry)
        places = [
            NodePlace(
                graph=graph,
                node=node,
                release=release,
                max_in_flight=max_in_flight,
                capabilities=capabilities,
            )
            for node in names
        ]
        async with hosting(service, places, load_interval_s=load_interval_s):
            yield service

    def spawn(
        self, name: str, module: str, *args: str, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start ``python -m module args…`` as a process of this mesh; it ends with the mesh."""
        log = Path(self.settings.home) / f"{name}-{clock.new_id()[:6]}.log"
        return self.servers.guard.spawn(
            name,
            [sys.executable, "-m", module, *args],
            log=log,
            env={**self.environ, **(env or {})},
        )

    @asynccontextmanager
    async def client(self, graph: str) -> AsyncIterator[Client]:
        """Submit to a graph and follow its runs."""
        async with Client.open(self.bus, graph, tenant=self.settings.tenant) as client:
            yield client

    async def run(
        self,
        graph: str,
        input: Any,  # noqa: A002  LangGraph's word
        *,
        timeout_s: float = 30.0,
        **fields: Any,
    ) -> RunEnded | RunInterrupted:
        """Submit one run and wait for its last event.

        Raises:
            MeshError: The submission was rejected.
            TimeoutError: No result in time.
        """
        name = parse_source(graph).name if ":" in graph else graph
        async with asyncio.timeout(timeout_s), self.client(name) as client:
            return await (await client.submit(input, **fields)).result()

    def _service(self, name: str, telemetry: Telemetry | None) -> Service:
        instance = clock.new_instance(name)
        return Service(
            name=name,
            instance=instance,
            settings=self.settings,
            telemetry=telemetry
            or setup(self.settings, service=name, instance=instance, version="test"),
        )


@asynccontextmanager
async def local_mesh(**overrides: str) -> AsyncIterator[LocalMesh]:
    """Start a private mesh: real servers with fresh state, the streams in place, no services yet.

    Args:
        overrides: Settings by their environment names, e.g. ``LANGMESH_MAX_RUNS="4"``.

    Raises:
        MeshError: SERVER_START_FAILED, DEPENDENCY_MISSING, INVALID_SETTING.
    """
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(lease_servers())
        config = settings.load(
            {
                "NATS_URL": servers.nats_url,
                "ETCD_ENDPOINTS": ",".join(servers.etcd_endpoints),
                "LANGMESH_HOME": str(servers.home),
                **overrides,
            }
        )
        bus = await stack.enter_async_context(connect(servers.nats_url, name="local mesh"))
        etcd = await stack.enter_async_context(Etcd(servers.etcd_endpoints))
        await ensure_streams(bus)
        yield LocalMesh(
            nats_url=servers.nats_url,
            etcd_endpoints=servers.etcd_endpoints,
            settings=config,
            bus=bus,
            etcd=etcd,
            servers=servers,
        )
