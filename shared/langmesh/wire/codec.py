"""Bounded, strict encoding: msgpack between services, JSON to and from clients.

A decoder accepts either form (a JSON object starts with ``{`` or white space, a msgpack map never
does), so that agents in other languages can answer in JSON. Bodies are bounded in size and depth
before anything else looks at them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.items import StoreDeleted, StoreItem
from langmesh.wire.messages import (
    EVENTS,
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

_MESSAGE_CHARS_MAX: Final = 400
_JSON_START = frozenset(b"{ \t\r\n[")


class UnknownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a type that this version does not know: readers count it and go on."""

    type: str
    seq: int
    run_id: str
    thread_id: str
    time: str


def _to_json(value: Any) -> Any:
    """Project a value that JSON lacks; lossy by intent, clients in Python use typed values."""
    try:
        return _parts(value)
    except Exception:  # noqa: BLE001  a stranger's model_dump or property may raise anything
        return _shown(value)


def _parts(value: Any) -> Any:
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, type):
        return repr(value)
    for method in ("model_dump", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    slots = getattr(type(value), "__slots__", None)
    if slots and not isinstance(slots, str) and not hasattr(value, "__dict__"):
        return {name: getattr(value, name, None) for name in slots if not name.startswith("_")}
    if hasattr(value, "__dict__"):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return repr(value)


def _shown(value: Any, show: Callable[[Any], str] = repr) -> str:
    """A value as text, whatever its own ``__repr__`` and ``__str__`` do."""
    try:
        return show(value)
    except Exception as exc:  # noqa: BLE001  as above
        return f"<unprintable {type(value).__name__}: {type(exc).__name__}>"


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
_unknown_decoder = msgspec.json.Decoder(UnknownEvent)
_store_decoder = msgspec.json.Decoder(StoreItem | StoreDeleted)
_EVENT_TYPES: Final = frozenset(kind.__struct_config__.tag for kind in EVENTS)


def encode(message: ExecuteTask | TaskOutcome | CancelTasks) -> bytes:
    """Encode an internal message as msgpack.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE beyond ``BODY_BYTES_MAX`` bytes, VALUE_NOT_SERIALIZABLE for
            what msgpack cannot hold.
    """
    what = type(message).TYPE
    try:
        body = _msgpack.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise MeshError(
            ErrorCode.VALUE_NOT_SERIALIZABLE, f"{what}: a value cannot be sent: {exc}"
        ) from exc
    return _bounded(body, what)


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
    return _bounded(project_json(message), type(message).__name__)


def project_json(value: Any) -> bytes:
    """Encode a value of any size as JSON, projecting what JSON lacks.

    What cannot be projected either is shown by its ``repr``; a value inside itself, and what lies
    deeper than ``DEPTH_MAX``, as ``…``; a lone surrogate as its escape.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE if even the projection fails.
    """
    try:
        return _json.encode(value)
    except Exception:  # noqa: BLE001  values of user code are read here; the projection is careful
        try:
            return _json.encode(_plain(value, ()))
        except Exception as exc:
            raise MeshError(
                ErrorCode.VALUE_NOT_SERIALIZABLE, f"a value cannot be shown as JSON: {_shown(exc)}"
            ) from exc


def decode_submission(body: bytes) -> Submission:
    """Decode a submission, strictly: unknown fields are refused.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    submission: Submission = _decode(_json_decoders[Submission], body, "the submission")
    for field, value in _free_fields(submission):
        _check_depth(value, field)
    return submission


def decode_request(kind: type[T], body: bytes) -> T:
    """Decode a client's request, strictly; an empty body stands for ``{}``.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    request = decode_json(kind, body or b"{}")
    for field in kind.__struct_fields__:  # type: ignore[attr-defined]
        _check_depth(getattr(request, field), field)
    return request


def decode_event(body: bytes) -> AnyEvent | UnknownEvent:
    """Decode one event of a run; one of a later version as ``UnknownEvent``.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD.
    """
    try:
        return cast("AnyEvent", _decode(_event_decoder, body, "the event"))
    except MeshError as exc:
        if exc.code is not ErrorCode.INVALID_FIELD:
            raise
        unknown = cast("UnknownEvent", _decode(_unknown_decoder, body, "the event"))
        if unknown.type in _EVENT_TYPES:
            raise
        return unknown


def encode_stored(message: StoreItem | StoreDeleted) -> bytes:
    """Encode what a store keeps; the value must be nothing but JSON, which is not checked here."""
    return msgspec.json.encode(message)


def decode_stored(body: bytes) -> StoreItem | StoreDeleted:
    """Decode what a store keeps.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE, MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    stored = cast("StoreItem | StoreDeleted", _decode(_store_decoder, body, "the stored item"))
    if isinstance(stored, StoreItem):
        _check_depth(stored.value, "value")
    return stored


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
        raise MeshError(ErrorCode.INVALID_FIELD, _short(_field_error(str(exc)))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, _short(f"{what}: {exc}")) from exc
    except RecursionError as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"{what}: nested too deeply") from exc


def _field_error(text: str) -> str:
    """Turn msgspec's ``… - at `$.a.b``` into ``a.b: …``, and ``… - at `key` in `$.a``` likewise."""
    reason, _, where = text.rpartition(" - at `")
    if not reason:
        return f"body: {where}"
    inside, _, path = where.rpartition("` in `")
    path = path.removesuffix("`").removeprefix("$").removeprefix(".") or "body"
    return f"{path}{': a ' + inside if inside else ''}: {reason}"


def _short(text: str) -> str:
    """A message whose field names a sender chose, short enough for an answer."""
    return text if len(text) <= _MESSAGE_CHARS_MAX else f"{text[:_MESSAGE_CHARS_MAX]}…"


def _bounded(body: bytes, what: str) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise MeshError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"{what}: {len(body):,} bytes, more than the limit of {BODY_BYTES_MAX:,}",
        )
    return body


