"""Decoding that runs nobody's code: what is stored is data, whoever wrote it.

LangGraph's serializer imports and calls what a stored value names, unless it is given a list of
what it may. Here a type that is not on the list is an error that names it, and a serializer that
would call what it is told by a stored value is refused before it reads any.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.messages import Value

_NULL: Final = Value("null")
_REFERENCE: Final = "blob"
_PLAIN_KINDS: Final = frozenset({"null", "bytes", "bytearray", "msgpack"})
_REMEDY: Final = (
    "Name the type in NatsSaver's `allow`, or set LANGGRAPH_STRICT_MSGPACK=true before LangGraph is"
    " imported, so that compile() allows the types of the graph's schemas."
)

_local = threading.local()


def _note_blocked(event: SerdeEvent) -> None:
    if event["kind"].endswith("_blocked"):
        _local.blocked = [*getattr(_local, "blocked", []), f"{event['module']}.{event['name']}"]


register_serde_event_listener(_note_blocked)


@contextlib.contextmanager
def noting_blocked_types() -> Iterator[list[str]]:
    """Collect the names of types that this thread's decoding refuses; filled at the block's end."""
    names: list[str] = []
    _local.blocked = []
    try:
        yield names
    finally:
        names.extend(sorted(set(_local.blocked)))
        _local.blocked = []


def strict_serializer(allow: Collection[type | tuple[str, ...]] = ()) -> JsonPlusSerializer:
    """LangGraph's serializer without pickle, restricted to its safe types and to some more.

    Args:
        allow: Types, or their modules and names.
    """
    return JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=list(allow) or None)


class StrictSerde:
    """Encodes to and decodes from :class:`~langmesh.wire.messages.Value`.

    Args:
        serializer: How; checked.

    Raises:
        MeshError: INVALID_SETTING when it would run code that a stored value names.
    """

    def __init__(self, serializer: SerializerProtocol) -> None:
        _check(serializer)
        self.serializer = serializer
        inner = serializer.serde if isinstance(serializer, EncryptedSerializer) else serializer
        # What this serializer reads but never writes can only be forged.
        self._kinds = _PLAIN_KINDS if isinstance(inner, JsonPlusSerializer) else None

    def encode(self, value: Any, *, what: str) -> Value:
        """Encode one value; ``what`` names it in errors.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE.
        """
        try:
            kind, data = self.serializer.dumps_typed(value)
        except Exception as exc:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE,
                f"{what}: a {type(value).__name__} cannot be stored: {exc}",
            ) from exc
        if kind == _REFERENCE:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE, f"{what}: kind {kind!r} is for references"
            )
        return Value(kind, data)

    def decode(self, value: Value, *, what: str) -> Any:
        """Decode one value; ``what`` names it in errors.

        Raises:
            MeshError: VALUE_NOT_SERIALIZABLE naming the types that are not allowed, or the kind.
        """
        if value == _NULL:
            return None
        if self._kinds is not None and value.kind.partition("+")[0] not in self._kinds:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE, f"{what}: kind {value.kind[:40]!r} is not read"
            )
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
                remedy=_REMEDY,
            )
        return decoded


@dataclass
class Canary:
    """A type that nobody allows; to make one tells that somebody did what a stored value said."""

    sings: bool = True

    def __post_init__(self) -> None:
        _sing()


class UnpackableCanary:
    """Likewise, and only pickle can store it."""

    def __reduce__(self) -> Any:
        return _sing, ()


def _sing() -> None:
    _local.sang = True


_FORGED: Final = (
    ("pickle", f"c{__name__}\n_sing\n(tR.".encode()),
    ("json", f'{{"lc":2,"type":"constructor","id":["{__name__}","Canary"],"args":[]}}'.encode()),
)


def _check(serializer: SerializerProtocol) -> None:
    """Offer stored values that name code, and see whether it runs."""
    canary = Canary()
    stored = [JsonPlusSerializer().dumps_typed(canary), *_FORGED]
    for value in (canary, UnpackableCanary()):
        with contextlib.suppress(Exception):
            stored.append(serializer.dumps_typed(value))
    for typed in stored:
        _local.sang = False
        with _without_warnings(), noting_blocked_types(), contextlib.suppress(Exception):
            serializer.loads_typed(typed)
        if _local.sang:
            raise MeshError(
                ErrorCode.INVALID_SETTING,
                f"serde: {type(serializer).__name__} runs whatever code a stored"
                f" {typed[0][:20]} value names",
                remedy="Leave serde out, or use JsonPlusSerializer(pickle_fallback=False,"
                " allowed_msgpack_modules=[…]) or an EncryptedSerializer around that.",
            )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """The serializer would warn of the canary, which is nobody's concern."""
    logger = logging.getLogger(JsonPlusSerializer.__module__)

    def others(record: logging.LogRecord) -> bool:
        return __name__ not in record.getMessage()

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
