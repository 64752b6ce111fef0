"""The coordinator as a service: publish what it was given, then admit and drive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from langmesh.bus import Bus, connect
from langmesh.bus.blobs import Blobs
from langmesh.bus.streams import ensure_consumer, ensure_streams, lifetimes
from langmesh.coordinator import durability
from langmesh.coordinator.admission import Admission
from langmesh.coordinator.catalog import Catalog
from langmesh.coordinator.dealing import Dealer
from langmesh.coordinator.dispatch import Dispatcher
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.ownership import DEALER_PARTITION, Ownership
from langmesh.coordinator.peers import Peers
from langmesh.coordinator.recovery import recovering
from langmesh.coordinator.registrar import Registrar
from langmesh.coordinator.routing import Routing
from langmesh.coordinator.rpc import Rpc
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import Threads
from langmesh.coordinator.tidying import tidying
from langmesh.graphs import directory, seam
from langmesh.graphs.loading import load
from langmesh.graphs.sources import parse_sources
from langmesh.registry import keys, loads, records
from langmesh.registry.capability import capability_key
from langmesh.registry.etcd import Etcd
from langmesh.registry.lease import Registration
from langmesh.service import Service, run_service
from langmesh.service.configuration import following
from langmesh.service.load import Meter, keep_reporting
from langmesh.service.usage import Usage
from langmesh.wire import subjects
from langmesh.wire.streams import SUBMIT, SUBMIT_CONSUMER

log = logging.getLogger(__name__)

_REGISTERED_S = 10.0


class Coordinator:
    """Compiles graphs, admits submissions, drives runs.

    Args:
        sources: Graphs to publish at start, each ``[name=]module:attribute``.
        load_interval_s: Seconds between two reports of the load.
    """

    def __init__(
        self, sources: Sequence[str] = (), *, load_interval_s: float = loads.INTERVAL_S
    ) -> None:
        self._sources = sources
        self._load_interval_s = load_interval_s

    def serve(self) -> None:
        """Serve until SIGTERM."""
        run_service("coordinator", self.main)

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
        """Serve while the block runs."""
        seam.install_seam()
        settings = service.settings
        await asyncio.gather(
            ensure_streams(bus, replicas=settings.replicas, ages_s=lifetimes(settings)),
            self._publish(etcd, settings.tenant, settings.release),
        )
        await ensure_consumer(bus, SUBMIT_CONSUMER)
        profile = await durability.profile(bus, settings)
        _, key = await capability_key(etcd)
        where = keys.coordinator(settings.tenant, service.instance)
        ownership = Ownership(etcd, service.instance)
        async with (
            Catalog(bus, etcd).run() as catalog,
            following(etcd, settings) as configuration,
            Dispatcher(bus, catalog, service.instance).run() as dispatcher,
        ):
            engine = Engine(
                catalog=catalog,
                dispatcher=dispatcher,
                blobs=Blobs(bus),
                tracer=service.telemetry.tracer,
                key=key,
                instance=service.instance,
                configuration=configuration,
            )
            threads = Threads(
                bus,
                instance=service.instance,
                epoch=ownership.epoch,
                confirm=ownership.confirm,
                idle_max=settings.threads_max,
            )
            runs = LiveRuns(bus, engine, threads)
            admission = Admission(bus, engine, runs)
            peers = Peers(bus, service.instance, ownership, admission, runs)
            dealer = Dealer(
                bus,
                service.instance,
                ownership,
                admission,
                runs,
                peers,
                max_runs=settings.max_runs,
            )
            routing = Routing(bus, service.instance, ownership)
            registrar = Registrar(bus, etcd, catalog)
            rpc = Rpc(bus, service.instance, runs, dealer, routing, catalog, registrar)

            async def on_lost(partitions: frozenset[int]) -> None:
                if DEALER_PARTITION in partitions:
                    await dealer.stopped()
                await runs.release(partitions)

            # The registration ends first, so that others count on this one no more, and then what
            # it owns is given to them while it still answers.
            async with (
                admission.run(),
                peers.listening(),
                dealer.run(),
                recovering(bus, runs, catalog, ownership),
                tidying(bus, etcd, ownership, settings),
                rpc.server(
                    release=settings.release,
                    subject=subjects.RPC_ALL,
                    stream=SUBMIT.name,
                    consumer=SUBMIT_CONSUMER.durable,
                ),
                ownership.run(on_gained=dispatcher.follow, on_lost=on_lost),
                Registration(etcd, {where: _record(service, catalog)}) as registration,
            ):
                catalog.on_graphs_changed(
                    lambda: registration.replace(where, _record(service, catalog))
                )
                await registration.wait_up(_REGISTERED_S)
                await ownership.balanced(timeout_s=_REGISTERED_S)
                log.info("durability profile: %s", profile)
                async with self._reporting(service, runs, registration):
                    with service.announced():
                        yield

    @contextlib.asynccontextmanager
    async def _reporting(
        self, service: Service, runs: LiveRuns, registration: Registration
    ) -> AsyncIterator[None]:
        """Report the load while the block runs."""
        settings, usage = service.settings, Usage()
        key = keys.coordinator_load(settings.tenant, service.instance)
        meter = Meter(
            service.instance,
            runs.counts,
            in_flight=lambda: runs.in_flight,
            capacity=lambda: settings.max_runs,
            interval_s=self._load_interval_s,
        )
        reports = asyncio.create_task(
            keep_reporting(
                registration,
                lambda: {key: loads.encode(meter.measure(usage.sample()))},
                self._load_interval_s,
            ),
            name="load",
        )
        try:
            yield
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)

    async def _publish(self, etcd: Etcd, tenant: str, release: str) -> None:
        for source in parse_sources(self._sources):
            topology = load(str(source), tenant=tenant).topology
            await directory.publish(etcd, topology, release=release)
            log.info("published %s at revision %s", topology.graph, topology.revision)


def _record(service: Service, catalog: Catalog) -> bytes:
    """The registration, which tells who publishes a graph what becomes of it."""
    tenant = service.settings.tenant
    return records.encode(
        service.record(
            "ready",
            capacity=service.settings.max_runs,
            graphs=catalog.revisions(tenant),
            problems=catalog.problems(tenant),
        )
    )
