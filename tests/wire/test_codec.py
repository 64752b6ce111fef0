"""The codec: strict, bounded, and nothing but MeshError for whatever bytes arrive."""

import base64
import contextlib
import datetime as dt
import enum
import json
import uuid
from collections import deque, namedtuple
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.records import decode_bindings
from langmesh.wire import codec, examples, messages

INTERNAL = (messages.ExecuteTask, messages.TaskOutcome, messages.CancelTasks)
CLIENT = (messages.RunRejected, messages.Chunk, messages.DeadLetter)
DECODERS = {
    "submission": codec.decode_submission,
    "event": codec.decode_event,
    **{k.__name__: lambda body, k=k: codec.decode(k, body) for k in INTERNAL},
    **{k.__name__: lambda body, k=k: codec.decode_json(k, body) for k in CLIENT},
}
BODIES = [
    *(examples.body(kind) for kind in (messages.Submission, *messages.EVENTS, *CLIENT, *INTERNAL)),
    *(codec.encode(examples.example(kind)) for kind in INTERNAL),
]
MALFORMED = {
    "nothing": b"",
    "white space": b"  \n",
    "half an object": b'{"input":',
    "two objects": b"{}{}",
    "not UTF-8": b'{"input":"\xff"}',
    "lone surrogate": b'{"input":"\\ud800"}',
    "not a number": b'{"input":NaN}',
    "deeper than the parser": b'{"input":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep msgpack": b"\x91" * 5000 + b"\xc0",
    "msgpack nothing": b"\xc0",
    "msgpack that promises 4 GB": b"\xdf\xff\xff\xff\xff",
    "msgpack extension": b"\xc7\x05\x01hello",
    "trailing bytes": codec.encode(examples.example(messages.ExecuteTask)) + b"x",
    "Python pickle": b"\x80\x04K\x01.",
}


def refused(code: ErrorCode, call, *args) -> str:
    with pytest.raises(MeshError) as caught:
        call(*args)
    assert caught.value.code is code
    return caught.value.message


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused_by_every_decoder(decode, body: bytes):
    with pytest.raises(MeshError) as caught:
        decode(body)
    assert caught.value.code in {ErrorCode.MALFORMED_BODY, ErrorCode.INVALID_FIELD}
    assert caught.value.message


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode()))
def test_random_bytes_raise_nothing_else(body: bytes):
    for decode in DECODERS.values():
        with contextlib.suppress(MeshError):
            decode(body)


@given(st.sampled_from(BODIES), st.data())
def test_damaged_bodies_raise_nothing_else(body: bytes, data):
    """Window: bytes that are right up to somewhere inside a nested value."""
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 8))
    damaged = body[:at] + data.draw(st.binary(max_size=8)) + body[at + cut :]
    for decode in DECODERS.values():
        with contextlib.suppress(MeshError):
            decode(damaged)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"inputs": 1}', "`inputs`"),
        (b'{"thread_id": 7}', "thread_id: "),
        (b'{"stream_mode": "update"}', "stream_mode: "),
        (b'{"stream_mode": ["values", "update"]}', "stream_mode[1]: "),
        (b'{"config": {"tags": ["a", 1]}}', "config.tags[1]: "),
        (b'{"config": {"recursion_limt": 3}}', "`recursion_limt`"),
        (b'{"command": {"resumed": 3}}', "`resumed`"),
        (b'{"command": "resume"}', "command: "),
        (b'{"multitask": "reject"}', "multitask: "),
        (b"[]", "body: "),
    ],
)
def test_a_wrong_submission_is_refused_with_the_field_named(body: bytes, named: str):
    assert named in refused(ErrorCode.INVALID_FIELD, codec.decode_submission, body)


@pytest.mark.parametrize(
    "field",
    [
        "input",
        "context",
        "command.resume",
        "command.update",
        "config.configurable",
        "config.metadata",
    ],
)
def test_a_submission_may_nest_100_levels_and_no_more(field: str):
    def body(depth: int) -> bytes:
        value = b'{"a":' * depth + b"1" + b"}" * depth
        for name in reversed(field.split(".")):
            value = b'{"%s":%s}' % (name.encode(), value)
        return value

    codec.decode_submission(body(codec.DEPTH_MAX - 1))
    message = refused(ErrorCode.MALFORMED_BODY, codec.decode_submission, body(codec.DEPTH_MAX + 1))
    assert message.startswith(f"{field}: ")


def test_a_body_of_the_limit_passes_and_one_more_byte_does_not():
    def submission(size: int) -> bytes:
        empty = len(b'{"input":""}')
        return b'{"input":"' + b"a" * (size - empty) + b'"}'

    codec.decode_submission(submission(codec.BODY_BYTES_MAX))
    too_large = submission(codec.BODY_BYTES_MAX + 1)
    refused(ErrorCode.PAYLOAD_TOO_LARGE, codec.decode_submission, too_large)


def test_what_the_broker_would_refuse_is_refused_before_sending():
    task = examples.example(messages.ExecuteTask)
    large = messages.Value("bytes", b"a" * codec.BODY_BYTES_MAX)
    huge = replace(task, payload=replace(task.payload, input=large))
    assert "task.execute.v1" in refused(ErrorCode.PAYLOAD_TOO_LARGE, codec.encode, huge)
    refused(ErrorCode.PAYLOAD_TOO_LARGE, codec.encode_json, {"a": "a" * codec.BODY_BYTES_MAX})


