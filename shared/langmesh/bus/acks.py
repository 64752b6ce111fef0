"""JetStream's answers to a publish, and what a delivery's reply subject tells."""

from __future__ import annotations

import msgspec

from langmesh.errors import ErrorCode, MeshError


class Conflict(Exception):
    """Another message is the subject's last one (JetStream error 10071)."""


class SlotTaken(Exception):
    """The subject holds a message already, or the stream is full (JetStream error 10077)."""


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class Delivered(msgspec.Struct, frozen=True):
    """Where a JetStream delivery comes from, read off its reply subject."""

    stream_seq: int
    consumer_seq: int
    deliveries: int
    pending: int

    @classmethod
    def of(cls, reply: str) -> Delivered:
        """Read ``$JS.ACK.<stream>.<consumer>.<deliveries>.<sseq>.<cseq>.<time>.<pending>``.

        The nine-token form of older servers and the longer one with domain and account hash
        (NATS ADR-15) agree from the end.
        """
        parts = reply.split(".")
        parts = parts[4:] if len(parts) == 9 else parts[6:11]
        return cls(int(parts[1]), int(parts[2]), int(parts[0]), int(parts[4]))


_decoder = msgspec.json.Decoder(_PubAck)


def read_ack(subject: str, body: bytes) -> int | Exception:
    """The stream sequence that a publish got, or why it was refused.

    Args:
        subject: Where the message was published.
        body: The broker's answer.
    """
    try:
        ack = _decoder.decode(body)
    except msgspec.MsgspecError as exc:
        return MeshError(ErrorCode.INTERNAL, f"unreadable acknowledgement for {subject}: {exc}")
    if ack.error is None:
        return ack.seq
    if ack.error.err_code == 10071:
        return Conflict(ack.error.description)
    if ack.error.err_code == 10077:
        return SlotTaken(ack.error.description)
    return MeshError(
        ErrorCode.INTERNAL,
        f"nats-server refused a message on {subject}: {ack.error.description}"
        f" ({ack.error.err_code})",
    )
