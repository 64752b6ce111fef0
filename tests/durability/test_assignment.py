"""Who shall own which partition: the pure part, by its properties."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmesh.coordinator.assignment import Moves, assign, moves
from langmesh.wire.names import PARTITIONS

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True)


@given(NAMES)
def test_every_partition_has_an_owner_that_lives(members: list[str]) -> None:
    wanted = assign(members)
    assert set(wanted) == set(range(PARTITIONS))
    assert set(wanted.values()) <= set(members)
    assert assign(list(reversed(members))) == wanted


@given(NAMES)
def test_one_that_goes_moves_nothing_but_its_own(members: list[str]) -> None:
    before, gone = assign([*members, "z"]), assign(members)
    assert {n: owner for n, owner in before.items() if owner != "z"}.items() <= gone.items()


def test_shares_are_about_equal() -> None:
    shares = Counter(assign(["one", "two", "three"]).values())
    assert all(60 <= share <= 110 for share in shares.values()), shares


def test_nobody_owns_anything_where_nobody_lives() -> None:
    assert assign([]) == {}


def plan(**known) -> Moves:
    state = {"members": ["me"], "held": {}, "owners": {}, "revision": 100}
    return moves("me", **{**state, **known})


def test_all_that_nobody_has_is_taken() -> None:
    assert plan(owners={3: ("other", 50)}).take == frozenset(range(PARTITIONS)) - {3}


def test_one_that_is_not_known_to_live_takes_and_gives_nothing() -> None:
    known = plan(members=["other"], held={1: 50}, owners={1: ("me", 50)})
    assert known == Moves(frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize(
    ("held", "owners", "lost"),
    [
        ({1: 50}, {1: ("other", 60)}, {1}),
        # What is shown is older than its own write.
        ({1: 50}, {1: ("other", 40)}, set()),
        ({1: 50}, {1: ("me", 50)}, set()),
        ({1: 50}, {}, set()),
    ],
)
def test_only_a_newer_owner_takes_a_partition_away(
    held: dict[int, int], owners: dict[int, tuple[str, int]], lost: set[int]
) -> None:
    assert plan(held=held, owners=owners).lost == lost


def test_a_key_that_went_with_its_lease_is_written_again() -> None:
    everything = dict.fromkeys(range(PARTITIONS), 50)
    assert plan(held=everything).take == frozenset(everything)
    # The store has not shown the write yet.
    assert plan(held=everything, revision=49).take == frozenset()


def test_a_write_of_unknown_outcome_is_made_again() -> None:
    assert 7 in plan(owners={7: ("me", 90)}).take


def test_a_newcomer_gets_its_share() -> None:
    everything = dict.fromkeys(range(PARTITIONS), 50)
    owners = dict.fromkeys(everything, ("me", 50))
    known = plan(members=["me", "other"], held=everything, owners=owners)
    assert known.give == {n for n, owner in assign(["me", "other"]).items() if owner == "other"}
    assert known.take == frozenset()


@given(NAMES, st.integers(0, 2**PARTITIONS - 1))
def test_all_do_their_part_and_each_partition_has_one_owner(members: list[str], bits: int) -> None:
    """Whoever had what, after everybody gave and everybody took the shares are as wanted."""
    had = {n: members[n % len(members)] for n in range(PARTITIONS) if bits >> n & 1}
    owners = {n: (owner, 10) for n, owner in had.items()}
    for me in members:
        held = {n: 10 for n, owner in had.items() if owner == me}
        known = moves(me, members=members, held=held, owners=dict(owners), revision=10)
        assert not known.lost
        for number in known.give:
            del owners[number]
    for me in members:
        held = {n: at for n, (owner, at) in owners.items() if owner == me}
        known = moves(me, members=members, held=held, owners=dict(owners), revision=20)
        assert not known.give
        owners |= dict.fromkeys(known.take, (me, 21))
    assert {n: owner for n, (owner, _) in owners.items()} == assign(members)
