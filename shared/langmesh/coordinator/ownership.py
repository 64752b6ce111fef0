"""One coordinator drives runs at a time; others stand by until its lease in etcd ends.

All partitions have one owner: the key of partition 0 stands for them all. The lease only decides
who tries (rule R1); a coordinator that does not know that it lost is fenced by the compare-and-set
on every entry of a log and on every event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from langmesh.errors import MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.lease import Lease
from langmesh.registry.view import View

log = logging.getLogger(__name__)

_KEY: Final = keys.partition(0)
_RETRY_S: Final = 0.25


@contextlib.asynccontextmanager
async def ownership(etcd: Etcd, instance: str, on_lost: Callable[[], None]) -> AsyncIterator[int]:
    """Wait until this coordinator is the one that drives, and stay it while the block runs.

    Args:
        etcd: An open client.
        instance: This coordinator.
        on_lost: Called when another coordinator has taken over; this one must stop.

    Yields:
        The epoch of the ownership: greater than that of any before.
    """
    leading: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    keeper = asyncio.create_task(_keep(etcd, instance.encode(), leading, on_lost), name="lead")
    try:
        yield await leading
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _keep(
    etcd: Etcd, instance: bytes, leading: asyncio.Future[int], on_lost: Callable[[], None]
) -> None:
    while True:
        try:
            async with Lease(etcd) as lease:
                if epoch := await _take(etcd, instance, lease):
                    if not leading.done():
                        leading.set_result(epoch)
                    await lease.lost.wait()
                elif leading.done():
                    log.error("another coordinator drives the runs now")
                    on_lost()
                    return
                else:
                    await _wait_for_vacancy(etcd)
        except MeshError as exc:
            log.warning("the coordinators' lease: %s", exc)
        await asyncio.sleep(_RETRY_S)


async def _take(etcd: Etcd, instance: bytes, lease: Lease) -> int:
    """Take the key if nobody has it, or if it is our own from before a loss of connection.

    Returns:
        The epoch of the ownership, which rises with each; 0 if another one has the key.
    """
    won, revision = await etcd.compare_and_put(_KEY, instance, 0, lease.id)
    if won:
        return revision
    entry = await etcd.get(_KEY)
    if entry is None or entry.value != instance:
        return 0
    won, revision = await etcd.compare_and_put(_KEY, instance, revision, lease.id)
    return entry.create_revision if won else 0


async def _wait_for_vacancy(etcd: Etcd) -> None:
    log.info("standing by: another coordinator drives the runs")

    def vacant(items: Mapping[str, bytes]) -> bool:
        return "0" not in items

    async with View(etcd, keys.partitions(), lambda _, document: document) as view:
        await view.wait_for(vacant, timeout_s=None)
