"""Values across the wire: LangGraph's serializer, strict, with the schemas' types allowed.

A type that is not allowed is an error naming it, never a silently different value.
"""

from __future__ import annotations

from typing import Any, Final

from langmesh.bus.blobs import Blobs
from langmesh.checkpoint.strict import StrictSerde, noting_blocked_types, strict_serializer
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.codec import BLOB_BYTES_MIN
from langmesh.wire.messages import Value

NULL: Final = Value("null")
_BLOB: Final = "blob"
_INLINE_TOTAL_MAX: Final = 700_000
_SMALL: Final = 4096


class Serde:
    """Encodes and decodes the values of one graph."""

    def __init__(self, allowed: set[tuple[str, ...]]) -> None:
        self.serializer = strict_serializer(allowed)
        self.strict = StrictSerde(self.serializer)
        """The same for what is stored."""

    def encode(self, value: Any, *, what: str) -> Value:
        """Encode one value; ``what`` names it in errors, e.g. ``state channel 'draft'``.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE.
        """
        if value is None:
            return NULL
        try:
            return Value(*self.serializer.dumps_typed(value))
        except Exception as exc:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE,
                f"{what}: a {type(value).__name__} cannot cross the mesh: {exc}",
            ) from exc

    def decode(self, value: Value, *, what: str) -> Any:
        """Decode one inline value.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE naming the type, or the unknown kind.
        """
        if value.kind == "null":
            return None
        with noting_blocked_types() as blocked:
            try:
                decoded = self.serializer.loads_typed((value.kind, value.data))
            except Exception as exc:
                raise MeshError(
                    ErrorCode.VALUE_NOT_SERIALIZABLE, f"{what}: cannot be decoded: {exc}"
                ) from exc
        if blocked:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE,
                f"{what}: type {', '.join(blocked)} is not allowed",
                remedy="Name the type in the graph's state schema, or keep plain data there.",
            )
        return decoded


async def stow(values: list[Value], blobs: Blobs) -> list[Value]:
    """Move large values to the object store, so that the message around them stays small.

    Values of 256 KiB and more always go; if the rest is still too much together, all but the small
    ones.
    """
    limit = BLOB_BYTES_MIN
    if sum(len(v.data) for v in values if len(v.data) < limit) > _INLINE_TOTAL_MAX:
        limit = _SMALL
    return [
        Value(_BLOB, (await blobs.put(v.kind.encode() + b"\0" + v.data)).encode())
        if len(v.data) >= limit
        else v
        for v in values
    ]


def is_stowed(value: Value) -> bool:
    """Whether the value lies in the object store."""
    return value.kind == _BLOB


async def fetch(value: Value, blobs: Blobs) -> Value:
    """Bring a value back that :func:`stow` moved; others are returned as they are."""
    if value.kind != _BLOB:
        return value
    kind, _, data = (await blobs.get(value.data.decode())).partition(b"\0")
    return Value(kind.decode(), data)
