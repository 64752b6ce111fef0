"""Which live coordinator shall own which partition. Pure: no I/O, no clock, no entropy.

Rendezvous hashing: everyone who knows the same coordinators comes to the same result, and one that
comes or goes moves its own share and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType

from langmesh.wire.names import PARTITIONS


def assign(members: Collection[str]) -> Mapping[int, str]:
    """The coordinator that each partition belongs to; nothing if there is none."""
    return _assigned(frozenset(members))


@lru_cache(maxsize=16)
def _assigned(members: frozenset[str]) -> Mapping[int, str]:
    if not members:
        return MappingProxyType({})
    return MappingProxyType({number: _heaviest(number, members) for number in range(PARTITIONS)})


def _heaviest(partition: int, members: Collection[str]) -> str:
    return max(members, key=lambda member: _weight(partition, member))


def _weight(partition: int, member: str) -> tuple[bytes, str]:
    return blake2b(f"{partition}/{member}".encode(), digest_size=8).digest(), member


@dataclass(frozen=True, slots=True)
class Moves:
    """What one coordinator has to do about its partitions."""

    lost: frozenset[int]
    """Somebody else has them already."""
    give: frozenset[int]
    """They belong to somebody else, who waits for them."""
    take: frozenset[int]
    """They belong to it and nobody has them, or they are its own and have to be written again."""


def moves(
    me: str,
    *,
    members: Collection[str],
    held: Mapping[int, int],
    owners: Mapping[int, tuple[str, int]],
    revision: int,
) -> Moves:
    """What a coordinator has to do.

    Args:
        me: Its instance.
        members: Instances of all that live, as it knows. While it is not among them itself it
            neither takes nor gives: nobody would give it anything, and it may be about to end.
        held: The partitions that it owns as it knows, each with the revision of its own write.
        owners: The written owner of each partition, with the revision of that write.
        revision: The store's revision that `owners` shows.
    """
    lost = frozenset(
        number
        for number, written in held.items()
        if number in owners and owners[number][0] != me and owners[number][1] > written
    )
    if me not in members:
        return Moves(lost, frozenset(), frozenset())
    wanted = assign(members)
    # A write or a deletion of its own whose answer it did not get is made again.
    unknown = {n for n, (owner, _) in owners.items() if owner == me and n not in held}
    vanished = {n for n in held if n not in owners and held[n] <= revision}
    vacant = {n for n in wanted if n not in owners and n not in held}
    mine = {n for n, owner in wanted.items() if owner == me}
    return Moves(
        lost,
        give=frozenset(((held.keys() - lost) | unknown) - mine),
        take=frozenset((unknown | vanished | vacant) & mine),
    )
