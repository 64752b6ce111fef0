"""Which coordinator answers a request: the one that owns what it is about."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.service import PassOn, Request
from langmesh.coordinator.ownership import DEALER_PARTITION, Ownership
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import subjects
from langmesh.wire.names import partition
from langmesh.wire.peers import HOPS_HEADER
from langmesh.wire.streams import EVENT

_HOPS_MAX: Final = 4
_LOOKS_S: Final = (0.05, 0.2, 0.5)
"""A run that was just accepted elsewhere may not have its first event yet."""


class Routing:
    """Passes requests on.

    Args:
        bus: The connection.
        instance: This coordinator.
        ownership: Who owns what.
    """

    def __init__(self, bus: Bus, instance: str, ownership: Ownership) -> None:
        self._bus = bus
        self._instance = instance
        self._ownership = ownership

    async def elsewhere(
        self, tenant: str, verb: str, asked: Any, request: Request
    ) -> PassOn | None:
        """Where a request has to go; None if it is to be answered here.

        Args:
            tenant: Whose request.
            verb: What is asked.
            asked: The decoded body: its ``thread_id`` or ``run_id`` tells whose it is.
            request: As it came.

        Raises:
            MeshError: BUSY while nobody owns what it is about.
        """
        if self._ownership.alone:
            return None
        number = await self._about(tenant, verb, asked)
        return None if number is None else await self.passed_on(number, tenant, verb, request)

    async def passed_on(
        self, number: int, tenant: str, verb: str, request: Request
    ) -> PassOn | None:
        """A request for the owner of a partition; None if that is this coordinator.

        Raises:
            MeshError: BUSY while nobody owns the partition.
        """
        owner = await self._ownership.owner_within(number)
        if owner == self._instance:
            return None
        given = request.headers.get(HOPS_HEADER, "0")
        hops = int(given) if given.isdecimal() else _HOPS_MAX
        if hops >= _HOPS_MAX:
            raise MeshError(
                ErrorCode.BUSY,
                "no coordinator answers: the thread goes from one to another",
                remedy="Ask again in a moment.",
            )
        return PassOn(
            subject=subjects.peer_rpc(owner, tenant, verb),
            body=request.body,
            headers={**request.headers, HOPS_HEADER: str(hops + 1)},
        )

    async def runs(self, tenant: str, run_id: str) -> bool:
        """Whether a run that is driven elsewhere has begun and told nobody that it is settled."""
        if self._ownership.alone:
            return False
        found = await self._bus.find(EVENT.name, subjects.events_of_run(tenant, run_id))
        return found is not None and b'"run.ended.v1"' not in found[2]

    async def _about(self, tenant: str, verb: str, asked: Any) -> int | None:
        if verb == "run.start":
            return DEALER_PARTITION
        if (thread_id := getattr(asked, "thread_id", None)) is not None:
            return partition(tenant, thread_id)
        if (run_id := getattr(asked, "run_id", None)) is not None:
            return await self._of_run(tenant, run_id)
        return None

    async def _of_run(self, tenant: str, run_id: str) -> int | None:
        for pause_s in (*_LOOKS_S, None):
            found = await self._bus.find(EVENT.name, subjects.events_of_run(tenant, run_id))
            if found is not None:
                return partition(tenant, subjects.parse_event(found[0]).thread)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        return None
