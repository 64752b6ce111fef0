"""Bounded, strict encoding: msgpack between services, JSON to and from clients.

A decoder accepts either form (a JSON object starts with ``{`` or white space, a msgpack map never
does), so that agents in other languages can answer in JSON. Bodies are bounded in size and depth
before anything else looks at them.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.messages import (
    AnyEvent,
    CancelTasks,
    Chunk,
    DeadLetter,
    ExecuteTask,
    RunRejected,
    Submission,
    TaskOutcome,
)

BODY_BYTES_MAX: Final = 1_000_000
"""Largest body that is published; nats-server's own default limit is 1,048,576."""
BLOB_BYTES_MIN: Final = 256 * 1024
"""Values from this size on travel through the object store."""
DEPTH_MAX: Final = 100
"""Deepest nesting of client data; LangGraph's own serializers recurse per level."""

_JSON_START = frozenset(b"{ \t\r\n[")


def _to_json(value: Any) -> Any:
    """Project a value that JSON lacks; lossy by intent, clients in Python use typed values."""
    if (dump := getattr(value, "model_dump", None)) is not None:
        return dump()
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if hasattr(value, "_asdict"):
        return value._asdict()
    slots = getattr(type(value), "__slots__", None)
    if slots and not isinstance(slots, str) and not hasattr(value, "__dict__"):
        return {name: getattr(value, name, None) for name in slots if not name.startswith("_")}
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return repr(value)


_json = msgspec.json.Encoder(enc_hook=_to_json)
_msgpack = msgspec.msgpack.Encoder()

Message = TypeVar("Message", ExecuteTask, TaskOutcome, CancelTasks)
T = TypeVar("T")

_msgpack_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (ExecuteTask, TaskOutcome, CancelTasks)
}
_json_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (ExecuteTask, TaskOutcome, CancelTasks, Submission, RunRejected, Chunk, DeadLetter)
}
_event_decoder = msgspec.json.Decoder(AnyEvent)


def encode(message: ExecuteTask | TaskOutcome | CancelTasks) -> bytes:
    """Encode an internal message as msgpack.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE beyond ``BODY_BYTES_MAX`` bytes.
    """
    return _bounded(_msgpack.encode(message), type(message).TYPE)


def decode(kind: type[Message], body: bytes) -> Message:
    """Decode an internal message, msgpack or JSON.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    decoder: Any = (_json_decoders if _is_json(body) else _msgpack_decoders)[kind]
    message = cast("Message", _decode(decoder, body, kind.TYPE))
    if message.header.type != kind.TYPE:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"header.type: expected {kind.TYPE!r}, got {message.header.type[:80]!r}",
        )
    return message


def encode_json(message: Any) -> bytes:
    """Encode anything for a client; values that JSON lacks are projected.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, or VALUE_NOT_SERIALIZABLE if even the projection fails.
    """
    try:
        body = _json.encode(message)
    except (TypeError, ValueError, RecursionError, OverflowError):
        try:
            body = _json.encode(
                _plain(msgspec.to_builtins(message, enc_hook=_to_json, str_keys=False), 0)
            )
        except (TypeError, ValueError, RecursionError, OverflowError) as exc:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE, f"a value cannot be shown as JSON: {exc}"
            ) from exc
    return _bounded(body, type(message).__name__)


def decode_submission(body: bytes) -> Submission:
    """Decode a submission, strictly: unknown fields are refused.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    submission: Submission = _decode(_json_decoders[Submission], body, "the submission")
    for field in ("input", "context", "command", "config"):
        _check_depth(getattr(submission, field), field)
    return submission


def decode_event(body: bytes) -> AnyEvent:
    """Decode one event of a run.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD.
    """
    return cast("AnyEvent", _decode(_event_decoder, body, "the event"))


def decode_json(kind: type[T], body: bytes) -> T:
    """Decode another client message: ``RunRejected``, ``Chunk``, ``DeadLetter`` or any struct.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD naming the field.
    """
    decoder = _json_decoders.get(kind)
    if decoder is None:
        decoder = _json_decoders[kind] = msgspec.json.Decoder(kind)
    return cast("T", _decode(decoder, body, kind.__name__))


def _decode(decoder: Any, body: bytes, what: str) -> Any:
    _bounded(body, what)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise MeshError(ErrorCode.INVALID_FIELD, _field_error(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"{what}: {exc}") from exc
    except RecursionError as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"{what}: nested too deeply") from exc


def _field_error(text: str) -> str:
    """Turn msgspec's ``… - at `$.a.b``` into ``a.b: …``."""
    reason, _, path = text.partition(" - at `")
    return f"{path.removesuffix('`').removeprefix('$').removeprefix('.') or 'body'}: {reason}"


def _bounded(body: bytes, what: str) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise MeshError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"{what}: {len(body):,} bytes, more than the limit of {BODY_BYTES_MAX:,}",
        )
    return body


def _is_json(body: bytes) -> bool:
    return body[:1] != b"" and body[0] in _JSON_START


def _check_depth(value: Any, field: str) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise MeshError(ErrorCode.MALFORMED_BODY, f"{field}: nested deeper than {DEPTH_MAX} levels")


def _plain(value: Any, depth: int) -> Any:
    """Rebuild a value with keys that JSON can hold."""
    if depth > DEPTH_MAX:
        return "…"
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(key): _plain(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    return value
