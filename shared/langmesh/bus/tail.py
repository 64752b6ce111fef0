"""Follow a stream in order and without gaps, through lost messages and server restarts.

The broker pushes through a short-lived consumer without acknowledgements. A gap in its numbering,
missed heartbeats or a reconnection make a new one that starts behind the last message seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import nats.errors

from langmesh.bus.acks import Delivered
from langmesh.bus.client import Bus
from langmesh.clock import monotonic, new_id
from langmesh.errors import ErrorCode, MeshError

log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 2
_NANOS: Final = 1_000_000_000

TailHandler = Callable[[str, bytes, int], None]


class Tail:
    """Calls ``handler(subject, body, stream_seq)`` for each message; its calls never overlap.

    Args:
        bus: The connection.
        stream: Name of the stream.
        filters: Subjects to follow; they may have wildcards and must not overlap.
        handler: Receives the messages in stream order, each once per process.
        start_seq: First stream sequence wanted; None for only what comes from now on.
        stale_after_s: After so many seconds without a sign of the broker, the stream may have lost
            messages that were never seen here: `on_stale` is called, and all begins at `start_seq`
            again.
        on_stale: Forgets what the messages so far have told.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        filters: tuple[str, ...],
        handler: TailHandler,
        *,
        start_seq: int | None = 1,
        stale_after_s: float | None = None,
        on_stale: Callable[[], None] | None = None,
    ) -> None:
        self._start_seq = start_seq
        self._stale_after_s = stale_after_s
        self._on_stale = on_stale
        self._bus = bus
        self._stream = stream
        self._filters = filters
        self._handler = handler
        self._next_seq = start_seq
        self._consumer_seq = 0
        self._last_sign: float | None = None
        self._restart = asyncio.Event()
        self._over = False
        self._inbox = ""
        self.ready = asyncio.Event()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Tail]:
        """Follow until the block ends; entered once the first consumer stands."""
        forget = self._bus.on_reconnect(self._restart.set)
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keeper = asyncio.create_task(self._keep(first), name=f"tail {self._stream}")
        try:
            await first
            yield self
        finally:
            forget()
            # The client's requests swallow a cancellation that comes together with their answer, as
            # asyncio.wait_for does before Python 3.12.
            self._over = True
            self._restart.set()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self, first: asyncio.Future[None]) -> None:
        pause = 0.05
        while not self._over:
            self._restart.clear()
            try:
                await self._follow(first)
                pause = 0.05
            except MeshError as exc:
                if not first.done():
                    first.set_exception(exc)
                    return
                log.warning("following %s: %s", self._stream, exc)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _follow(self, first: asyncio.Future[None]) -> None:
        self._inbox = self._bus.new_inbox()
        try:
            subscription = await self._bus.hear(self._inbox, self._on_message)
        except nats.errors.Error as exc:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE, f"cannot follow {self._stream}: {exc}"
            ) from exc
        name = f"tail-{new_id()[:16]}"
        try:
            self._consumer_seq = 0
            self._begin_anew_if_stale()
            await self._create(name)
            self._last_sign = monotonic()
            self.ready.set()
            if not first.done():
                first.set_result(None)
            while not self._restart.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await self._restart.wait()
                if monotonic() - self._last_sign > 2 * _HEARTBEAT_S + 0.5:
                    log.warning("no heartbeat while following %s, starting anew", self._stream)
                    break
        finally:
            self.ready.clear()
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
            self._bus.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")

    def _begin_anew_if_stale(self) -> None:
        if self._stale_after_s is None or self._last_sign is None:
            return
        if monotonic() - self._last_sign >= self._stale_after_s:
            self._next_seq = self._start_seq
            if self._on_stale is not None:
                self._on_stale()

    async def _create(self, name: str) -> None:
        config: dict[str, Any] = {
            "name": name,
            "deliver_subject": self._inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "idle_heartbeat": _HEARTBEAT_S * _NANOS,
            "flow_control": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30 * _NANOS,
            "replay_policy": "instant",
            "filter_subjects": list(self._filters),
        }
        if self._next_seq is None:
            config["deliver_policy"] = "new"
        elif self._next_seq <= 1:
            config["deliver_policy"] = "all"
        else:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = self._next_seq
        answer = await self._bus.api(
            f"CONSUMER.CREATE.{self._stream}.{name}",
            {"stream_name": self._stream, "config": config, "action": "create"},
        )
        if "error" in answer:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE,
                f"cannot follow {self._stream}: {answer['error'].get('description')}",
            )
        if self._next_seq is None:
            # From here on nothing may be missed, whatever happens to this consumer.
            self._next_seq = int(answer.get("delivered", {}).get("stream_seq", 0)) + 1

    def _on_message(
        self, subject: str, reply: str, body: bytes, _headers: Mapping[str, str]
    ) -> None:
        self._last_sign = monotonic()
        if not reply.startswith("$JS.ACK."):
            if reply:  # a flow control request: the answer lets the broker send on
                self._bus.send(reply, b"")
            return
        info = Delivered.of(reply)
        if info.consumer_seq != self._consumer_seq + 1:
            self._restart.set()
            return
        self._consumer_seq = info.consumer_seq
        self._next_seq = info.stream_seq + 1
        self._handler(subject, body, info.stream_seq)
