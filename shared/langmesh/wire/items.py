"""What the stream STORE holds: the items of a store and the markers of deleted ones, as JSON.

A body is the last word on its subject. A writer who read the message before sets the header
``Nats-Expected-Last-Subject-Sequence``, and ``Nats-TTL`` where the item expires. When the time is
up, nats-server itself puts an empty message there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

TTL_HEADER: Final = "Nats-TTL"
MARKER_HEADER: Final = "Nats-Marker-Reason"
MARKER_REASON: Final = "Remove"


class ItemVectors(msgspec.Struct, frozen=True, kw_only=True):
    """The embeddings of an item's texts, one behind the other."""

    format: Literal["f32", "f64"]
    """How a number is written: IEEE 754, 4 or 8 bytes, little-endian."""
    dims: int
    """Numbers in one vector."""
    data: bytes
    """All numbers of all vectors; base64 in JSON."""


class StoreItem(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    tag="store.item.v1",
):
    """The value of one key of a namespace, on the subject of both, in stream STORE.

    Its *revision* is ``put_seq``, or where that is 0 the message's own stream sequence.
    """

    namespace: list[str]
    """The labels of the namespace, outermost first."""
    key: str
    """The key in the namespace."""
    value: dict[str, Any]
    """The item itself."""
    created_at: datetime
    """When the key got its first value since it was last deleted; the writer's clock."""
    updated_at: datetime
    """When this value was put; the writer's clock."""
    write: str
    """Unique per write, so that a writer whose acknowledgement was lost knows its own."""
    first_seq: int = 0
    """Stream sequence of the key's first value since it was last deleted; 0 when this is it."""
    put_seq: int = 0
    """Stream sequence of the put that a reader repeats to prolong the item's life; 0 in a put."""
    ttl_s: int | None = None
    """Seconds that the item lives after this message; it lives for ever when absent."""
    vectors: ItemVectors | None = None
    """Embeddings for search by similarity."""


class StoreDeleted(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="store.deleted.v1"
):
    """The key was deleted.

    Written with the header ``Nats-Marker-Reason``, so that nothing takes its place when it expires.
    """

    namespace: list[str]
    """The labels of the namespace, outermost first."""
    key: str
    """The key in the namespace."""
    time: str
    write: str
    """Unique per write."""
