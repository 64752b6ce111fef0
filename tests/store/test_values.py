"""Values: JSON is kept as it is, anything else is refused by its place."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import uuid
from types import MappingProxyType
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.store.values import plain_value
from langmesh.wire import codec
from langmesh.wire.codec import BODY_BYTES_MAX
from langmesh.wire.items import StoreItem

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)  # fmt: skip
NOW = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


def through_the_wire(value):
    item = StoreItem(
        namespace=["a"], key="k", value=value, created_at=NOW, updated_at=NOW, write="w"
    )
    return codec.decode_stored(codec.encode_stored(item)).value


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_json_comes_back_as_it_was(value):
    plain = plain_value(value)
    assert plain == value
    assert repr(through_the_wire(plain)) == repr(plain) == repr(value)


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Pair(NamedTuple):
    a: int
    b: tuple[int, ...]


class Share(float):
    pass


def test_what_json_would_write_becomes_plain():
    pair = Pair(1, (2,))
    value = collections.OrderedDict(
        a=Word("word"), b=Color.RED, c=Level.HIGH, d=Share(-0.0), e=pair, f=True
    )
    plain = plain_value(MappingProxyType(value))
    assert plain == json.loads(json.dumps(value))
    assert repr(plain) == ("{'a': 'word', 'b': 'red', 'c': 3, 'd': -0.0, 'e': [1, [2]], 'f': True}")
    assert {type(each) for each in plain.values()} == {str, int, float, list, bool}


@pytest.mark.parametrize("leaf", [1, "x", None, {}, []])
def test_what_may_be_put_can_be_read_at_any_depth_and_size(leaf):
    for depth in range(95, 105):
        value = leaf
        for _ in range(depth):
            value = [value]
        try:
            plain = plain_value({"a": value})
        except MeshError:
            assert depth > 95
        else:
            assert through_the_wire(plain) == {"a": value}
    for number in (2**1024 - 1, -(2**1024) + 1, 1.7976931348623157e308, 5e-324):
        assert repr(through_the_wire(plain_value({"n": number}))["n"]) == repr(number)


def test_the_copy_is_nobody_elses():
    inner = {"list": [1]}
    plain = plain_value({"inner": inner})
    inner["list"].append(2)
    assert plain == {"inner": {"list": [1]}}


@dataclasses.dataclass
class Point:
    x: int = 0


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("text", "value: expected a mapping with string keys, got a str"),
        ([], "value: expected a mapping with string keys, got a list"),
        ({1: 2}, "value: the key 1 is of type int, not a string"),
        ({"a": {None: 2}}, "value['a']: the key None is of type NoneType, not a string"),
        ({"a": [0, {"b": {1}}]}, "value['a'][1]['b']: a value of type set is not JSON"),
        ({"a": b""}, "value['a']: a value of type bytes is not JSON"),
        ({"a": NOW}, "value['a']: a value of type datetime is not JSON"),
        ({"a": uuid.UUID(int=0)}, "value['a']: a value of type UUID is not JSON"),
        ({"a": Point()}, "value['a']: a value of type Point is not JSON"),
        ({"a": object}, "value['a']: a value of type type is not JSON"),
        ({"a": MappingProxyType({})}, "value['a']: a value of type mappingproxy is not JSON"),
        ({"a": float("nan")}, "value['a']: JSON has no nan"),
        ({"a": [-float("inf")]}, "value['a'][0]: JSON has no -inf"),
        ({"a": "\ud800"}, "value['a']: half of a surrogate pair"),
        ({"\ud800": 1}, "value['\\ud800']: half of a surrogate pair"),
        ({"a": 1 << 2000}, "value['a']: an int of 2001 bits"),
        ({"a": CIRCLE}, "nested deeper than 100 levels, or inside itself"),
    ],
)
def test_anything_else_is_refused_by_its_place(value, wrong: str):
    with pytest.raises(MeshError) as refused:
        plain_value(value)
    assert wrong in refused.value.message
    assert refused.value.code is ErrorCode.VALUE_NOT_SERIALIZABLE
    assert refused.value.remedy


async def test_a_refused_put_changes_nothing(store: NatsStore):
    await store.aput(("a",), "k", {"n": 1})
    for value in ({"n": object()}, {"n": "x" * BODY_BYTES_MAX}):
        with pytest.raises(MeshError):
            await store.aput(("a",), "k", value)
    assert (await store.aget(("a",), "k")).value == {"n": 1}


async def test_a_value_over_the_limit_is_refused_by_its_key(store: NatsStore):
    await store.aput(("a",), "large", {"text": "x" * (BODY_BYTES_MAX - 400)})
    assert len((await store.asearch(("a",)))[0].value["text"]) == BODY_BYTES_MAX - 400
    with pytest.raises(MeshError, match=r"^key 'larger' of namespace \('a',\): 1,0") as refused:
        await store.aput(("a",), "larger", {"text": "x" * BODY_BYTES_MAX})
    assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE


async def test_what_is_returned_belongs_to_the_caller(store: NatsStore):
    await store.aput(("a",), "k", {"list": [1]})
    for _ in range(2):
        (found,) = await store.asearch(("a",))
        got = await store.aget(("a",), "k")
        assert found.value == got.value == {"list": [1]}
        found.value["list"].append(2)
        got.value.clear()


@pytest.mark.parametrize(
    ("wanted", "wrong"),
    [
        ({"n": {"$gt": 1, "$in": [1]}}, "filter['n']: unknown operator '$in'"),
        ({"n": {"$gt": "much"}}, "filter['n']['$gt']: 'much' is not a number"),
        ({"n": {"m": {"$lt": None}}}, "filter['n']['m']['$lt']: None is not a number"),
        (["n"], "filter: expected a dict, got a list"),
    ],
)
async def test_a_filter_that_nothing_can_be_compared_with(store: NatsStore, wanted, wrong: str):
    with pytest.raises(MeshError) as refused:
        await store.asearch(("a",), filter=wanted)
    assert wrong in refused.value.message
    assert refused.value.code is ErrorCode.INVALID_FIELD


async def test_items_without_a_number_do_not_compare(store: NatsStore):
    for key, value in (("a", {"n": 5}), ("b", {}), ("c", {"n": "x"}), ("d", {"n": "6"})):
        await store.aput(("f",), key, value)
    found = await store.asearch(("f",), filter={"n": {"$gte": 5}})
    assert [item.key for item in found] == ["a", "d"]
