"""JetStream consumers in memory: one that is pulled from and acknowledged, one that pushes."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.stream import Message, Stream, matches

Send = Callable[[str, str, str, bytes, dict[str, str] | None], bool]
"""``send(to, subject, reply, body, headers)``: whether somebody listens there."""
_NANOS = 10**9
_AGAIN_S = 0.01
"""How long the server takes to hand out again what it was given back."""


def _ack_subject(stream: str, name: str, count: int, seq: int, number: int, left: int) -> str:
    return f"$JS.ACK.{stream}.{name}.{count}.{seq}.{number}.{0}.{left}"


@dataclass(eq=False)
class _Request:
    """What one client still wants, and until when."""

    inbox: str
    left: int
    heartbeat_s: float
    expiry: asyncio.TimerHandle | None = None
    beat: asyncio.TimerHandle | None = None

    def end(self) -> None:
        for timer in (self.expiry, self.beat):
            if timer is not None:
                timer.cancel()


@dataclass(eq=False)
class _Pending:
    """A message that was handed out and is not acknowledged."""

    count: int
    timer: asyncio.TimerHandle | None


class Durable:
    """Hands messages out to who asks, again when they are not acknowledged in time.

    Args:
        stream: The stream.
        config: As the API takes it.
        send: Brings a message to a subject.
        acked: Told of each acknowledged message, before a work queue lets go of it.
    """

    def __init__(
        self,
        stream: Stream,
        config: dict[str, Any],
        send: Send,
        acked: Callable[[Stream, Message], None],
    ) -> None:
        self.stream = stream
        self.name: str = config["durable_name"]
        self._filter: str = config["filter_subject"]
        self._ack_wait_s = config["ack_wait"] / _NANOS
        self._send = send
        self._acked = acked
        self._fresh = deque(message.seq for message in stream.from_seq(self._filter, 1))
        self._again: deque[int] = deque()
        self._pending: dict[int, _Pending] = {}
        self._counts: dict[int, int] = {}
        self._requests: deque[_Request] = deque()
        self._number = 0

    def stored(self, message: Message) -> None:
        """Take in what the stream has got."""
        if matches(self._filter, message.subject):
            self._fresh.append(message.seq)
            self._serve()

    def pull(self, inbox: str, body: bytes) -> None:
        """Take a request for messages."""
        wanted = json.loads(body)
        request = _Request(inbox, wanted["batch"], wanted["idle_heartbeat"] / _NANOS)
        loop = asyncio.get_running_loop()
        request.expiry = loop.call_later(wanted["expires"] / _NANOS, self._expire, request)
        self._requests.append(request)
        self._rest(request)
        self._serve()

    def answer(self, seq: int, body: bytes) -> None:
        """Take what a client says to a delivery, whichever it was."""
        pending = self._pending.get(seq)
        if pending is None:
            return
        if body.startswith(b"+WPI"):
            self._wait(seq, pending)
            return
        del self._pending[seq]
        if pending.timer is not None:
            pending.timer.cancel()
        if body.startswith(b"-NAK"):
            delay = json.loads(body[4:] or b"{}").get("delay", 0) / _NANOS + _AGAIN_S
            asyncio.get_running_loop().call_later(delay, self._hand_again, seq)
            return
        self._counts.pop(seq, None)
        if (message := self.stream.messages.get(seq)) is not None:
            self._acked(self.stream, message)
            self.stream.delete(seq)

    def restart(self, *, forget: bool) -> None:
        """Lose who waits, as a server that was killed; and what was handed out, if it forgets."""
        for request in self._requests:
            request.end()
        self._requests.clear()
        if forget:
            self._counts.clear()
            for seq, pending in self._pending.items():
                if pending.timer is not None:
                    pending.timer.cancel()
                self._again.append(seq)
            self._pending.clear()

    def resurrected(self, message: Message) -> None:
        """Hand out once more what was acknowledged shortly before a crash."""
        if matches(self._filter, message.subject):
            self._again.append(message.seq)

    def _serve(self) -> None:
        while self._requests and (seq := self._take()) is not None:
            message = self.stream.messages[seq]
            count = self._counts[seq] = self._counts.get(seq, 0) + 1
            self._number += 1
            left = len(self._fresh)
            reply = _ack_subject(self.stream.name, self.name, count, seq, self._number, left)
            while self._requests:
                request = self._requests[0]
                if self._send(request.inbox, message.subject, reply, message.body, message.headers):
                    request.left -= 1
                    self._rest(request)
                    if not request.left:
                        self._requests.popleft().end()
                    pending = self._pending[seq] = _Pending(count, None)
                    self._wait(seq, pending)
                    break
                self._requests.popleft().end()
            else:
                self._counts[seq] -= 1
                self._again.appendleft(seq)

    def _take(self) -> int | None:
        for queue in (self._again, self._fresh):
            while queue:
                seq = queue.popleft()
                if seq in self.stream.messages and seq not in self._pending:
                    return seq
        return None

    def _wait(self, seq: int, pending: _Pending) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        loop = asyncio.get_running_loop()
        pending.timer = loop.call_later(self._ack_wait_s, self._give_up, seq)

    def _give_up(self, seq: int) -> None:
        self._pending.pop(seq, None)
        self._hand_again(seq)

    def _hand_again(self, seq: int) -> None:
        self._again.append(seq)
        self._serve()

    def _rest(self, request: _Request) -> None:
        """Begin to count the silence anew."""
        if request.beat is not None:
            request.beat.cancel()
        loop = asyncio.get_running_loop()
        request.beat = loop.call_later(request.heartbeat_s, self._beat, request)

    def _beat(self, request: _Request) -> None:
        if self._send(request.inbox, request.inbox, "", b"", {"Status": "100 Idle Heartbeat"}):
            self._rest(request)
        else:
            self._drop(request)

    def _expire(self, request: _Request) -> None:
        headers = {
            "Status": "408 Request Timeout",
            "Nats-Pending-Messages": str(request.left),
            "Nats-Pending-Bytes": "0",
        }
        self._send(request.inbox, request.inbox, "", b"", headers)
        self._drop(request)

    def _drop(self, request: _Request) -> None:
        request.end()
        if request in self._requests:
            self._requests.remove(request)


class Pusher:
    """Sends what a stream gets to one subject, in order and without acknowledgements.

    Args:
        stream: The stream.
        config: As the API takes it.
        send: Brings a message to a subject.
    """

    def __init__(self, stream: Stream, config: dict[str, Any], send: Send) -> None:
        self.stream = stream
        self._name: str = config["name"]
        self._to: str = config["deliver_subject"]
        self._exact = {p for p in config["filter_subjects"] if p[-1] not in "*>"}
        self._patterns = [p for p in config["filter_subjects"] if p[-1] in "*>"]
        self._heartbeat_s = config["idle_heartbeat"] / _NANOS
        self._send = send
        self._number = 0
        self._beat: asyncio.TimerHandle | None = None
        policy = config["deliver_policy"]
        start = {"all": 1, "new": stream.last_seq + 1}.get(policy) or config["opt_start_seq"]
        self.before = start - 1
        self._rest()
        if start <= stream.last_seq:
            patterns = config["filter_subjects"]
            missed = {each.seq: each for p in patterns for each in stream.from_seq(p, start)}
            for _, message in sorted(missed.items()):
                self._push(message)

    def stored(self, message: Message) -> None:
        """Send what the stream has got."""
        subject = message.subject
        if subject in self._exact or any(matches(p, subject) for p in self._patterns):
            self._push(message)

    def end(self) -> None:
        """Send nothing more."""
        if self._beat is not None:
            self._beat.cancel()

    def _push(self, message: Message) -> None:
        self._number += 1
        reply = _ack_subject(self.stream.name, self._name, 1, message.seq, self._number, 0)
        self._send(self._to, message.subject, reply, message.body, message.headers)
        self._rest()

    def _rest(self) -> None:
        self.end()
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(self._heartbeat_s, self._on_silence)

    def _on_silence(self) -> None:
        if self._send(self._to, self._to, "", b"", {"Status": "100 Idle Heartbeat"}):
            self._rest()
