"""The services that a mesh has, read from its registry."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.stack.spec import ServiceSpec

log = logging.getLogger(__name__)


async def services(etcd: Etcd) -> list[ServiceRecord]:
    """Every registered coordinator and agent, by name, except records that cannot be read."""
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
    etcd: Etcd,
    specs: Sequence[ServiceSpec],
    *,
    failed: asyncio.Future[MeshError],
    timeout_s: float,
    pids: Callable[[], Collection[int]] | None = None,
) -> None:
    """Wait until every service of a stack is registered as ready.

    Args:
        etcd: An open client.
        specs: The services, each as often as its replicas.
        failed: Resolves when a service cannot be kept running.
        timeout_s: Seconds to wait.
        pids: The processes of this host that count; all of every host if None. Without it, what a
            killed stack has registered counts until its lease ends.

    Raises:
        MeshError: Why a service cannot be kept running, or TIMED_OUT naming what is missing.
    """
    wanted = Counter({spec.name: spec.replicas for spec in specs})

    def decode(_: str, document: bytes) -> ServiceRecord:
        return decode_service(document)

    async with (
        View(etcd, keys.coordinators(), decode) as coordinators,
        View(etcd, keys.agents(), decode) as agents,
    ):
        ready: Counter[str] = Counter()
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
                        if record.state == "ready" and _counts(record, pids)
                    )
                    if not wanted - ready:
                        return
                    waiters: list[asyncio.Future[Any]] = [
                        asyncio.ensure_future(changed.wait()),
                        failed,
                    ]
                    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                    waiters[0].cancel()
                    if failed.done():
                        raise failed.result()
        except TimeoutError as exc:
            missing = ", ".join(sorted((wanted - ready).elements()))
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"not ready after {timeout_s:g} s: {missing}",
                remedy="Read their logs in .mesh/logs.",
            ) from exc


def _counts(record: ServiceRecord, pids: Callable[[], Collection[int]] | None) -> bool:
    return pids is None or (record.host == socket.gethostname() and record.pid in pids())
