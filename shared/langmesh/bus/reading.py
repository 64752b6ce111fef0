"""Read what a stream keeps page by page without a consumer, list its subjects, and purge them.

A page is one direct get with a batch: one request, answered by the messages and a closing status.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

import msgspec
import nats.errors
from nats.aio.msg import Msg

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError

PAGE_MESSAGES: Final = 256
PAGE_BYTES: Final = 4 * 1024 * 1024
_SILENCE_S: Final = 3.0
_NO_MESSAGE: Final = 10037


class Stored(NamedTuple):
    """A message that a stream keeps."""

    subject: str
    seq: int
    """Its sequence in the stream."""
    body: bytes


async def read(
    bus: Bus, stream: str, pattern: str, *, first: int = 1, last: int
) -> AsyncGenerator[Stored]:
    """Yield the messages of a subject, oldest first; no more than a page is held in memory.

    Args:
        bus: The connection.
        stream: Name of the stream.
        pattern: Subject, may have wildcards.
        first: Stream sequence to begin with.
        last: Stream sequence to end with.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    more = True
    while more and first <= last:
        page, more = await read_page(bus, stream, pattern, start_seq=first)
        for message in page:
            if message.seq > last:
                return
            yield message
            first = message.seq + 1


async def read_page(
    bus: Bus, stream: str, pattern: str, *, start_seq: int = 1
) -> tuple[list[Stored], bool]:
    """Some messages of a subject in the order of the stream.

    Args:
        bus: The connection.
        stream: Name of the stream.
        pattern: Subject, may have wildcards.
        start_seq: First stream sequence wanted.

    Returns:
        At most ``PAGE_MESSAGES`` messages of about ``PAGE_BYTES`` together, and whether more follow
        them.

    Raises:
        MeshError: BROKER_UNAVAILABLE when the broker falls silent, and if there is no such stream.
    """
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, answers.put)
    body = {
        "seq": max(start_seq, 1),
        "next_by_subj": pattern,
        "batch": PAGE_MESSAGES,
        "max_bytes": PAGE_BYTES,
    }
    page: list[Stored] = []
    try:
        bus.send(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(body), reply=inbox)
        while True:
            async with asyncio.timeout(_SILENCE_S):
                answer = await answers.get()
            headers = answer.headers or {}
            status = headers.get("Status")
            if status is None:
                seq = int(headers["Nats-Sequence"])
                page.append(Stored(headers["Nats-Subject"], seq, answer.data))
            elif status in {"204", "404"}:
                return page, status == "204" and headers.get("Nats-Num-Pending", "0") != "0"
            else:
                raise _unreadable(stream, headers.get("Description") or status)
    except TimeoutError as exc:
        raise MeshError(
            ErrorCode.BROKER_UNAVAILABLE,
            f"{bus.url} was silent for {_SILENCE_S:g} s while stream {stream} was read",
        ) from exc
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def last_at_leader(bus: Bus, stream: str, subject: str) -> tuple[int, bytes] | None:
    """The last message of a subject as (stream sequence, body), or None, as the leader knows it.

    Dearer than :meth:`~langmesh.bus.Bus.last`, which a replica may answer that lags behind.

    Raises:
        MeshError: BROKER_UNAVAILABLE.
    """
    answer = await bus.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    if answer.get("error", {}).get("err_code") == _NO_MESSAGE:
        return None
    _refuse(answer, stream)
    message = answer["message"]
    return int(message["seq"]), base64.b64decode(message.get("data", ""))


async def bounds(bus: Bus, stream: str) -> tuple[int, int]:
    """The sequences of the oldest and the newest message; the second is less if there is none.

    Raises:
        MeshError: BROKER_UNAVAILABLE, also if there is no such stream.
    """
    answer = await bus.api(f"STREAM.INFO.{stream}")
    _refuse(answer, stream)
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


async def subjects_of(bus: Bus, stream: str, pattern: str) -> list[str]:
    """The subjects with messages that match a pattern, sorted.

    Raises:
        MeshError: BROKER_UNAVAILABLE, also when there is no such stream.
    """
    found: list[str] = []
    while True:
        answer = await bus.api(
            f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": len(found)}
        )
        _refuse(answer, stream)
        some = answer["state"].get("subjects") or {}
        found += some
        if not some or len(found) >= answer.get("total", 0):
            return sorted(found)


async def purge(bus: Bus, stream: str, pattern: str, *, before_seq: int = 0) -> int:
    """Delete the messages of subjects, those before a stream sequence or all; returns how many.

    Raises:
        MeshError: BROKER_UNAVAILABLE when the broker does not answer (repeat it then) or refuses.
    """
    request: dict[str, Any] = {"filter": pattern}
    if before_seq:
        request["seq"] = before_seq
    answer = await bus.api(f"STREAM.PURGE.{stream}", request)
    _refuse(answer, stream)
    return int(answer.get("purged", 0))


def _refuse(answer: dict[str, Any], stream: str) -> None:
    if "error" in answer:
        raise _unreadable(stream, answer["error"].get("description"))


def _unreadable(stream: str, reason: Any) -> MeshError:
    return MeshError(
        ErrorCode.BROKER_UNAVAILABLE,
        f"stream {stream} cannot be read: {reason}",
        remedy="Start a coordinator, which creates the streams; check JetStream.",
    )
