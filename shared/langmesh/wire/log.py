"""The entries of a thread's chain in stream LOG, and their encoding.

A chain is one subject: that of a thread, or of one checkpoint namespace of a thread. Each of its
messages is an :class:`Entry`, which holds records: what happened, in order, all or none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.messages import Value

NAME_CHARS_MAX: Final = 4096
"""Longest name of a thread or a namespace."""

ChannelVersion = str | int | float


class ChannelValue(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a channel holds as of a version of it: ``[channel, version, value]``."""

    channel: str
    """Name of the channel."""
    version: ChannelVersion
    """The version, grows with each write to the channel."""
    value: Value
    """The channel's value."""


class ChannelWrite(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One write of a task: ``[index, channel, value]``.

    Of two writes of a task with one index from 0 on the first holds; of two with one index below 0
    the last.
    """

    index: int
    """Place in the task's writes; LangGraph's own channels have fixed places below 0."""
    channel: str
    """Name of the channel."""
    value: Value
    """What is written."""


class Record(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="type"
):
    """One thing that an entry states; readers keep and skip types that they do not know."""


class CheckpointRecord(Record, frozen=True, kw_only=True, tag="checkpoint.v1"):
    """A checkpoint. It holds the values that are new; the others are found by their versions."""

    checkpoint_id: str
    """Its id; a later record of the same id replaces it. The greatest id is the latest."""
    parent_id: str = ""
    """The checkpoint that it follows; empty for the first."""
    checkpoint: Value
    """LangGraph's checkpoint without `channel_values` and `channel_versions`."""
    metadata: Value
    """LangGraph's metadata of the checkpoint."""
    versions: dict[str, ChannelVersion] = {}
    """The version of each channel."""
    values: list[ChannelValue] = []
    """Values of versions that no earlier entry holds."""


class WritesRecord(Record, frozen=True, kw_only=True, tag="writes.v1"):
    """Writes of one task that wait for the checkpoint after theirs."""

    checkpoint_id: str
    """The checkpoint that the task hangs on."""
    task_id: str
    """Id of the task."""
    task_path: str = ""
    """LangGraph's path of the task, which orders the writes of a superstep."""
    writes: list[ChannelWrite]
    """What the task wrote."""


class BaseRecord(Record, frozen=True, kw_only=True, tag="base.v1"):
    """Everything before its entry is void: the records after it say again what is kept.

    It is the first record of its entry. The messages before that entry may be gone; the entry's
    `previous` still commits to every one of them.
    """

    pruned: int
    """Number of the last entry that it voids."""


class AppliedTask(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A task whose writes are in a checkpoint: ``[task_id, node, attempt]``."""

    task_id: str
    """Id of the task."""
    node: str
    """Name of its node."""
    attempt: int
    """The attempt whose outcome counted."""


class RunRecord(Record, frozen=True, kw_only=True):
    """Base of what a log states of a run: with the record, its events up to `seq` are fixed."""

    run_id: str
    """Id of the run."""
    seq: int
    """Number of the run's last event so far."""
    events: list[bytes] = []
    """Those events that were not known to be stored in EVENT, as JSON, in their order."""


class Begun(RunRecord, frozen=True, kw_only=True):
    """Base of what begins or continues a run: what the loop is given."""

    submit_epoch: str
    """Tells the streams apart that SUBMIT has been: sequences start again in a new one."""
    submit_seq: int
    """The submission's sequence in SUBMIT."""
    submission: bytes
    """The submission as it was published, JSON."""
    stop: int
    """The superstep after which the recursion limit is reached."""
    shows_last: bool = False
    """Whether the thread's history shows only the last checkpoint: the durability mode ``exit``."""


class RunStartedRecord(Begun, frozen=True, kw_only=True, tag="start.v1"):
    """A run began: from here on it is finished by whoever owns the thread."""

    graph: str
    """Name of the graph."""
    revision: str
    """The topology that it is pinned to."""
    traceparent: str = ""
    """Its span, which others continue."""


class RunResumedRecord(Begun, frozen=True, kw_only=True, tag="resumption.v1"):
    """A run that waited for a human goes on."""


class SuperstepRecord(RunRecord, frozen=True, kw_only=True, tag="superstep.v1"):
    """What a checkpoint of a run came from; in one entry with it."""

    checkpoint_id: str
    """The checkpoint."""
    applied: list[AppliedTask] = []
    """The tasks of the superstep, in the order in which they ended."""


class RunInterruptedRecord(RunRecord, frozen=True, kw_only=True, tag="interruption.v1"):
    """A run waits for a human; nobody drives it until the answer comes."""


class RunCancellingRecord(RunRecord, frozen=True, kw_only=True, tag="cancellation.v1"):
    """A run is to be called off, whoever drives it by then."""


class RunEndedRecord(RunRecord, frozen=True, kw_only=True, tag="end.v1"):
    """A run is over."""

    status: str
    """As in the event ``run.ended.v1``."""


class UnknownRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of a type that this version does not know, as it was."""

    type: str
    raw: msgspec.Raw


RECORDS: Final[tuple[type[Record], ...]] = (
    CheckpointRecord,
    WritesRecord,
    BaseRecord,
    RunStartedRecord,
    RunResumedRecord,
    SuperstepRecord,
    RunInterruptedRecord,
    RunCancellingRecord,
    RunEndedRecord,
)
AnyRecord = (
    CheckpointRecord
    | WritesRecord
    | BaseRecord
    | RunStartedRecord
    | RunResumedRecord
    | SuperstepRecord
    | RunInterruptedRecord
    | RunCancellingRecord
    | RunEndedRecord
)


class Entry(
    msgspec.Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    tag="entry.v1",
):
    """One link of a thread's chain.

    Appended on the condition that the chain's last entry is still the one that it follows
    (`Nats-Expected-Last-Subject-Sequence`), so that a chain has no forks.
    """

    id: str
    """Fixed before the entry is sent: who finds it in the chain knows that sending succeeded."""
    number: int
    """Place in the chain, from 1."""
    previous: bytes
    """SHA-256 of the body before; of the subject for number 1."""
    thread: str
    """Name of the thread, also where the subject holds but its digest."""
    namespace: str = ""
    """LangGraph's checkpoint namespace, likewise; empty for the thread's own graph."""
    writer: str
    """Instance that wrote it."""
    epoch: int = 0
    """The writer's epoch as the owner of the thread's partition; 0 for one that owns nothing."""
    time_ms: int
    """Milliseconds since the Unix epoch on the writer's clock; never used for order."""
    records: list[AnyRecord] = []
    """What happened, in order."""
    stowed: str = ""
    """Instead of `records`: the object in `langmesh-values` that holds them, a msgpack array."""


class _LooseEntry(Entry, frozen=True, kw_only=True, tag="entry.v1"):
    """An entry whose records are looked at one by one."""

    records: list[msgspec.Raw] = []  # type: ignore[assignment]


class _Tag(msgspec.Struct, frozen=True, gc=False):
    type: str


_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)
_loose_decoder = msgspec.msgpack.Decoder(_LooseEntry)
_raws_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_record_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyRecord)
_tag_decoder = msgspec.msgpack.Decoder(_Tag)
_KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in RECORDS)


