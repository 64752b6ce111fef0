"""Hot configuration: what operators change while the mesh runs, per graph and per node.

Stored as JSON, edited by hand or by ``langmesh config``. A field that is absent leaves what is
configured further down: the graph's policy under the node's, then the configuration file, then code
and environment.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.codec import decode_json, encode_json

DOCUMENT_BYTES_MAX: Final = 64 * 1024

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Interval = Annotated[float, msgspec.Meta(ge=0, le=3_600)]
P = TypeVar("P", bound="Policy")


class RetryRule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """How a failed attempt is tried again; its fields are those of LangGraph's ``RetryPolicy``.

    Which exceptions are worth another attempt stays with the node's own policy, or LangGraph's
    default.
    """

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    """Attempts in all; 1 for no retry."""
    initial_interval_s: _Interval | None = None
    """Seconds before the second attempt."""
    backoff_factor: Annotated[float, msgspec.Meta(ge=1, le=100)] | None = None
    """What each interval is multiplied by for the next."""
    max_interval_s: _Interval | None = None
    """Seconds that no interval exceeds."""
    jitter: bool | None = None
    """Whether up to a second is added at random."""


class Policy(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What can be set for a node, and for all nodes of a graph."""

    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    """Seconds that an attempt may take."""
    retry: RetryRule | None = None
    """How a failed attempt is tried again."""
    log_level: Level | None = None
    """Lowest level that the agents' processes log."""
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """Chat model, as ``init_chat_model`` takes it; nodes read it as ``current().config.model``."""
    settings: dict[Name, Any] = {}
    """What the nodes read as ``current().config.settings``: any JSON."""


class NodePolicy(Policy, frozen=True, kw_only=True):
    """The policy of one node."""

    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    """Tasks that each agent of the node runs at once."""


class GraphPolicy(Policy, frozen=True, kw_only=True):
    """The policy of a graph: what its nodes do not set themselves, and what concerns its runs."""

    sample_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Share of the runs that are traced, 0 to 1; a caller's trace context counts before it."""


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a policy's history; its revision is the store's."""

    changed_at: str
    """RFC 3339 in UTC."""
    changed_by: str
    """Who, as ``user@host``."""
    policy: dict[str, Any] | None = None
    """The document; absent if the change removed it."""


def decode(kind: type[P], document: bytes) -> P:
    """Decode a policy.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    if len(document) > DOCUMENT_BYTES_MAX:
        raise MeshError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"the policy has {len(document)} bytes, at most {DOCUMENT_BYTES_MAX} are allowed",
        )
    return decode_json(kind, document)


def encode(policy: Policy | Change) -> bytes:
    """The document of a policy.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE.
    """
    return encode_json(policy)


def layered(*policies: Policy | None) -> NodePolicy:
    """One policy of several; what comes first counts, field by field and setting by setting."""
    fields: dict[str, Any] = {}
    retry: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for policy in reversed([each for each in policies if each is not None]):
        settings.update(policy.settings)
        for name in NodePolicy.__struct_fields__:
            if (value := getattr(policy, name, None)) is not None:
                fields[name] = value
        if policy.retry is not None:
            for name in RetryRule.__struct_fields__:
                if (value := getattr(policy.retry, name)) is not None:
                    retry[name] = value
    fields["settings"] = settings
    fields["retry"] = RetryRule(**retry) if retry else None
    return NodePolicy(**fields)
