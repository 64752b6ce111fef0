"""Read what a stream keeps by its sequences, without a consumer and a batch at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec
import nats.errors
from nats.aio.msg import Msg

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError

_BATCH: Final = 512
_BATCH_BYTES: Final = 4 * 1024 * 1024
_SILENCE_S: Final = 5.0


class Stored(NamedTuple):
    """A message that a stream keeps."""

    subject: str
    seq: int
    """Its sequence in the stream."""
    body: bytes


async def read(
    bus: Bus, stream: str, pattern: str, *, first: int = 1, last: int
) -> AsyncGenerator[Stored]:
    """Yield the messages of a subject, oldest first; no more than a batch is held in memory.

    Args:
        bus: The connection.
        stream: Name of the stream.
        pattern: Subject, may have wildcards.
        first: Stream sequence to begin with.
        last: Stream sequence to end with.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    inbox = bus.new_inbox()
    queue: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await bus.subscribe(inbox, queue.put)
    try:
        while first <= last:
            begun = first
            asked = {"seq": first, "next_by_subj": pattern}
            asked |= {"batch": min(_BATCH, last - first + 1), "max_bytes": _BATCH_BYTES}
            body = msgspec.json.encode(asked)
            bus.send(f"$JS.API.DIRECT.GET.{stream}", body, reply=inbox)
            async for found in _batch(bus, stream, queue):
                if found.seq > last:
                    return
                yield found
                first = found.seq + 1
            if first == begun:
                return
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _batch(bus: Bus, stream: str, queue: asyncio.Queue[Msg]) -> AsyncIterator[Stored]:
    """The answers to one request, up to the one that ends them."""
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                message = await queue.get()
        except TimeoutError as exc:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE,
                f"{bus.url} fell silent while stream {stream} was read",
            ) from exc
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status.startswith(("204", "404")):
            return
        if "Nats-Sequence" not in headers:
            raise _unreadable(stream, headers.get("Description") or status)
        yield Stored(headers["Nats-Subject"], int(headers["Nats-Sequence"]), message.data)


async def bounds(bus: Bus, stream: str) -> tuple[int, int]:
    """The sequences of the oldest and the newest message; the second is less if there is none.

    Raises:
        MeshError: BROKER_UNAVAILABLE, also if there is no such stream.
    """
    answer = await bus.api(f"STREAM.INFO.{stream}")
    if "error" in answer:
        raise _unreadable(stream, answer["error"].get("description"))
    state = answer["state"]
    return int(state["first_seq"]), int(state["last_seq"])


async def seq_since(bus: Bus, stream: str, time: str) -> int | None:
    """The sequence of the first message stored at a time or later, or None if there is none.

    Args:
        bus: The connection.
        stream: Name of the stream.
        time: RFC 3339, on the server's clock.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    body = msgspec.json.encode({"start_time": time, "batch": 1})
    message = await bus.request_message(f"$JS.API.DIRECT.GET.{stream}", body)
    headers = message.headers or {}
    if "Nats-Sequence" in headers:
        return int(headers["Nats-Sequence"])
    if (status := headers.get("Status", "")).startswith(("204", "404")):
        return None
    raise _unreadable(stream, headers.get("Description") or status)


def _unreadable(stream: str, reason: Any) -> MeshError:
    return MeshError(
        ErrorCode.BROKER_UNAVAILABLE,
        f"stream {stream} cannot be read: {reason}",
        remedy="Start a coordinator, which creates the streams; check JetStream.",
    )
