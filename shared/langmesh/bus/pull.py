"""Continuous pull from a durable consumer.

The broker keeps a standing request of as many messages as this process may still take, so that each
process gets what it can work on and no more. A raw pull request vanishes when the server restarts,
without a word: requests are made anew on reconnection and when the server's heartbeats stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import nats.errors
from nats.aio.subscription import Subscription

from langmesh.bus.acks import Delivered
from langmesh.bus.client import Bus
from langmesh.clock import monotonic

log = logging.getLogger(__name__)

_EXPIRES_S: Final = 30
_HEARTBEAT_S: Final = 2
_RETRY_S: Final = 0.25
_COLLECT_S: Final = 0.005


class Delivery:
    """One attempt of the broker to hand over one message.

    Call :meth:`ack` when the work is durable elsewhere, or :meth:`release` to let the broker
    deliver it again; each frees the place for another message.

    Args:
        bus: Whose connection the answers take: any will do.
        subject: The message's.
        body: Likewise.
        headers: Likewise.
        reply: Where the broker waits for the answer; it names the attempt.
        puller: Whose place the message takes, if any.
    """

    __slots__ = (
        "_acked",
        "_bus",
        "_done",
        "_puller",
        "body",
        "deliveries",
        "headers",
        "reply",
        "stream_seq",
        "subject",
    )

    def __init__(
        self,
        bus: Bus,
        *,
        subject: str,
        body: bytes,
        headers: Mapping[str, str],
        reply: str,
        puller: PullConsumer | None = None,
    ) -> None:
        info = Delivered.of(reply)
        self.subject = subject
        self.body = body
        self.headers = headers
        self.reply = reply
        self.stream_seq = info.stream_seq
        self.deliveries = info.deliveries
        self._bus = bus
        self._puller = puller
        self._acked = False
        self._done = False

    def ack(self) -> None:
        """Remove the message for good."""
        self.remove()
        self._finish(None)

    def remove(self) -> None:
        """Remove the message for good and keep its place until :meth:`ack`."""
        if not (self._acked or self._done):
            self._acked = True
            self._bus.send(self.reply, b"")

    def release(self, delay_s: float = 0.0) -> None:
        """Give the message back, to be delivered again after the delay."""
        self._finish(b'-NAK {"delay": %d}' % int(delay_s * 1e9))

    def leave(self) -> None:
        """Free the place: whoever got the message from here answers for it."""
        self._finish(None)

    def lending(self) -> contextlib.AbstractContextManager[None]:
        """Let the broker hand over another message in this one's place while the block runs."""
        return contextlib.nullcontext() if self._puller is None else self._puller.lending()

    def in_progress(self) -> None:
        """Restart the broker's acknowledgement timer."""
        self._bus.send(self.reply, b"+WPI")

    def _finish(self, body: bytes | None) -> None:
        if not self._done:
            self._done = True
            if body is not None and not self._acked:
                self._bus.send(self.reply, body)
            if self._puller is not None:
                self._puller.freed()


