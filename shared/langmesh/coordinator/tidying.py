"""Let go of threads whose time is over, a little at a time, in the coordinator that deals.

The place in LOG up to which each policy has looked is kept in etcd: what was looked at is not
looked at again, by whoever deals next either. Owners of the threads do the work, and refuse what
has changed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec

from langmesh.bus import Bus
from langmesh.coordinator.ownership import DEALER_PARTITION, Ownership
from langmesh.errors import MeshError
from langmesh.log.collect import Collector
from langmesh.log.idle import IdleThread, idle_threads
from langmesh.log.values import Values
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.settings import Settings
from langmesh.wire import subjects

log = logging.getLogger(__name__)

_UNNAMED: Final = re.compile(r"thread-[0-9a-f]{8}-\d+\Z")
_PAUSE_MAX_S: Final = 300.0
_PAUSE_MIN_S: Final = 0.5
_PAGE_S: Final = 0.05
"""Between two parts of LOG, so that runs hardly notice."""
_ANSWER_S: Final = 30.0
_COLLECT_S: Final = 6 * 3600.0
"""Between two passes through LOG for what is referred to; the first is that late, too."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of idle threads."""

    name: str
    verb: str
    idle_s: int
    unnamed: bool | None
    """Whether it is for threads whose submissions named none, or for the others; None for all."""

    def concerns(self, thread: IdleThread) -> bool:
        """Whether a thread that is idle for so long is to be treated."""
        if thread.is_over is False:
            return False
        return self.unnamed is None or self.unnamed == bool(_UNNAMED.match(thread.thread))


def policies(settings: Settings) -> list[Policy]:
    """The policies that are on."""
    found = (
        Policy("history", "thread.prune", settings.keep_history, None),
        Policy("unnamed", "thread.delete", settings.keep_unnamed_threads, True),
        Policy("threads", "thread.delete", settings.keep_threads, False),
    )
    return [policy for policy in found if policy.idle_s]


@contextlib.asynccontextmanager
async def tidying(
    bus: Bus, etcd: Etcd, ownership: Ownership, settings: Settings
) -> AsyncIterator[None]:
    """Tidy up while the block runs, whenever this coordinator deals."""
    tasks = [
        asyncio.create_task(_keep(bus, etcd, ownership, policy), name=f"tidy {policy.name}")
        for policy in policies(settings)
    ]
    tasks.append(asyncio.create_task(_collect(bus, ownership), name="collect values"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(bus: Bus, etcd: Etcd, ownership: Ownership, policy: Policy) -> None:
    while True:
        # Nothing is due earlier than a share of the lifetime after the last look.
        await asyncio.sleep(min(_PAUSE_MAX_S, max(_PAUSE_MIN_S, policy.idle_s / 10)))
        if DEALER_PARTITION in ownership.owned:
            try:
                await tidy(bus, etcd, policy)
            except MeshError as exc:
                log.warning("threads are not tidied up yet (%s): %s", policy.name, exc.message)


async def _collect(bus: Bus, ownership: Ownership) -> None:
    collector = Collector(bus, Values(bus, patience_s=_ANSWER_S))
    while True:
        await asyncio.sleep(_COLLECT_S)
        if DEALER_PARTITION in ownership.owned:
            try:
                if freed := await collector.collect():
                    log.info("let go of %d bytes of values that no thread refers to", freed)
            except MeshError as exc:
                log.warning("values are not collected: %s", exc.message)


async def tidy(bus: Bus, etcd: Etcd, policy: Policy) -> int:
    """Look at what grew old since the last time; returns how many threads were treated.

    Raises:
        MeshError: BROKER_UNAVAILABLE, REGISTRY_UNAVAILABLE.
    """
    key = keys.tidied(policy.name)
    kept = await etcd.get(key)
    first = int(kept.value) if kept is not None and kept.value.isdigit() else 1
    treated = 0
    async for page in idle_threads(bus, first_seq=first, idle_s=policy.idle_s):
        for thread in page.idle:
            if policy.concerns(thread):
                treated += await _treat(bus, policy, thread)
        await etcd.put(key, str(page.next_seq).encode())
        await asyncio.sleep(_PAGE_S)
    if treated:
        log.info("%s: %d idle threads", policy.verb, treated)
    return treated


async def _treat(bus: Bus, policy: Policy, thread: IdleThread) -> bool:
    """Ask the thread's owner; False if it refuses, since the thread is not idle any more."""
    body = msgspec.json.encode({"thread_id": thread.thread, "unchanged_since": thread.seq})
    answer = await bus.request(subjects.rpc(thread.tenant, policy.verb), body, timeout_s=_ANSWER_S)
    return b'"error"' not in answer[:9]
