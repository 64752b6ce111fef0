"""Show a service to NATS' own tools: ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS``.

The micro protocol (NATS ADR-32) is made for services that answer requests. An agent takes its work
from a stream, so nothing is subscribed here but the questions about the service itself; what its
one endpoint shows are the subject and the consumer of its tasks and what became of them.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from langmesh.bus.client import Bus
from langmesh.wire.names import to_token

VERSION: Final = "1.0.0"
"""Of what is shown, as the micro protocol wants one; releases are in the metadata."""
_PREFIX: Final = "$SRV"
_TYPE: Final = "io.nats.micro.v1.{}_response"
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Work:
    """What became of a service's tasks since it began."""

    begun: int
    failed: int
    executed_s: float
    """Sum over the tasks that ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What one service shows.

    Args:
        name: The micro service's name; :func:`service_name` makes one.
        instance: This process of it.
        started_at: RFC 3339.
        description: One sentence for people.
        subject: Where its tasks are sent.
        queue_group: What shares the tasks among its processes.
        work: Tells what became of its tasks.
        metadata: Names and values to be shown.
    """

    name: str
    instance: str
    started_at: str
    description: str
    subject: str
    queue_group: str
    work: Callable[[], Work]
    metadata: dict[str, str] = field(default_factory=dict)

    def ping(self) -> dict[str, Any]:
        """The answer to PING."""
        return {**self._identity(), "type": _TYPE.format("ping")}

    def info(self) -> dict[str, Any]:
        """The answer to INFO."""
        endpoint = {**self._endpoint(), "metadata": {}}
        return {
            **self._identity(),
            "type": _TYPE.format("info"),
            "description": self.description,
            "endpoints": [endpoint],
        }

    def stats(self) -> dict[str, Any]:
        """The answer to STATS; times are in nanoseconds."""
        work = self.work()
        spent_ns = int(work.executed_s * 1e9)
        endpoint = {
            **self._endpoint(),
            "num_requests": work.begun,
            "num_errors": work.failed,
            "last_error": "",
            "processing_time": spent_ns,
            "average_processing_time": spent_ns // work.begun if work.begun else 0,
        }
        return {
            **self._identity(),
            "type": _TYPE.format("stats"),
            "started": self.started_at,
            "endpoints": [endpoint],
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": to_token(self.instance, field="instance"),
            "version": VERSION,
            "metadata": self.metadata,
        }

    def _endpoint(self) -> dict[str, Any]:
        return {"name": "tasks", "subject": self.subject, "queue_group": self.queue_group}


def service_name(*names: str) -> str:
    """A name of letters, digits, ``-`` and ``_`` that people recognise the given names in."""
    plain = unicodedata.normalize("NFKD", "-".join(("langmesh", *names)))
    ascii_only = "".join(c for c in plain if not unicodedata.combining(c))
    return _NO_NAME.sub("-", ascii_only).strip("-")


@contextlib.asynccontextmanager
async def present(bus: Bus, presence: Presence) -> AsyncIterator[None]:
    """Answer the micro protocol's questions while the block runs."""
    identity = to_token(presence.instance, field="instance")
    ends = [
        await bus.subscribe(subject, _answering(bus, answer))
        for verb, answer in (
            ("PING", presence.ping),
            ("INFO", presence.info),
            ("STATS", presence.stats),
        )
        for subject in (
            f"{_PREFIX}.{verb}",
            f"{_PREFIX}.{verb}.{presence.name}",
            f"{_PREFIX}.{verb}.{presence.name}.{identity}",
        )
    ]
    await bus.flush()
    try:
        yield
    finally:
        for subscription in ends:
            with contextlib.suppress(Exception):
                # The connection may be gone, and the subscription with it.
                await subscription.unsubscribe()


def _answering(bus: Bus, answer: Callable[[], dict[str, Any]]) -> Callable[[Msg], Any]:
    async def on_question(message: Msg) -> None:
        if message.reply:
            bus.send(message.reply, msgspec.json.encode(answer()))

    return on_question
