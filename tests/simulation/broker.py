"""nats-server in memory: exactly what langmesh asks of it, on virtual time.

``tests/simulation/test_contract.py`` holds it against the real one, operation by operation.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.consumers import Durable, Pusher
from tests.simulation.stream import Message, Refusal, Stream

if TYPE_CHECKING:
    from tests.simulation.connection import Connection

_MISSING: Final = Refusal(404, 10059, "stream not found")
_FORGETFUL_S: Final = 0.5
"""What was acknowledged for less than this before a crash may come back."""


class Broker:
    """The server.

    Args:
        chance: Decides how long each message is under way.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.streams: dict[str, Stream] = {}
        self.connections: dict[Connection, None] = {}
        """In the order in which they came."""
        self.on_stored: list[Callable[[Stream, Message], None]] = []
        self.on_acked: list[Callable[[Stream, Message], None]] = []
        self._durables: dict[tuple[str, str], Durable] = {}
        self._pushers: dict[tuple[str, str], Pusher] = {}
        self._streams_of: dict[str, Stream | None] = {}
        self._removed: list[tuple[float, Stream, Message]] = []

    def take(self, subject: str, reply: str, body: bytes, headers: dict[str, str]) -> bool:
        """Do what a published message asks for.

        Returns:
            Whether it is kept in a stream.
        """
        if subject.startswith("$JS.API."):
            self._request(subject[8:], reply, body)
            return False
        if subject.startswith("$JS.ACK."):
            parts = subject.split(".")
            if (durable := self._durables.get((parts[2], parts[3]))) is not None:
                durable.answer(int(parts[5]), body)
            return False
        stream = self._stream_of(subject)
        heard = self.route(subject, subject, reply, body, headers)
        if stream is None:
            if reply and not heard:
                self.route(reply, reply, "", b"", {"Status": "503"})
            return False
        return self._keep(stream, subject, reply, body, headers)

    def route(
        self, to: str, subject: str, reply: str, body: bytes, headers: dict[str, str] | None
    ) -> bool:
        """Bring a message to who listens at ``to``; returns whether somebody does."""
        heard = False
        for connection in self.connections:
            for subscription in connection.listening(to):
                heard = True
                connection.deliver(subscription, subject, reply, body, headers)
        return heard

    def restart(self, *, forget: bool) -> None:
        """Be killed and start again.

        Args:
            forget: Whether what was handed out, and the latest acknowledgements, are forgotten.
        """
        for pusher in self._pushers.values():
            pusher.end()
        self._pushers.clear()
        now = asyncio.get_running_loop().time()
        for durable in self._durables.values():
            durable.restart(forget=forget)
        if forget:
            for at, stream, message in self._removed:
                if now - at < _FORGETFUL_S and self.chance.random() < 0.5:
                    self._resurrect(stream, message)
        self._removed.clear()
        for connection in list(self.connections):
            connection.cut()

    def _resurrect(self, stream: Stream, message: Message) -> None:
        stream.put(message)
        for durable in self._durables.values():
            if durable.stream is stream:
                durable.resurrected(message)

    def _stream_of(self, subject: str) -> Stream | None:
        if subject not in self._streams_of:
            found = (each for each in self.streams.values() if each.takes(subject))
            self._streams_of[subject] = next(found, None)
        return self._streams_of[subject]

    def _keep(
        self, stream: Stream, subject: str, reply: str, body: bytes, headers: dict[str, str]
    ) -> bool:
        answer: dict[str, Any] = {"stream": stream.name}
        try:
            seq = stream.append(subject, body, headers)
        except Refusal as refusal:
            self._tell(reply, answer | refusal.answer | {"seq": 0})
            return False
        message = stream.messages[seq]
        for watch in self.on_stored:
            watch(stream, message)
        self._tell(reply, answer | {"seq": seq})
        for durable in self._durables.values():
            if durable.stream is stream:
                durable.stored(message)
        for pusher in list(self._pushers.values()):
            if pusher.stream is stream:
                pusher.stored(message)
        return True

    def _acked(self, stream: Stream, message: Message) -> None:
        for watch in self.on_acked:
            watch(stream, message)
        self._removed.append((asyncio.get_running_loop().time(), stream, message))

    def _tell(self, reply: str, answer: dict[str, Any]) -> None:
        if reply:
            self.route(reply, reply, "", json.dumps(answer).encode(), None)

    def _request(self, verb: str, reply: str, body: bytes) -> None:
        if verb.startswith("DIRECT.GET."):
            self._get(verb.removeprefix("DIRECT.GET."), reply, body)
            return
        if verb.startswith("CONSUMER.MSG.NEXT."):
            stream, name = verb.removeprefix("CONSUMER.MSG.NEXT.").split(".")
            if (durable := self._durables.get((stream, name))) is None:
                self.route(reply, reply, "", b"", {"Status": "503"})
            else:
                durable.pull(reply, body)
            return
        asked = json.loads(body) if body else {}
        try:
            answer = self._answer(verb.split("."), asked)
        except Refusal as refusal:
            answer = refusal.answer
        self._tell(reply, answer)

    def _answer(self, verb: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        match verb:
            case ["STREAM", "CREATE", name]:
                return self._create(name, asked)
            case ["STREAM", *what, name] if (act := _STREAM_VERBS.get(".".join(what))) is not None:
                return act(self._find(name), asked)
            case ["CONSUMER", *what, name, consumer] if what != ["DELETE"]:
                return self._consume(what, self._find(name), consumer, asked["config"])
            case ["CONSUMER", "DELETE", name, consumer]:
                if (gone := self._pushers.pop((name, consumer), None)) is None:
                    raise Refusal(404, 10014, "consumer not found")
                gone.end()
                return {"success": True}
        raise Refusal(404, 0, f"the simulated server does not know {'.'.join(verb)}")

    def _consume(
        self, what: list[str], stream: Stream, name: str, config: dict[str, Any]
    ) -> dict[str, Any]:
        if what == ["DURABLE", "CREATE"]:
            if (stream.name, name) not in self._durables:
                durable = Durable(stream, config, self.route, self._acked)
                self._durables[stream.name, name] = durable
            return {"name": name, "config": config}
        assert what == ["CREATE"]
        pusher = self._pushers[stream.name, name] = Pusher(stream, config, self.route)
        return {"name": name, "delivered": {"stream_seq": pusher.before}}

    def _find(self, name: str) -> Stream:
        if name not in self.streams:
            raise _MISSING
        return self.streams[name]

    def _create(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        if (known := self.streams.get(name)) is not None:
            if known.config != config:
                raise Refusal(400, 10058, "stream name already in use with a different config")
        else:
            self.streams[name] = Stream(config)
            self._streams_of.clear()
        return {"config": config, "created": "2026-01-01T00:00:00Z"}

    def _get(self, what: str, reply: str, body: bytes) -> None:
        name, _, subject = what.partition(".")
        stream = self.streams.get(name)
        if stream is None:
            self.route(reply, reply, "", b"", {"Status": "503"})
            return
        asked = json.loads(body) if body else {}
        if subject:
            self._tell_message(reply, stream.last(subject))
        elif "last_by_subj" in asked:
            self._tell_message(reply, stream.last(asked["last_by_subj"]))
        elif "batch" in asked:
            found = stream.from_seq(asked["next_by_subj"], asked["seq"])
            page = found[: asked["batch"]]
            for message in page:
                self._tell_message(reply, message)
            end = {"Nats-Num-Pending": str(len(found) - len(page))}
            status = {"Status": "204", "Description": "EOB"} | end
            self.route(reply, reply, "", b"", status if page else {"Status": "404"})
        elif "next_by_subj" in asked:
            found = stream.from_seq(asked["next_by_subj"], asked["seq"])
            self._tell_message(reply, found[0] if found else None)
        else:
            self._tell_message(reply, stream.messages.get(asked["seq"]))

    def _tell_message(self, reply: str, message: Message | None) -> None:
        if message is None:
            self.route(reply, reply, "", b"", {"Status": "404", "Description": "no message found"})
            return
        told = {"Nats-Subject": message.subject, "Nats-Sequence": str(message.seq)}
        self.route(reply, reply, "", message.body, message.headers | told)


def _info(stream: Stream, asked: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "messages": len(stream.messages),
        "first_seq": stream.first_seq,
        "last_seq": stream.last_seq,
    }
    answer = {"config": stream.config, "created": "2026-01-01T00:00:00Z", "state": state}
    if pattern := asked.get("subjects_filter"):
        found = stream.subjects(pattern)
        state["subjects"] = dict(list(found.items())[asked.get("offset", 0) :])
        answer["total"] = len(found)
    return answer


def _read(stream: Stream, subject: str) -> dict[str, Any]:
    message = stream.last(subject)
    if message is None:
        raise Refusal(404, 10037, "no message found")
    body = base64.b64encode(message.body).decode()
    return {"message": {"subject": message.subject, "seq": message.seq, "data": body}}


def _purge(stream: Stream, asked: dict[str, Any]) -> dict[str, Any]:
    before = asked.get("seq") or stream.last_seq + 1
    gone = [each.seq for each in stream.from_seq(asked["filter"], 1) if each.seq < before]
    for seq in gone:
        stream.delete(seq)
    return {"success": True, "purged": len(gone)}


def _update(stream: Stream, asked: dict[str, Any]) -> dict[str, Any]:
    stream.config = asked
    return {"config": asked}


def _delete(stream: Stream, asked: dict[str, Any]) -> dict[str, Any]:
    if not stream.delete(asked["seq"]):
        raise Refusal(400, 10043, "no message found")
    return {"success": True}


_STREAM_VERBS: Final = {
    "UPDATE": _update,
    "INFO": _info,
    "MSG.GET": lambda stream, asked: _read(stream, asked["last_by_subj"]),
    "MSG.DELETE": _delete,
    "PURGE": _purge,
}
