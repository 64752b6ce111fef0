"""Follow a mesh: the registry by watches, the tasks that wait by asking the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from langmesh import clock
from langmesh.bus import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys, loads
from langmesh.registry.etcd import Etcd
from langmesh.registry.loads import Load
from langmesh.registry.records import Bindings, ServiceRecord, decode_bindings, decode_service
from langmesh.registry.view import View
from langmesh.stack.overview import Overview, overview
from langmesh.wire import subjects
from langmesh.wire.streams import EXEC

_BROKER_S: Final = 1.0
"""Time for the broker to tell what waits: who looks on is not kept waiting by it."""
_READY_S: Final = 3.0


class Observer:
    """What a mesh is made of now; made by :func:`observing`."""

    def __init__(self, bus: Bus, etcd: Etcd) -> None:
        self._bus = bus
        self._coordinators: View[ServiceRecord] = View(
            etcd, keys.coordinators(), lambda key, doc: _named(key, 2, decode_service(doc))
        )
        self._agents: View[ServiceRecord] = View(
            etcd, keys.agents(), lambda key, doc: _named(key, 4, decode_service(doc))
        )
        self._loads: View[Load] = View(etcd, keys.loads(), lambda _, doc: loads.decode(doc))
        self._graphs: View[Bindings | None] = View(etcd, keys.graphs(), _decode_graph)
        self._views: tuple[View[Any], ...] = (
            self._coordinators,
            self._agents,
            self._loads,
            self._graphs,
        )
        self.changed = asyncio.Event()
        """Set by every change of the registry; whoever waits for it clears it."""

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Observer]:
        """Follow the registry while the block runs; entered when it is known.

        Raises:
            MeshError: REGISTRY_UNAVAILABLE.
        """
        async with contextlib.AsyncExitStack() as stack:
            for view in self._views:
                await stack.enter_async_context(view)
            for view in self._views:
                await view.wait_ready(_READY_S)
                stack.callback(view.subscribe(self.changed.set))
            yield self

    async def look(self) -> Overview:
        """How the mesh stands now."""
        bindings = {key: item for key, item in self._graphs.items.items() if item is not None}
        wanted = {each.subject for table in bindings.values() for each in table.nodes.values()}
        backlogs = await self._backlogs(sorted(wanted))
        return overview(
            coordinators=self._coordinators.items,
            agents=self._agents.items,
            loads=self._loads.items,
            bindings=bindings,
            backlogs=backlogs,
            now=clock.now_iso(),
        )

    async def _backlogs(self, wanted: Iterable[str]) -> dict[str, int]:
        """Tasks that wait for an agent, by subject, as far as the broker tells."""
        found: dict[str, int] = {}

        async def ask(subject: str) -> None:
            consumer = f"{EXEC.name}.{subjects.exec_consumer(subject)}"
            info = await self._bus.api(f"CONSUMER.INFO.{consumer}")
            if isinstance(pending := info.get("num_pending"), int):
                found[subject] = pending

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BROKER_S):
                await asyncio.gather(*map(ask, wanted), return_exceptions=True)
        return found


@contextlib.asynccontextmanager
async def observing(bus: Bus, etcd: Etcd) -> AsyncIterator[Observer]:
    """Follow a mesh while the block runs.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE.
    """
    async with Observer(bus, etcd).run() as observer:
        yield observer


def _named(key: str, parts: int, record: ServiceRecord) -> ServiceRecord:
    names = keys.names(key)
    if len(names) != parts:
        raise MeshError(ErrorCode.INVALID_NAME, f"{key!r} has {len(names)} parts, not {parts}")
    return record


def _decode_graph(key: str, document: bytes) -> Bindings | None:
    """Bindings; other documents of a graph say nothing of who serves it."""
    names = keys.names(key)
    if len(names) != 3 or names[2] != "bindings":
        return None
    bindings = decode_bindings(document)
    for binding in bindings.nodes.values():
        subjects.parse_execution(binding.subject)
    return bindings
