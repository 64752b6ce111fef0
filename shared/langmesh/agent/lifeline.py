"""A thread that speaks for an agent while user code blocks the event loop.

It has its own loop, its own NATS connection and its own etcd channel. It restarts the broker's
acknowledgement timer of every task in work and keeps the registration's lease alive, so that a node
that blocks for minutes is neither delivered twice nor declared dead. It reports the agent's load
and answers NATS' questions about the service, so that such a node is seen to be busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import uvloop

from langmesh.bus import Bus, connect
from langmesh.bus.presence import Presence, present
from langmesh.clock import monotonic
from langmesh.registry.etcd import Etcd
from langmesh.registry.lease import Registration
from langmesh.registry.loads import INTERVAL_S
from langmesh.service.load import keep_reporting
from langmesh.settings import Settings
from langmesh.wire.streams import EXEC_ACK_WAIT_S

log = logging.getLogger(__name__)

_BEAT_S: Final = EXEC_ACK_WAIT_S / 4
_REGISTERED_S: Final = 10.0


class Lifeline:
    """Keeps deliveries and a registration alive from a thread of its own."""

    def __init__(self, settings: Settings, instance: str) -> None:
        self._settings = settings
        self._instance = instance
        self._watched: dict[str, float] = {}
        self._thread = threading.Thread(target=self._main, name="lifeline", daemon=True)
        self._ready: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._registration: Registration | None = None
        self._entries: dict[str, bytes] = {}
        self._presences: Sequence[Presence] = ()
        self._measure: Callable[[], Mapping[str, bytes]] = dict
        self._interval_s = INTERVAL_S

    @contextlib.asynccontextmanager
    async def run(
        self,
        entries: dict[str, bytes],
        *,
        presences: Sequence[Presence] = (),
        measure: Callable[[], Mapping[str, bytes]] = dict,
        interval_s: float = INTERVAL_S,
    ) -> AsyncIterator[Lifeline]:
        """Register keys and keep them until the block ends; then they are gone at once.

        Args:
            entries: The registrations by key.
            presences: What to show to NATS' tools.
            measure: Makes reports of the load by key; called from the lifeline's thread.
            interval_s: Seconds between two reports.
        """
        self._entries = entries
        self._presences, self._measure, self._interval_s = presences, measure, interval_s
        self._thread.start()
        await asyncio.wrap_future(self._ready)
        try:
            yield self
        finally:
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join, 5)

    def watch(self, reply: str) -> None:
        """Keep a delivery alive from now on."""
        self._watched[reply] = monotonic()

    def unwatch(self, reply: str) -> None:
        """Let go of a delivery."""
        self._watched.pop(reply, None)

    async def update(self, key: str, value: bytes) -> None:
        """Replace the value of a registered key."""
        if self._registration is None or self._loop is None:
            return
        change = asyncio.run_coroutine_threadsafe(
            self._registration.update(value, key=key), self._loop
        )
        await asyncio.wrap_future(change)

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._live())
        except Exception as exc:
            if not self._ready.done():
                self._ready.set_exception(exc)
            else:
                log.exception("the lifeline broke")

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        name = f"{self._instance} lifeline"
        async with (
            connect(self._settings.nats_url, name=name, wait_s=10) as bus,
            Etcd(self._settings.etcd_endpoints) as etcd,
            Registration(etcd, self._entries) as registration,
            contextlib.AsyncExitStack() as stack,
        ):
            self._registration = registration
            for presence in self._presences:
                await stack.enter_async_context(present(bus, presence))
            await registration.wait_up(_REGISTERED_S)
            reports = asyncio.create_task(
                keep_reporting(registration, self._measure, self._interval_s), name="load"
            )
            reports.add_done_callback(_tell_failure)
            self._ready.set_result(None)
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_S):
                        await self._stop.wait()
                self._beat(bus)
            reports.cancel()

    def _beat(self, bus: Bus) -> None:
        now = monotonic()
        for reply, since in list(self._watched.items()):
            # Most tasks are over before their first beat and cost nothing here.
            if now - since >= _BEAT_S / 2:
                bus.send(reply, b"+WPI")


def _tell_failure(reports: asyncio.Task[None]) -> None:
    """An agent without reports still works; that it makes none must not go unnoticed."""
    if not reports.cancelled() and (failure := reports.exception()) is not None:
        log.error("the load is not reported any more", exc_info=failure)
