"""The stores that nodes find in ``runtime.store``, one per declaration in a process."""

from __future__ import annotations

from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from langmesh.bus import Bus
from langmesh.store import NatsStore


class Stores:
    """Makes stores on one connection; none of them sends anything before a node uses it.

    Args:
        bus: The connection.
        tenant: Whose stores they are.
    """

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._made: dict[int | None, NatsStore] = {}
        self._declared: list[InMemoryStore] = []

    def of(self, declared: BaseStore | None) -> BaseStore:
        """The store of a graph that was compiled with ``store=declared``.

        An in-memory store would be another one in every process: the tenant's takes its place, and
        searches by similarity as it would have. Any other store is the graph's own affair.
        """
        if declared is not None and not isinstance(declared, InMemoryStore):
            return declared
        key = None if declared is None else id(declared)
        if (store := self._made.get(key)) is None:
            index = declared.index_config if declared is not None else None
            store = self._made[key] = NatsStore(self._bus, tenant=self._tenant, index=index)
            if declared is not None:
                self._declared.append(declared)  # its id stays its own
        return store

    async def aclose(self) -> None:
        """Close the stores that were made."""
        for store in self._made.values():
            await store.aclose()