def _is_json(body: bytes) -> bool:
    return body[:1] != b"" and body[0] in _JSON_START


def _free_fields(submission: Submission) -> Iterator[tuple[str, Any]]:
    """The parts of a submission whose inside is the client's own."""
    yield "input", submission.input
    yield "context", submission.context
    if (command := submission.command) is not None:
        yield "command.resume", command.resume
        yield "command.update", command.update
    if (config := submission.config) is not None:
        yield "config.configurable", config.configurable
        yield "config.metadata", config.metadata


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


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    """Rebuild a value of nothing but what JSON holds; ``inside`` are the ids of what it lies in."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, inside)
    if value is None or isinstance(value, str | bool | int | float):
        return _text(value) if isinstance(value, str) else value
    if id(value) in inside or len(inside) > DEPTH_MAX:
        return "…"
    inside = (*inside, id(value))
    value = _opened(value)
    if isinstance(value, dict):
        return {_text(_shown(key, str)): _plain(item, inside) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, inside) for item in value]
    return _plain(value, inside)


def _opened(value: Any) -> Any:
    """What an object holds, one level deep."""
    if isinstance(value, dict | list | tuple | set | frozenset):
        return value
    if isinstance(value, msgspec.Struct):
        return _tagged(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in names if hasattr(value, name)}
    try:
        return msgspec.to_builtins(value)
    except Exception:  # noqa: BLE001  not one of the scalars that msgspec knows
        return _to_json(value)


def _tagged(struct: msgspec.Struct) -> dict[str, Any] | list[Any]:
    """A struct's fields, and what tells its type, as msgspec writes them."""
    config = struct.__struct_config__
    fields = {name: getattr(struct, name) for name in struct.__struct_fields__}
    if config.array_like:
        return list(fields.values())
    return {config.tag_field: config.tag, **fields} if config.tag_field else fields


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