class PullConsumer:
    """Takes up to ``capacity`` messages at once from one durable consumer."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        *,
        capacity: int,
        handler: Callable[[Delivery], None],
    ) -> None:
        self.bus = bus
        self.capacity = capacity
        self.in_flight = 0
        self._lent = 0
        self._occupied = 0
        self.connected = asyncio.Event()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._name = durable
        self._handler = handler
        self._requested = 0
        self._inbox = ""
        self._last_sign = monotonic()
        self._restart = asyncio.Event()
        self._shrunk = False
        self._stopping = False
        self._pulling = False
        self._collecting: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Consume until the block ends; unfinished deliveries stay with the caller."""
        forget = self.bus.on_reconnect(self._restart.set)
        keeper = asyncio.create_task(self._keep_pulling(), name=f"pull {self._name}")
        try:
            yield
        finally:
            forget()
            self._stopping = True
            self._pause()
            # The cancellation may be lost in the client's drain, where Python 3.11 drops one that
            # comes together with an answer.
            self._restart.set()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def freed(self) -> None:
        """Note that a delivery ended, and ask for another in its place."""
        self.in_flight -= 1
        self._refill()

    def resize(self, capacity: int) -> None:
        """Take up to so many messages from now on; what is in work beyond that is finished."""
        if capacity < self.capacity:
            # What is asked for already would come still; only a new inbox takes it back.
            self._shrunk = True
            self._restart.set()
        self.capacity = capacity
        self._refill()

    def occupy(self, places: int) -> None:
        """Let so many places be taken by something else than deliveries from now on."""
        self._occupied = places
        self._refill()

    @contextlib.contextmanager
    def lending(self) -> Iterator[None]:
        """Take one message more while the block runs.

        Nobody waits for the place at the block's end: then there is for a while more in work than
        ``capacity``, which cannot deadlock (ADR 0006).
        """
        self._lent += 1
        self._refill()
        try:
            yield
        finally:
            self._lent -= 1

    async def _keep_pulling(self) -> None:
        while not self._stopping:
            self._restart.clear()
            inbox = self._inbox = self.bus.new_inbox()
            subscription = await self.bus.hear(inbox, self._on_message)
            self._requested = 0
            self._last_sign = monotonic()
            self._pulling = not self._stopping
            try:
                self._refill()
                while not self._restart.is_set():
                    slept_from = monotonic()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_HEARTBEAT_S):
                            await self._restart.wait()
                    now = monotonic()
                    if now - slept_from > 2 * _HEARTBEAT_S:
                        # This loop was held up: what the broker sent meanwhile is still unread.
                        self._last_sign = now
                    silent = now - self._last_sign
                    if self._requested > 0 and silent > 2 * _HEARTBEAT_S + 0.5:
                        log.warning("no heartbeat for consumer %s, pulling anew", self._name)
                        break
            finally:
                self._pause()
                shrunk, self._shrunk = self._shrunk, False
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    # The broker has sent some already, perhaps, which must not be lost for long.
                    await (_drain(subscription) if shrunk else subscription.unsubscribe())
            if self._restart.is_set() and not shrunk:
                await asyncio.sleep(_RETRY_S)

    def _refill(self) -> None:
        """Ask for what is missing: for many at once, for the last few with what ends meanwhile."""
        missing = self._missing()
        if missing >= max(1, self.capacity // 2):
            self._ask()
        elif missing > 0 and not self._requested and self._collecting is None:
            loop = asyncio.get_running_loop()
            self._collecting = loop.call_later(_COLLECT_S, self._ask)

    def _missing(self) -> int:
        if not self._pulling:
            return 0
        places = self.capacity + self._lent - self._occupied
        return places - self.in_flight - self._requested

    def _ask(self) -> None:
        self._collect_no_more()
        missing = self._missing()
        if missing <= 0:
            return
        self._requested += missing
        self.bus.send(
            self._subject,
            b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}'
            % (missing, _EXPIRES_S * 10**9, _HEARTBEAT_S * 10**9),
            reply=self._inbox,
        )

    def _pause(self) -> None:
        self._pulling = False
        self._collect_no_more()

    def _collect_no_more(self) -> None:
        if self._collecting is not None:
            self._collecting.cancel()
            self._collecting = None

    def _on_message(
        self, subject: str, reply: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self._last_sign = monotonic()
        if subject == self._inbox and not reply.startswith("$JS.ACK."):
            self._on_status(headers)
            return
        self.connected.set()
        self._requested = max(0, self._requested - 1)
        self.in_flight += 1
        self._handler(
            Delivery(
                self.bus,
                subject=subject,
                body=body,
                headers=headers,
                reply=reply,
                puller=self,
            )
        )
        self._refill()

    def _on_status(self, headers: Mapping[str, str]) -> None:
        status = headers.get("Status", "")
        if status.startswith("100"):
            self.connected.set()
            return
        if status.startswith("408") or "Nats-Pending-Messages" in headers:
            left = int(headers.get("Nats-Pending-Messages", 0))
            self._requested = max(0, self._requested - left)
            self._refill()
            return
        # No such consumer yet, consumer deleted, server shutting down: begin again.
        log.debug("consumer %s: %s", self._name, headers)
        self._restart.set()


async def _drain(subscription: Subscription) -> None:
    """End a subscription after what the broker has sent on it."""
    await subscription.drain()  # type: ignore[no-untyped-call]
