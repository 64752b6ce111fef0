"""Messages of the stream STORE as items, and back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from langgraph.store.base import Item, SearchItem

from langmesh.errors import ErrorCode, MeshError
from langmesh.store.indexing import whole
from langmesh.wire import codec, subjects
from langmesh.wire.items import ItemVectors, StoreDeleted, StoreItem

ENTRY_BYTES: Final = 1536
"""What Python takes for an entry, in a namespace of its own, beside its value, its vectors and its
names: 1.2 kB measured, rounded up."""
_value_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class StoredItem(Item):
    """An item with its revision, which :meth:`NatsStore.aput_if` compares."""

    __slots__ = ("revision",)

    def __init__(self, *, revision: int, **fields: Any) -> None:
        super().__init__(**fields)
        self.revision = revision


class FoundItem(SearchItem):
    """A found item with its revision."""

    __slots__ = ("revision",)

    def __init__(self, *, revision: int, **fields: Any) -> None:
        super().__init__(**fields)
        self.revision = revision


@dataclass(frozen=True, slots=True)
class Entry:
    """An item as the stream holds it; the value stays encoded until somebody gets it."""

    subject: str
    seq: int
    """Stream sequence of the message."""
    order: int
    """Stream sequence of the key's first value: where it stands among others."""
    revision: int
    """Stream sequence of the put."""
    namespace: tuple[str, ...]
    key: str
    body: bytes
    """The value as JSON."""
    created_at: datetime
    updated_at: datetime
    write: str
    ttl_s: int | None
    vectors: ItemVectors | None

    @property
    def size(self) -> int:
        """Bytes of memory, estimated upwards."""
        vectors = len(self.vectors.data) if self.vectors is not None else 0
        return ENTRY_BYTES + 2 * len(self.subject) + len(self.body) + vectors

    def value(self) -> dict[str, Any]:
        """A fresh copy of the value."""
        return _value_decoder.decode(self.body)

    def item(self) -> StoredItem:
        """What a get returns."""
        return StoredItem(
            revision=self.revision,
            value=self.value(),
            key=self.key,
            namespace=self.namespace,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def found(self, score: float | None) -> FoundItem:
        """What a search returns."""
        return FoundItem(
            revision=self.revision,
            namespace=self.namespace,
            key=self.key,
            value=self.value(),
            created_at=self.created_at,
            updated_at=self.updated_at,
            score=score,
        )

    def message(self) -> StoreItem:
        """The message that keeps the item as it is and begins its time to live anew."""
        return StoreItem(
            namespace=list(self.namespace),
            key=self.key,
            value=self.value(),
            created_at=self.created_at,
            updated_at=self.updated_at,
            write=self.write,
            first_seq=self.order,
            put_seq=self.revision,
            ttl_s=self.ttl_s,
            vectors=self.vectors,
        )


def read(tenant: str, subject: str, seq: int, body: bytes) -> Entry | StoreDeleted | None:
    """What a message says: an item, that it was deleted, or None that its time was up.

    Raises:
        MeshError: MALFORMED_BODY, INVALID_FIELD or PAYLOAD_TOO_LARGE for what no store wrote.
    """
    if not body:
        return None
    stored = codec.decode_stored(body)
    namespace = tuple(stored.namespace)
    if subjects.store_item(tenant, namespace, stored.key) != subject:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"namespace: {namespace!r} and key {stored.key[:80]!r} are not those of {subject}",
        )
    if isinstance(stored, StoreDeleted):
        return stored
    for field, time in (("created_at", stored.created_at), ("updated_at", stored.updated_at)):
        if time.tzinfo is None:
            raise MeshError(ErrorCode.INVALID_FIELD, f"{field}: the time has no zone")
    if stored.vectors is not None and not whole(stored.vectors):
        raise MeshError(
            ErrorCode.INVALID_FIELD, f"vectors.data: not whole vectors of {stored.vectors.dims}"
        )
    return Entry(
        subject=subject,
        seq=seq,
        order=stored.first_seq or seq,
        revision=stored.put_seq or seq,
        namespace=namespace,
        key=stored.key,
        body=msgspec.json.encode(stored.value),
        created_at=stored.created_at,
        updated_at=stored.updated_at,
        write=stored.write,
        ttl_s=stored.ttl_s,
        vectors=stored.vectors,
    )
