"""The services that a mesh has, read from its registry."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.stack.spec import ServiceSpec

log = logging.getLogger(__name__)


async def services(etcd: Etcd) -> list[ServiceRecord]:
    """Every registered coordinator and agent, by name; records that cannot be read are left out."""
    snapshots = await asyncio.gather(etcd.list(keys.coordinators()), etcd.list(keys.agents()))
    records = []
    for snapshot in snapshots:
        for key, entry in snapshot.entries.items():
            try:
                records.append(decode_service(entry.value))
            except MeshError as exc:
                log.warning("left out what is registered at %s: %s", key, exc.message)
    return sorted(records, key=lambda record: (record.service, record.instance))


async def wait_until_ready(
    etcd: Etcd, specs: Sequence[ServiceSpec], *, failed: asyncio.Future[MeshError], timeout_s: float
) -> None:
    """Wait until every service of a stack is registered as ready.

    Raises:
        MeshError: SERVICE_FAILED when a service cannot be kept running, TIMED_OUT naming what is missing.
    """
    wanted = Counter({spec.name: spec.replicas for spec in specs})

    def decode(_: str, document: bytes) -> ServiceRecord:
        return decode_service(document)

    async with (
        View(etcd, keys.coordinators(), decode) as coordinators,
        View(etcd, keys.agents(), decode) as agents,
    ):
        changed = asyncio.Event()
        for view in (coordinators, agents):
            view.subscribe(changed.set)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    changed.clear()
                    ready = Counter(
                        record.service
                        for view in (coordinators, agents)
                        for record in view.items.values()
                        if record.state == "ready"
                    )
                    if not wanted - ready:
                        return
                    waiter = asyncio.create_task(changed.wait())
                    await asyncio.wait({waiter, failed}, return_when=asyncio.FIRST_COMPLETED)
                    waiter.cancel()
                    if failed.done():
                        raise failed.result()
        except TimeoutError as exc:
            missing = ", ".join(sorted((wanted - ready).elements()))
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"not ready after {timeout_s:g} s: {missing}",
                remedy="Read their logs in .mesh/logs.",
            ) from exc