@pytest.mark.parametrize("kind", INTERNAL)
def test_the_msgpack_and_the_json_form_of_a_message_are_equal(kind):
    message = examples.example(kind)
    assert codec.decode(kind, codec.encode(message)) == message
    assert codec.decode(kind, codec.encode_json(message)) == message
    assert codec.decode(kind, b" \n" + examples.body(kind)) == message


@pytest.mark.parametrize("kind", INTERNAL)
def test_another_type_or_version_is_not_taken_for_this_one(kind):
    message = examples.example(kind)
    later = replace(message, header=replace(message.header, type=f"{kind.TYPE}1"))
    assert "header.type" in refused(
        ErrorCode.INVALID_FIELD, codec.decode, kind, codec.encode(later)
    )


@pytest.mark.parametrize("kind", messages.EVENTS)
def test_every_event_comes_back_as_itself(kind):
    event = examples.example(kind)
    assert codec.decode_event(codec.encode_json(event)) == event


def test_an_event_of_a_later_version_is_read_as_unknown():
    body = b'{"type":"x.v1","seq":7,"run_id":"r","thread_id":"t","time":"now","more":{}}'
    unknown = codec.UnknownEvent(type="x.v1", seq=7, run_id="r", thread_id="t", time="now")
    assert codec.decode_event(body) == unknown


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"type":"x.v1"}', "seq"),
        (b'{"seq":1}', "type"),
        (b'{"type":"run.ended.v1","seq":7,"run_id":"r","thread_id":"t","time":""}', "status"),
    ],
)
def test_a_known_event_with_a_wrong_field_is_refused(body: bytes, named: str):
    assert named in refused(ErrorCode.INVALID_FIELD, codec.decode_event, body)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    _hidden: int = 0


class Slotted:
    __slots__ = ("_hidden", "shown")

    def __init__(self) -> None:
        self.shown, self._hidden = 1, 2


class Model:
    def model_dump(self) -> dict:
        return {"content": "hello"}


class Opaque:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<opaque>"


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped kind is what users have


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Colour.RED, "red"),
        (Slotted(), {"shown": 1}),
        (Model(), {"content": "hello"}),
        (Opaque(), "<opaque>"),
        (ValueError("no"), "ValueError: no"),
        (Pair(1, [2]), [1, [2]]),
        ({"a"}, ["a"]),
        ((1, (2,)), [1, [2]]),
        (b"\0\xff", base64.b64encode(b"\0\xff").decode()),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00Z"),
        (float("nan"), None),
        (2**70, 2**70),
        ({1: "a", "b": 2}, {"1": "a", "b": 2}),
        ({(1, 2): "a", None: "b"}, {"(1, 2)": "a", "None": "b"}),
        ({(1, 2): Model()}, {"(1, 2)": {"content": "hello"}}),
        (deque([1]), "deque([1])"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_lacks_are_projected(value, shown):
    assert json.loads(codec.encode_json({"value": value})) == {"value": shown}


def test_a_dataclass_is_shown_by_its_fields():
    assert json.loads(codec.encode_json(Point(1)))["x"] == 1


def test_a_value_that_contains_itself_is_cut_where_it_begins_again():
    loop: dict = {"a": [1]}
    loop["again"] = [loop, loop]
    assert json.loads(codec.encode_json(loop)) == {"a": [1], "again": ["…", "…"]}


class Hostile:
    """Whatever is asked of it raises."""

    def model_dump(self) -> dict:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise ValueError("neither")


class Endless:
    def model_dump(self) -> list:
        return [Endless()]


@dataclass
class Holder:
    held: object


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Hostile(), "<unprintable Hostile: ValueError>"),
        ([Hostile(), {"a": Colour.RED}], ["<unprintable Hostile: ValueError>", {"a": "red"}]),
        ("\ud800!", "\\ud800!"),
        ({"\udfff": 1}, {"\\udfff": 1}),
        (Holder("\ud800"), {"held": "\\ud800"}),
        (
            {"\ud800": [dt.date(2026, 1, 2), b"a", {1}, None, 1.5, True]},
            {"\\ud800": ["2026-01-02", "YQ==", [1], None, 1.5, True]},
        ),
        ({Hostile(): 1}, {"<unprintable Hostile: ValueError>": 1}),
    ],
    ids=range(7),
)
def test_values_of_user_code_cannot_break_the_projection(value, shown):
    assert json.loads(codec.encode_json({"value": value})) == {"value": shown}


def test_a_projection_without_end_is_cut():
    assert json.loads(codec.encode_json(Endless()))


def test_the_projection_keeps_what_tells_an_events_type():
    event = replace(examples.example(messages.StreamPart), data={(1, 2): "\ud800"})
    decoded = codec.decode_event(codec.encode_json(event))
    assert decoded == replace(event, data={"(1, 2)": "\\ud800"})


@pytest.mark.parametrize(
    "path", [["\ud800"], [2**70], [object()]], ids=["text", "number", "object"]
)
def test_what_msgpack_cannot_hold_is_a_mesh_error(path: list):
    task = examples.example(messages.ExecuteTask)
    broken = replace(task, payload=replace(task.payload, path=path))
    assert "task.execute.v1" in refused(ErrorCode.VALUE_NOT_SERIALIZABLE, codec.encode, broken)


def test_a_wrong_key_is_named_by_where_it_is():
    body = b'{"revision":"r","nodes":{"":{"subject":"s","release":"r"}}}'
    assert refused(ErrorCode.INVALID_FIELD, decode_bindings, body).startswith("nodes: a key: ")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_json_values_pass_through_a_submission_unchanged(value):
    body = msgspec.json.encode({"input": value})
    submission = codec.decode_submission(body)
    assert submission.input == value
    assert json.loads(codec.encode_json(submission.input)) == value
