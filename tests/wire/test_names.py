"""Names as tokens: any text crosses a subject and comes back, and nothing else ever gets in."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import names

TEXT = st.text(st.characters(), min_size=1, max_size=40)  # lone surrogates included
FITTING = TEXT.filter(lambda text: len(text.encode("utf-8", "surrogatepass")) <= 100)


def refused(call, *args, **kwargs) -> MeshError:
    with pytest.raises(MeshError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is ErrorCode.INVALID_NAME
    return caught.value


@given(FITTING)
def test_every_name_comes_back_from_its_token(name: str):
    assert names.from_token(names.to_token(name, field="node")) == name


@given(FITTING)
def test_a_token_holds_nothing_that_a_subject_gives_a_meaning(name: str):
    token = names.to_token(name, field="node")
    assert token.isascii()
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
    assert names.TOKEN.match(token) or token.startswith("x--")
    assert len(token) <= 3 + 160


@given(FITTING, FITTING)
def test_two_names_never_share_a_token(one: str, other: str):
    tokens = {names.to_token(one, field="node"), names.to_token(other, field="node")}
    assert len(tokens) == len({one, other})


@given(st.text(max_size=170))
def test_only_tokens_of_names_are_taken_back(text: str):
    with contextlib.suppress(MeshError):
        assert names.to_token(names.from_token(text), field="token") == text


@given(FITTING)
def test_a_plain_name_has_one_spelling(name: str):
    """Window: the same name under an encoded and a plain token would split its consumers."""
    digits = base64.b32hexencode(name.encode("utf-8", "surrogatepass")).decode()
    encoded = "x--" + digits.rstrip("=").lower()
    if names.to_token(name, field="node") != encoded:
        refused(names.from_token, encoded)


@pytest.mark.parametrize("name", ["a", "A9", "researcher", "a-b_c", "x-y", "0" * 63])
def test_plain_names_are_their_own_tokens(name: str):
    assert names.to_token(name, field="node") == name


@pytest.mark.parametrize(
    "name",
    ["a.b", "*", ">", "a b", "-a", "_a", "", "x--y", "x--", "a\n", "a" * 64, "é", "\0", "$JS", "="],
)
def test_other_names_are_encoded_or_refused(name: str):
    if name:
        assert names.to_token(name, field="node").startswith("x--")
    else:
        assert refused(names.to_token, name, field="node").message.startswith("node: ")


@pytest.mark.parametrize("name", ["é" * 51, "a" * 101, "\U0001f600" * 26])
def test_a_name_of_more_than_100_bytes_is_refused(name: str):
    assert "bytes" in refused(names.to_token, name, field="thread").message


@pytest.mark.parametrize(
    "token", ["", "a.b", "x--", "x--!", "x--A", "x--1", "x--zz", "x--8", "a\n", "x--c4n64\n"]
)
def test_text_that_is_no_token_is_refused(token: str):
    refused(names.from_token, token)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_partition_is_a_number_below_256(tenant: str, thread: str):
    assert 0 <= names.partition(tenant, thread) < 256


def test_partitions_are_what_other_languages_compute():
    assert names.partition("default", "t1") == 199
    assert names.partition("default", "t2") != names.partition("default2", "t")
