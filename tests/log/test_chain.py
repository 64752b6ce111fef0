"""The pure part: links, and the fold of records to what a thread is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langmesh.log import BrokenChain, ThreadState
from langmesh.log.chain import empty, follow, seal, verify
from langmesh.wire.log import (
    BaseRecord,
    ChannelValue,
    ChannelWrite,
    CheckpointRecord,
    Record,
    WritesRecord,
    encode_record,
)
from langmesh.wire.messages import Value
from tests.log.kit import chain_of

CHAIN = chain_of("t", "ns")
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.builds(Value, st.just("bytes"), st.binary(max_size=4))
VERSIONS = st.integers(1, 3)
CHECKPOINTS = st.builds(
    CheckpointRecord,
    checkpoint_id=NAMES,
    parent_id=st.one_of(st.just(""), NAMES),
    checkpoint=VALUES,
    metadata=VALUES,
    versions=st.dictionaries(NAMES, VERSIONS, max_size=3),
    values=st.lists(st.builds(ChannelValue, NAMES, VERSIONS, VALUES), max_size=3),
)
WRITES = st.builds(
    WritesRecord,
    checkpoint_id=st.sampled_from(["a", "b", "stray"]),
    task_id=NAMES,
    task_path=st.sampled_from(["", "~1", "~2"]),
    writes=st.lists(st.builds(ChannelWrite, st.integers(-4, 2), NAMES, VALUES), max_size=4),
)
RECORDS = st.lists(st.one_of(CHECKPOINTS, WRITES), max_size=12)


def folded(records: list[Record]) -> ThreadState:
    state = ThreadState()
    for number, record in enumerate(records, start=1):
        state.apply(number, [record])
    return state


def shape(state: ThreadState) -> dict:
    """What a state says, without values that no checkpoint refers to."""
    return {
        "checkpoints": state.checkpoints,
        "values": {name: state.values_of(name) for name in state.checkpoints},
        "writes": {name: state.writes_of(name) for name in state.writes if state.writes[name]},
        "latest": state.latest,
    }


def sealed(records: list[Record]) -> list[bytes]:
    """A chain with one record per entry."""
    tail, bodies = empty(CHAIN), []
    for seq, record in enumerate(records, start=1):
        entry = follow(CHAIN, tail, entry_id=f"{seq}", writer="w", epoch=0, time_ms=1)
        body, _ = seal(entry, [encode_record(record)])
        tail = verify(CHAIN, tail, seq, body).tail
        bodies.append(body)
    return bodies


def read(bodies: list[bytes]) -> ThreadState:
    tail, state = empty(CHAIN), ThreadState()
    for seq, body in enumerate(bodies, start=1):
        link = verify(CHAIN, tail, seq, body, first=seq == 1)
        state.apply(link.entry.number, link.records)
        tail = link.tail
    return state


@settings(max_examples=60)
@given(RECORDS)
def test_what_is_sealed_is_read_back(records: list[Record]):
    assert shape(read(sealed(records))) == shape(folded(records))


@settings(max_examples=60)
@given(RECORDS)
def test_a_state_is_restored_from_its_records(records: list[Record]):
    state = folded(records)
    again = folded([BaseRecord(pruned=3), *state.records()])
    assert shape(again) == shape(state)
    assert list(again.checkpoints) == list(state.checkpoints)


@settings(max_examples=60)
@given(RECORDS, st.sets(NAMES))
def test_a_part_is_restored_with_its_values_and_writes(records: list[Record], keep: set[str]):
    state = folded(records)
    part = folded(state.records(keep))
    assert set(part.checkpoints) == keep & set(state.checkpoints)
    for name in part.checkpoints:
        assert part.values_of(name) == state.values_of(name)
        assert part.writes_of(name) == state.writes_of(name)
    dropped = set(state.checkpoints) - keep
    assert not dropped & {name for name in part.writes if part.writes[name]}


@settings(max_examples=60)
@given(RECORDS)
def test_what_changes_nothing_is_not_new(records: list[Record]):
    state = folded(records)
    for record in records:
        if isinstance(record, WritesRecord):
            new = state.new_writes(record)
            assert all(write.index < 0 for write in new), "the first of each index holds"


@given(st.lists(st.one_of(CHECKPOINTS, WRITES), min_size=2, max_size=6), st.data())
def test_no_entry_but_the_last_can_be_changed_unnoticed(records: list[Record], data):
    bodies = sealed(records)
    which = data.draw(st.integers(0, len(bodies) - 2))
    place = data.draw(st.integers(0, len(bodies[which]) - 1))
    changed = bytearray(bodies[which])
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BrokenChain) as refusal:
        read([*bodies[:which], bytes(changed), *bodies[which + 1 :]])
    assert refusal.value.number in (which + 1, which + 2)
    assert "thread 't', namespace 'ns'" in refusal.value.message


@given(st.lists(CHECKPOINTS, min_size=2, max_size=6), st.data())
def test_no_entry_but_the_last_can_be_left_out_unnoticed(records: list[Record], data):
    bodies = sealed(records)
    which = data.draw(st.integers(0, len(bodies) - 2))
    with pytest.raises(BrokenChain):
        read([*bodies[:which], *bodies[which + 1 :]])


def test_ancestors_end_where_the_history_was_pruned_and_at_a_loop():
    blank = Value("null")

    def one(name: str, parent: str) -> CheckpointRecord:
        return CheckpointRecord(
            checkpoint_id=name, parent_id=parent, checkpoint=blank, metadata=blank
        )

    assert folded([one("b", "gone"), one("c", "b")]).ancestors("c") == ["b"]
    assert folded([one("a", "b"), one("b", "a")]).ancestors("a") == ["b", "a"]
    assert folded([]).ancestors("a") == []
