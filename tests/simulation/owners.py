"""Who owns which partition, as each coordinator believes: the part of etcd in the simulation.

Beliefs may be wrong for as long as a trial wants, as after a stop past the lease.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from langmesh.errors import MeshError
from langmesh.wire.names import PARTITIONS

_RETRY_S = 0.25
ALL = frozenset(range(PARTITIONS))


@dataclass(frozen=True)
class Member:
    """What others know of a coordinator."""

    instance: str
    capacity: int = 64


class Beliefs:
    """Stands in for ``langmesh.coordinator.ownership.Ownership``.

    Args:
        owners: What is true.
        instance: Whose beliefs.
        on_gained: As ``Ownership.run`` has it.
        on_lost: Likewise.
    """

    def __init__(self, owners: Owners, instance: str) -> None:
        self._owners = owners
        self._instance = instance
        self._held: dict[int, int] = {}
        self._others: dict[int, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._work = asyncio.Event()
        self.members: dict[str, Member] = {}
        self.blind = False
        """Whether it hears nothing of what changes."""

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    @property
    def epochs(self) -> dict[int, int]:
        return dict(self._held)

    @property
    def alone(self) -> bool:
        return len(self._held) == PARTITIONS

    @property
    def dealer(self) -> str | None:
        return self.owner(0)

    def epoch(self, partition: int) -> int:
        return self._held.get(partition, 0)

    async def confirm(self, partition: int) -> bool:
        return self._owners.table.get(partition) == (self._instance, self.epoch(partition))

    def owner(self, partition: int) -> str | None:
        return self._instance if partition in self._held else self._others.get(partition)

    async def follow(
        self,
        on_gained: Callable[[frozenset[int]], Awaitable[None]],
        on_lost: Callable[[frozenset[int]], Awaitable[None]],
    ) -> None:
        """Take in what changes, for ever."""
        while True:
            self._work.clear()
            try:
                if not self.blind:
                    await self._take_in(on_gained, on_lost)
            except MeshError:
                await asyncio.sleep(_RETRY_S)
            else:
                await self._work.wait()

    def look(self) -> None:
        """Something changed."""
        self._work.set()

    async def _take_in(
        self,
        on_gained: Callable[[frozenset[int]], Awaitable[None]],
        on_lost: Callable[[frozenset[int]], Awaitable[None]],
    ) -> None:
        true = dict(self._owners.table)
        mine = {number: epoch for number, (who, epoch) in true.items() if who == self._instance}
        self.members = {name: Member(name) for name in self._owners.living}
        self._others = {n: who for n, (who, _) in true.items() if who != self._instance}
        lost = frozenset(n for n, epoch in self._held.items() if mine.get(n) != epoch)
        if lost:
            for number in lost:
                del self._held[number]
            self._notify()
            await on_lost(lost)
        if new := frozenset(mine.keys() - self._held.keys()):
            await on_gained(frozenset(self._held) | new)
            self._held |= {number: mine[number] for number in new}
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


class Owners:
    """The truth: each partition with its owner and the epoch of that ownership."""

    def __init__(self) -> None:
        self.table: dict[int, tuple[str, int]] = {}
        self.living: dict[str, Beliefs] = {}
        self._epochs = itertools.count(1)

    def join(self, instance: str, beliefs: Beliefs) -> None:
        """Count on a coordinator from now on."""
        self.living[instance] = beliefs
        if missing := ALL - self.table.keys():
            self.give(missing, instance)
        else:
            self.tell()

    def leave(self, instance: str) -> None:
        """Count on it no more; what it owned has no owner until somebody is given it."""
        self.living.pop(instance, None)
        for number in [n for n, (who, _) in self.table.items() if who == instance]:
            del self.table[number]
        self.tell()

    def give(self, partitions: frozenset[int], instance: str) -> None:
        """Let a coordinator own partitions, whoever does now."""
        epoch = next(self._epochs)
        self.table |= dict.fromkeys(partitions, (instance, epoch))
        self.tell()

    def adopt(self) -> None:
        """Give what has no owner to some coordinator that lives."""
        if self.living and (missing := ALL - self.table.keys()):
            self.give(missing, next(iter(self.living)))

    def tell(self) -> None:
        """Let everybody look who can."""
        for beliefs in self.living.values():
            beliefs.look()
