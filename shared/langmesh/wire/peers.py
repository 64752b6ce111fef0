"""What coordinators tell each other: who gets which submission, and what became of it.

These go over plain subjects, msgpack; one that is lost costs time and nothing else, since the
broker hands a submission over again that nobody acknowledged.
"""

from __future__ import annotations

from typing import Final

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.rpc import RpcFault, RunReference

ASKER_HEADER: Final = "Langmesh-Asker"
"""On a submission: the coordinator where somebody waits for what becomes of it."""
HOPS_HEADER: Final = "Langmesh-Hops"
"""On a request: how many coordinators have passed it on."""


class SubmissionDealt(msgspec.Struct, frozen=True, kw_only=True, tag="submission.dealt.v1"):
    """A submission, from the coordinator that takes them to the one that owns its thread."""

    dealer: str
    """Instance of the former."""
    subject: str
    body: bytes
    headers: dict[str, str]
    reply: str
    """Where the broker waits for the acknowledgement."""
    again: bool
    """Whether another owner may have had it before."""


class SubmissionDecided(msgspec.Struct, frozen=True, kw_only=True, tag="submission.decided.v1"):
    """What became of a submission; nothing of the three: it was known, or is put off."""

    seq: int
    """Its stream sequence."""
    owner: str
    """Instance of the coordinator that decided."""
    in_flight: int
    """How many runs are queued or driven there now."""
    run: RunReference | None = None
    error: RpcFault | None = None
    returned: bool = False
    """Whether another coordinator owns the thread."""


class OwnerLoad(msgspec.Struct, frozen=True, kw_only=True, tag="owner.load.v1"):
    """How much a coordinator has to do."""

    owner: str
    """Its instance."""
    in_flight: int
    """How many runs are queued or driven there."""
    settled: list[int] = []
    """Submissions whose runs are over or wait for a human since the last report."""


PeerMessage = SubmissionDealt | SubmissionDecided | OwnerLoad

_decoder: Final[msgspec.msgpack.Decoder[PeerMessage]] = msgspec.msgpack.Decoder(PeerMessage)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: PeerMessage) -> bytes:
    """The message as msgpack."""
    return _encoder.encode(message)


def decode(body: bytes) -> PeerMessage:
    """Decode a message of another coordinator.

    Raises:
        MeshError: MALFORMED_BODY.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"a coordinator's message: {exc}") from exc
