"""Go on with the runs of owners before: threads that are marked in ACTIVE are looked at.

That is so for a partition's threads when it comes, for a thread whose log or events somebody else
has written to, and for all of them from time to time: an owner that did not know that it was
replaced may have begun a run since, in a thread that nobody looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

from langmesh.bus import Bus
from langmesh.bus.reading import subjects_of
from langmesh.coordinator.catalog import Catalog
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.ownership import Ownership
from langmesh.coordinator.threads import NotOwned
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import subjects
from langmesh.wire.names import partition
from langmesh.wire.streams import ACTIVE

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16
_RETRY_S: Final = 1.0
_SWEEP_S: Final = 20.0


@contextlib.asynccontextmanager
async def recovering(
    bus: Bus, runs: LiveRuns, catalog: Catalog, ownership: Ownership
) -> AsyncIterator[None]:
    """Take over what owners before left in each partition that comes, while the block runs.

    A run that cannot go on here is tried again when a revision of some graph is loaded, and with
    every sweep.
    """
    changed = asyncio.Event()
    left: set[str] = set()

    def on_left(tenant: str, thread_id: str) -> None:
        left.add(subjects.active(partition(tenant, thread_id), tenant, thread_id))
        asyncio.get_running_loop().call_later(_RETRY_S, changed.set)

    runs.on_left = on_left
    catalog.on_graphs_changed(changed.set)
    ownership.on_change(changed.set)
    task = asyncio.create_task(_recover(bus, runs, ownership, changed, left), name="recover runs")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _recover(
    bus: Bus, runs: LiveRuns, ownership: Ownership, changed: asyncio.Event, left: set[str]
) -> None:
    waiting: set[str] = set()
    seen: dict[int, int] = {}
    while True:
        swept = not await _is_set(changed, within_s=_SWEEP_S)
        changed.clear()
        epochs = ownership.epochs
        # Also one that was lost and won back meanwhile.
        new = {number for number, epoch in epochs.items() if swept or seen.get(number) != epoch}
        seen = epochs
        waiting |= left
        left.clear()
        if new:
            waiting |= {each for each in await _marked(bus) if _partition(each) in new}
        waiting = {each for each in waiting if not runs.drives(*subjects.parse_active(each))}
        places = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(
            *(_take_over(bus, runs, subject, places) for subject in waiting)
        )
        waiting = {subject for subject in found if subject}


async def _is_set(event: asyncio.Event, *, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within_s)
    return event.is_set()


def _partition(subject: str) -> int:
    return partition(*subjects.parse_active(subject))


async def _marked(bus: Bus) -> set[str]:
    while True:
        try:
            return set(await subjects_of(bus, ACTIVE.name, subjects.ACTIVE_ALL))
        except MeshError as exc:
            log.warning("unfinished runs cannot be listed yet: %s", exc.message)
            await asyncio.sleep(_RETRY_S)


async def _take_over(bus: Bus, runs: LiveRuns, subject: str, places: asyncio.Semaphore) -> str:
    """Go on with a marked thread's run; gives the subject back if that is not possible yet."""
    async with places:
        while True:
            try:
                mark = await bus.last(ACTIVE.name, subject)
                if mark is None:
                    return ""
                tenant, thread = subjects.parse_active(subject)
                if await runs.take_over(tenant, thread, mark=mark[0]) is None:
                    await bus.delete(ACTIVE.name, mark[0])
            except NotOwned:
                return ""
            except MeshError as exc:
                if exc.code != ErrorCode.FENCED and (
                    not exc.retryable or exc.code == ErrorCode.UNKNOWN_GRAPH
                ):
                    log.error("the run marked by %s waits: %s", subject, exc.message)  # noqa: TRY400
                    return subject
                log.warning("the run marked by %s is not taken over yet: %s", subject, exc.message)
            except Exception:
                log.exception("the run marked by %s cannot be taken over", subject)
                return subject
            else:
                return ""
            await asyncio.sleep(_RETRY_S)
