"""A JetStream stream in memory: what it keeps, refuses, and lets go of."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

EXPECTED_LAST: Final = "Nats-Expected-Last-Subject-Sequence"


class Message(NamedTuple):
    """A message that a stream keeps."""

    subject: str
    seq: int
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Refusal(Exception):
    """Why the server refuses something, in its own numbers."""

    code: int
    err_code: int
    description: str

    @property
    def answer(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "error": {
                "code": self.code,
                "err_code": self.err_code,
                "description": self.description,
            }
        }


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of a pattern with ``*`` and ``>``."""
    if pattern == subject:
        return True
    wanted, tokens = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > at
        if at >= len(tokens) or token not in ("*", tokens[at]):
            return False
    return len(wanted) == len(tokens)


class Stream:
    """One stream.

    Args:
        config: As the API takes it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.name: str = config["name"]
        self.messages: dict[int, Message] = {}
        self.by_subject: dict[str, list[int]] = {}
        self.last_seq = 0
        self.bytes = 0

    @property
    def first_seq(self) -> int:
        """Of the oldest message; what comes next if there is none."""
        return min(self.messages, default=self.last_seq + 1)

    def takes(self, subject: str) -> bool:
        """Whether the stream keeps what is published there."""
        return any(matches(pattern, subject) for pattern in self.config["subjects"])

    def append(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        """Keep a message; returns its sequence.

        Raises:
            Refusal: A condition does not hold, or there is no room.
        """
        of_subject = self.by_subject.get(subject, [])
        last = of_subject[-1] if of_subject else 0
        if EXPECTED_LAST in headers and int(headers[EXPECTED_LAST]) != last:
            raise Refusal(400, 10071, f"wrong last sequence: {last}")
        room = self.config["max_msgs_per_subject"]
        if self.config["discard"] == "new":
            if 0 < self.config["max_bytes"] < self.bytes + len(body):
                raise Refusal(400, 10077, "maximum bytes exceeded")
            if self.config["discard_new_per_subject"] and 0 < room <= len(of_subject):
                raise Refusal(400, 10077, "maximum messages per subject exceeded")
        self.last_seq += 1
        self.put(Message(subject, self.last_seq, body, headers))
        while 0 < room < len(self.by_subject[subject]):
            self.delete(self.by_subject[subject][0])
        return self.last_seq

    def put(self, message: Message) -> None:
        """Keep a message under the sequence that it has."""
        self.bytes += len(message.body)
        self.messages[message.seq] = message
        of_subject = self.by_subject.setdefault(message.subject, [])
        insort(of_subject, message.seq)

    def delete(self, seq: int) -> bool:
        """Let go of a message; returns whether it was there."""
        message = self.messages.pop(seq, None)
        if message is None:
            return False
        self.bytes -= len(message.body)
        of_subject = self.by_subject[message.subject]
        of_subject.remove(seq)
        if not of_subject:
            del self.by_subject[message.subject]
        return True

    def last(self, pattern: str) -> Message | None:
        """The newest message on a pattern."""
        if pattern in self.by_subject:
            return self.messages[self.by_subject[pattern][-1]]
        if "*" not in pattern and ">" not in pattern:
            return None
        newest = max((seqs[-1] for seqs in self._of(pattern)), default=0)
        return self.messages.get(newest)

    def from_seq(self, pattern: str, seq: int) -> list[Message]:
        """The messages on a pattern from a sequence on, in order."""
        found = [each for seqs in self._of(pattern) for each in seqs[bisect_left(seqs, seq) :]]
        return [self.messages[each] for each in sorted(found)]

    def subjects(self, pattern: str) -> dict[str, int]:
        """How many messages each subject of a pattern has."""
        return {s: len(seqs) for s, seqs in self.by_subject.items() if matches(pattern, s)}

    def _of(self, pattern: str) -> list[list[int]]:
        if "*" not in pattern and ">" not in pattern:
            return [self.by_subject[pattern]] if pattern in self.by_subject else []
        return [seqs for subject, seqs in self.by_subject.items() if matches(pattern, subject)]
