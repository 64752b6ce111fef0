"""The service that executes one node, as its author writes it: three lines around a function."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from nats.aio.msg import Msg

from langmesh.agent.executor import NodeExecutor
from langmesh.agent.lifeline import Lifeline
from langmesh.bus import Bus, connect
from langmesh.bus.blobs import Blobs
from langmesh.bus.pull import PullConsumer
from langmesh.graphs.directory import locate
from langmesh.graphs.loading import load
from langmesh.graphs.local import NodeRunner
from langmesh.registry import keys, records
from langmesh.registry.etcd import Etcd
from langmesh.service import Service, run_service
from langmesh.wire import subjects
from langmesh.wire.streams import EXEC

log = logging.getLogger(__name__)

Body = TypeVar("Body", bound=Callable[..., Any])

GRACE_S = 10.0
"""How long tasks in work may go on after SIGTERM."""


class Agent:
    """Serves one node of a graph as a process of its own.

    Args:
        graph: Name of a published graph, or ``module:attribute``.
        node: Name of the node.
        release: Release that this process serves; ``LANGMESH_RELEASE`` by default.
        max_in_flight: Tasks that run at once; ``LANGMESH_MAX_IN_FLIGHT`` by default. Small for work on the CPU, hundreds
            for nodes that wait on a model.

    Example:
        >>> agent = Agent(graph="research", node="researcher")
        >>> @agent
        ... async def research(state: dict, runtime: Runtime) -> dict: ...
        >>> agent.serve()
    """

    def __init__(
        self,
        *,
        graph: str,
        node: str,
        release: str | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        self.graph = graph
        self.node = node
        self._release = release
        self._max_in_flight = max_in_flight
        self._body: Callable[..., Any] | None = None

    def __call__(self, body: Body) -> Body:
        """Use a plain LangGraph node function as the node's body."""
        self._body = body
        return body

    def serve(self, body: Callable[..., Any] | None = None) -> None:
        """Serve until SIGTERM; without a body, the graph's own function runs."""
        if body is not None:
            self._body = body
        run_service(self.node, self.main)

    async def main(self, service: Service) -> None:
        """Serve until ``service.stop`` is set; for callers that have an event loop already."""
        async with (
            connect(service.settings.nats_url, name=service.instance, wait_s=30) as bus,
            Etcd(service.settings.etcd_endpoints) as etcd,
            self.serving(service, bus, etcd),
        ):
            await service.stop.wait()

    @contextlib.asynccontextmanager
    async def serving(self, service: Service, bus: Bus, etcd: Etcd) -> AsyncIterator[None]:
        """Serve while the block runs, then drain."""
        settings = service.settings
        release = self._release or settings.release
        capacity = self._max_in_flight or settings.max_in_flight
        name, source = await locate(etcd, tenant=settings.tenant, graph=self.graph)
        loaded = load(source, tenant=settings.tenant, name=name)
        runner = NodeRunner(loaded, self.node, Blobs(bus), body=self._body)

        def record(state: str) -> bytes:
            return records.encode(
                service.record(
                    state, release=release, capacity=capacity, graph=name, node=self.node
                )
            )

        key = keys.agent(settings.tenant, name, self.node, service.instance)
        lifeline = Lifeline(settings, service.instance)
        executor = NodeExecutor(service, bus, lifeline, runner, release)
        subject = subjects.execution(settings.tenant, name, self.node, release)
        consumer = PullConsumer(
            bus,
            EXEC.name,
            subjects.exec_consumer(subject),
            capacity=capacity,
            handler=executor.on_delivery,
        )

        async def on_control(message: Msg) -> None:
            await executor.on_control(message.data)

        control = await bus.subscribe(
            subjects.control(settings.tenant, name, self.node), on_control
        )
        async with lifeline.run(key, record("ready")):
            log.info("serving %s of %s, release %s", self.node, name, release)
            async with consumer.run():
                yield
            await lifeline.update(record("draining"))
            await control.unsubscribe()
            await asyncio.shield(executor.drain(GRACE_S))
        await bus.flush()
