"""A client's connection to the simulated server, with the methods of nats-py that langmesh calls.

Messages are under way for a while, in order in each direction. A cut connection loses what is under
way, and comes back; one that is killed with its process never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.msg import Msg

from langmesh.bus.connection import Listener
from tests.simulation.broker import Broker
from tests.simulation.loop import Process
from tests.simulation.stream import matches

_AWAY_S: Final = 0.25
_TICK_S: Final = 1e-6
"""Timers of the same moment come in no order."""
_numbers = itertools.count(1)

Callback = Callable[[Msg], Awaitable[None]]


class Subscription:
    """What one callback listens to; its calls never overlap."""

    def __init__(self, connection: Connection, subject: str, callback: Callback) -> None:
        self.subject = subject
        self.exact = "*" not in subject and ">" not in subject
        self._connection = connection
        self._callback = callback
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._pump = asyncio.get_running_loop().create_task(self._call_all())

    def put(self, message: Msg | None) -> None:
        """Queue a message; None for the end."""
        self._queue.put_nowait(message)

    async def unsubscribe(self) -> None:
        """Listen no more."""
        self._connection.forget(self)
        self._pump.cancel()

    async def drain(self) -> None:
        """Listen no more after what the server has sent."""
        await self._connection.flush()
        self._connection.forget(self)
        self.put(None)
        await self._pump

    async def _call_all(self) -> None:
        while (message := await self._queue.get()) is not None:
            await self._callback(message)


class Point:
    """Where something shall happen to a connection.

    Args:
        kind: Third token of the subject (``log``, ``exec``, …), or ``ack`` or ``api``.
        count: At the how manieth such message.
        stored: Whether the server still takes it.
        then: What happens.
    """

    def __init__(self, kind: str, count: int, *, stored: bool, then: Callable[[], None]) -> None:
        self.kind = kind
        self.left = count
        self.stored = stored
        self.then = then


class Connection:
    """Stands in for ``nats.aio.client.Client``.

    Args:
        broker: The server.
        process: Whose it is.
    """

    max_payload = 1 << 20
    is_closed = False

    def __init__(self, broker: Broker, process: Process) -> None:
        self._server_info: dict[str, Any] = {}
        self._broker = broker
        self._process = process
        self._prefix = f"_INBOX.{next(_numbers)}"
        self._inboxes = itertools.count(1)
        self._subscriptions: list[Subscription] = []
        self._standing: list[Subscription] = []
        """Those that the server knows."""
        self._requests: dict[str, asyncio.Future[Msg]] = {}
        self._link: object | None = object()
        """Of what is under way: another one after each cut, None in between."""
        self._up_at = self._down_at = 0.0
        self._buffer: list[Callable[[], None]] = []
        self.muted = False
        """Whether what the server says is lost."""
        self.point: Point | None = None
        self.on_reconnect: Callable[[], Awaitable[None]] | None = None
        broker.connections[self] = None

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def new_inbox(self) -> str:
        return f"{self._prefix}.{next(self._inboxes)}"

    async def publish(
        self,
        subject: str,
        body: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._up(lambda: self._arrive(subject, reply, body, headers or {}))

    def put(
        self,
        subject: str,
        body: bytes,
        *,
        reply: str = "",
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        given = dict(headers or {})
        if expected_last is not None:
            given["Nats-Expected-Last-Subject-Sequence"] = str(expected_last)
        self._up(lambda: self._arrive(subject, reply, body, given))

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        async def tell(message: Msg) -> None:
            listener(message.subject, message.reply, message.data, message.headers or {})

        return await self.subscribe(subject, cb=tell)

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callback | None = None, **_: Any
    ) -> Subscription:
        assert not queue
        assert cb is not None
        subscription = Subscription(self, subject, cb)
        self._subscriptions.append(subscription)
        self._up(functools.partial(self._stand, subscription))
        return subscription

    async def request(
        self,
        subject: str,
        body: bytes = b"",
        timeout: float = 0.5,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        inbox = f"{self._prefix}-r.{next(self._inboxes)}"
        answer = self._requests[inbox] = asyncio.get_running_loop().create_future()
        self._up(lambda: self._arrive(subject, inbox, body, headers or {}))
        try:
            async with asyncio.timeout(timeout):
                message = await answer
        finally:
            del self._requests[inbox]
        if (message.headers or {}).get("Status") == "503":
            raise nats.errors.NoRespondersError
        return message

    async def flush(self) -> None:
        """Wait until the server has seen all that was sent, if the connection holds."""
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[None] = loop.create_future()
        self._up(lambda: self._down(lambda: seen.done() or seen.set_result(None)))
        async with asyncio.timeout(5):
            await seen

    async def close(self) -> None:
        """Leave; what was sent arrives."""
        self.is_closed = True
        with contextlib.suppress(TimeoutError):
            await self.flush()
        self._broker.connections.pop(self, None)

    def listening(self, subject: str) -> list[Any]:
        """The subscriptions that a message to a subject goes to, as the server knows them."""
        found: list[Any] = [
            each
            for each in self._standing
            if (each.subject == subject if each.exact else matches(each.subject, subject))
        ]
        return [subject] if not found and subject in self._requests else found

    def deliver(
        self, to: Any, subject: str, reply: str, body: bytes, headers: dict[str, str] | None
    ) -> None:
        """Send a message down to one subscription, or as the answer to a request."""
        message = Msg(_client=self, subject=subject, reply=reply, data=body, headers=headers)  # type: ignore[arg-type]
        self._down(lambda: self._receive(to, message))

    def forget(self, subscription: Subscription) -> None:
        """Listen no more, and let the server know."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._up(lambda: _discard(self._standing, subscription))

    def cut(self, away_s: float = _AWAY_S) -> None:
        """Lose what is under way; come back after some time."""
        if self._link is None or self._process.dead:
            return
        self._link = None
        self._standing.clear()
        asyncio.get_running_loop().call_later(away_s, self._come_back)

    def mute(self, seconds: float) -> None:
        """Lose what the server says for a while, and be cut then."""
        self.muted = True
        asyncio.get_running_loop().call_later(seconds, self._unmute)

    def _unmute(self) -> None:
        self.muted = False
        self.cut()

    def kill(self) -> None:
        """End with the process: of what is under way, the server gets a part."""
        self._broker.connections.pop(self, None)
        self._standing.clear()
        self._process.kill()

    def _come_back(self) -> None:
        if self._process.dead:
            return
        self._link = object()
        loop = asyncio.get_running_loop()
        self._up_at = self._down_at = loop.time()
        for subscription in self._subscriptions:
            self._up(functools.partial(self._stand, subscription))
        buffer, self._buffer = self._buffer, []
        for what in buffer:
            self._up(what)
        if self.on_reconnect is not None:
            self._process.start(_run(self.on_reconnect()))

    def _stand(self, subscription: Subscription) -> None:
        if subscription not in self._standing:
            self._standing.append(subscription)

    def _delay(self) -> float:
        return 0.0002 + self._broker.chance.expovariate(1000)

    def _up(self, what: Callable[[], None]) -> None:
        if self._process.dead:
            return
        if self._link is None:
            self._buffer.append(what)
            return
        loop = asyncio.get_running_loop()
        self._up_at = max(self._up_at + _TICK_S, loop.time() + self._delay())
        loop.call_at(self._up_at, self._if_linked, self._link, what)

    def _down(self, what: Callable[[], Any]) -> None:
        if self._link is None or self.muted:
            return
        loop = asyncio.get_running_loop()
        self._down_at = max(self._down_at + _TICK_S, loop.time() + self._delay())
        loop.call_at(self._down_at, self._if_linked, self._link, what)

    def _if_linked(self, link: object, what: Callable[[], Any]) -> None:
        if self._link is link and self in self._broker.connections:
            what()

    def _arrive(self, subject: str, reply: str, body: bytes, headers: dict[str, str]) -> None:
        point = self.point
        if point is not None and _kind(subject) == point.kind:
            point.left -= 1
            if point.left <= 0:
                self.point = None
                if point.stored:
                    self._broker.take(subject, reply, body, headers)
                point.then()
                return
        self._broker.take(subject, reply, body, headers)

    def _receive(self, to: Any, message: Msg) -> None:
        if self.muted or self._process.dead:
            return
        if isinstance(to, Subscription):
            if to in self._subscriptions:
                to.put(message)
        elif (answer := self._requests.get(to)) is not None and not answer.done():
            answer.set_result(message)


def _kind(subject: str) -> str:
    if subject.startswith("$JS."):
        return subject.split(".")[1].lower()
    return subject.split(".")[2]


def _discard(listed: list[Subscription], each: Subscription) -> None:
    if each in listed:
        listed.remove(each)


async def _run(work: Awaitable[None]) -> None:
    await work
