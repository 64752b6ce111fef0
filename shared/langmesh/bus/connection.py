"""The stock NATS client with a short way out and in for what a busy connection does most.

:meth:`Connection.put` sends without a coroutine and without a dict of headers, and
:meth:`Connection.listen` hands messages over as they are parsed, without a queue and a task per
subscription. Each saves a turn of the event loop per message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

Listener = Callable[[str, str, bytes, Mapping[str, str]], None]
"""Called with subject, reply subject, body and headers of a message; must not block."""

_PING: Final = b"PING\r\n"
_NOT_IN_SUBJECT: Final = re.compile(r"[ \t\r\n]")
_VERSION: Final = b"NATS/1.0\r\n"
_EXPECTED_LAST: Final = b"Nats-Expected-Last-Subject-Sequence: %d\r\n"
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Connection(Client):
    """The stock client, with a ``flush`` that keeps its word.

    The stock one writes its PING past the commands that wait to be sent, so that the answer says
    nothing about them: a subscription may not stand yet when ``flush`` returns, and draining one
    may drop what the server has still sent. Nor does it bear the answer to a ``flush`` that was
    given up: it stops to read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[int, Listener] = {}

    def put(
        self,
        subject: str,
        body: bytes,
        *,
        reply: str = "",
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish soon, in the order of the calls; while disconnected, when connected again.

        Args:
            subject: Where to.
            body: At most ``max_payload`` bytes, which the caller checks.
            reply: Where an answer goes.
            expected_last: For a stream: refuse unless the subject's last message has this sequence.
            headers: Sent along; names and values of one line.

        Raises:
            nats.errors.Error: The connection is closed, or disconnected with a full buffer, or the
                subject is none.
        """
        if not subject or _NOT_IN_SUBJECT.search(subject) or _NOT_IN_SUBJECT.search(reply):
            raise nats.errors.BadSubjectError
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        size = len(body)
        if not self.is_connected and size + self._pending_data_size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        header = b""
        if expected_last is not None or headers:
            header = _header(expected_last, headers or _NO_HEADERS)
        if not header:
            command = b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), body)
        else:
            line = f"HPUB {subject} {reply} {len(header)} {len(header) + size}\r\n"
            command = b"%b%b%b\r\n" % (line.encode(), header, body)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        self._pending.append(command)
        self._pending_data_size += len(command)
        queue = self._flush_queue
        if queue is not None and queue.empty() and self.is_connected:
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def listen(self, subject: str, listener: Listener, *, queue: str = "") -> Subscription:
        """Call the listener for every message, in their order, as soon as it is read.

        Its exceptions go to ``error_cb``.
        """
        # The number that the subscription gets: a message may come before ``subscribe`` returns.
        self._listeners[self._sid + 1] = listener
        return await self.subscribe(subject, queue=queue)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        listener = self._listeners.get(sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        subscription = self._subs.get(sid)
        if subscription is None:
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        subscription._received += 1  # noqa: SLF001  as the stock client counts
        told = (await self._process_headers(headers) or {}) if headers else _NO_HEADERS
        try:
            listener(subject.decode(), reply.decode(), data, told)
        except Exception as exc:  # noqa: BLE001  it must not end the reading
            await self._error_cb(exc)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._listeners.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def tell(_: asyncio.Future[bool]) -> None:
            if future is not None and not future.done():
                future.set_result(True)

        answered.add_done_callback(tell)
        self._pongs.append(answered)
        await self._send_command(_PING)
        await self._flush_pending()


def _header(expected_last: int | None, headers: Mapping[str, str]) -> bytes:
    lines = [_VERSION]
    if expected_last is not None:
        lines.append(_EXPECTED_LAST % expected_last)
    for name, value in headers.items():
        if ":" in name or any(end in name + value for end in "\r\n"):
            raise nats.errors.BadHeaderError(name)
        lines.append(f"{name}: {value.strip()}\r\n".encode())
    return b"".join((*lines, b"\r\n"))
