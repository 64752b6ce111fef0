"""The services that a mesh has, read from its registry."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.stack.spec import ServiceSpec


async def services(etcd: Etcd) -> list[ServiceRecord]:
    """Every registered coordinator and agent, by name."""
    snapshots = await asyncio.gather(etcd.list(keys.coordinators()), etcd.list(keys.agents()))
    records = [
        decode_service(entry.value) for snapshot in snapshots for entry in snapshot.entries.values()
    ]
    return sorted(records, key=lambda record: (record.service, record.instance))


async def wait_until_ready(
    etcd: Etcd, specs: Sequence[ServiceSpec], *, failed: asyncio.Future[MeshError], timeout_s: float
) -> None:
    """Wait until every service of a stack is registered as ready.

    Raises:
        MeshError: SERVICE_FAILED when a service cannot be kept running, TIMED_OUT naming what is
            missing.
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
        ready: Counter[str] = Counter()
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
                    await either(changed, failed)
                    if failed.done():
                        raise failed.result()
        except TimeoutError as exc:
            missing = ", ".join(sorted((wanted - ready).elements()))
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"not ready after {timeout_s:g} s: {missing}",
                remedy="Read their logs in .mesh/logs.",
            ) from exc


async def either(event: asyncio.Event, future: asyncio.Future[MeshError]) -> None:
    """Wait until an event is set or a future is resolved."""
    waiter = asyncio.ensure_future(event.wait())
    pending: set[asyncio.Future[Any]] = {waiter, future}
    try:
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
