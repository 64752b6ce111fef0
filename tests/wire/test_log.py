"""Entries of a chain on the wire: records of later versions, limits, and bodies from strangers."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import examples, log

KNOWN = examples.example(log.WritesRecord)
LATER = msgspec.Raw(msgspec.msgpack.encode({"type": "later.v1", "run": "r1"}))


def entry() -> log.Entry:
    return msgspec.structs.replace(examples.example(log.Entry), records=[])


def test_records_of_a_later_version_are_kept_as_they_are():
    body = log.encode_entry(entry(), [log.encode_record(KNOWN), LATER])
    read, records = log.decode_entry(body)
    assert records[0] == KNOWN
    assert isinstance(records[1], log.UnknownRecord)
    assert records[1].type == "later.v1"
    assert log.encode_entry(read, [log.encode_record(record) for record in records]) == body
    stowed = log.encode_records([log.encode_record(KNOWN), LATER])
    assert log.decode_records(stowed)[0] == KNOWN


def test_a_known_record_that_is_wrong_is_refused():
    wrong = msgspec.Raw(msgspec.msgpack.encode({"type": "writes.v1", "task_id": 3}))
    with pytest.raises(MeshError) as refusal:
        log.decode_entry(log.encode_entry(entry(), [wrong]))
    assert refusal.value.code is ErrorCode.INVALID_FIELD


def test_text_that_is_no_unicode_is_refused_before_it_is_sent():
    with pytest.raises(MeshError, match=r"writes\.v1") as refusal:
        log.encode_record(log.WritesRecord(checkpoint_id="\ud800", task_id="t", writes=[]))
    assert refusal.value.code is ErrorCode.VALUE_NOT_SERIALIZABLE


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(1, 255))
def test_foreign_bodies_raise_nothing_but_a_mesh_error(noise: bytes, place: int, flip: int):
    body = bytearray(log.encode_entry(entry(), [log.encode_record(KNOWN), LATER]))
    body[place % len(body)] ^= flip
    for candidate in (noise, bytes(body)):
        for decode in (log.decode_entry, log.decode_records):
            with contextlib.suppress(MeshError):
                decode(candidate)