def encode_record(record: Record | UnknownRecord) -> msgspec.Raw:
    """Encode a record as msgpack.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE for what msgpack cannot hold, such as a lone surrogate.
    """
    if isinstance(record, UnknownRecord):
        return record.raw
    try:
        return msgspec.Raw(_encoder.encode(record))
    except (TypeError, ValueError, OverflowError) as exc:
        tag = record.__struct_config__.tag
        raise MeshError(ErrorCode.VALUE_NOT_SERIALIZABLE, f"{tag}: cannot be kept: {exc}") from exc


def encode_records(records: Sequence[msgspec.Raw]) -> bytes:
    """Encode records for the object store, to be read by :func:`decode_records`."""
    return _encoder.encode(records)


def encode_entry(entry: Entry, records: Sequence[msgspec.Raw] = ()) -> bytes:
    """Encode an entry as msgpack.

    Args:
        entry: Without its records.
        records: What :func:`encode_record` made of them.
    """
    loose = _LooseEntry(
        id=entry.id,
        number=entry.number,
        previous=entry.previous,
        thread=entry.thread,
        namespace=entry.namespace,
        writer=entry.writer,
        epoch=entry.epoch,
        time_ms=entry.time_ms,
        records=list(records),
        stowed=entry.stowed,
    )
    return _encoder.encode(loose)


def decode_entry(body: bytes) -> tuple[Entry, list[Record | UnknownRecord]]:
    """Decode an entry and its records; those of a later version come as ``UnknownRecord``.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD.
    """
    try:
        entry = _entry_decoder.decode(body)
    except msgspec.ValidationError:
        loose = _read(_loose_decoder, body)
        return loose, [_decode_record(raw) for raw in loose.records]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"entry: {exc}") from exc
    return entry, list(entry.records)


def decode_records(body: bytes) -> list[Record | UnknownRecord]:
    """Decode the records of an entry whose ``stowed`` names an object.

    Raises:
        MeshError: MALFORMED_BODY or INVALID_FIELD.
    """
    return [_decode_record(raw) for raw in _read(_raws_decoder, body)]


def _decode_record(raw: msgspec.Raw) -> Record | UnknownRecord:
    tag = _read(_tag_decoder, raw).type
    if tag not in _KNOWN:
        return UnknownRecord(tag, raw.copy())
    record: Record = _read(_record_decoder, raw)
    return record


def _read(decoder: msgspec.msgpack.Decoder[_T], body: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise MeshError(ErrorCode.INVALID_FIELD, f"entry: {exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MeshError(ErrorCode.MALFORMED_BODY, f"entry: {exc}") from exc
