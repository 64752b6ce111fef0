"""The partitions of threads, shared out among the coordinators by leases in etcd.

The lease only decides who tries (rule R1); a coordinator that does not know that it lost a
partition is fenced by the compare-and-set on every entry of a log and on every event. So one that
cannot reach etcd goes on with what it has: only another owner takes a partition away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from langmesh.coordinator.assignment import moves
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd, delete_op, mod_is, put_op
from langmesh.registry.lease import Lease
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.wire.names import PARTITIONS

log = logging.getLogger(__name__)

DEALER_PARTITION: Final = 0
"""Its owner takes the submissions and deals them out."""
_RETRY_S: Final = 0.25
_TXN_OPS_MAX: Final = 100
"""etcd takes 128 operations in one transaction, unless it is configured otherwise."""
_OWNER_WITHIN_S: Final = 10.0

Change = Callable[[frozenset[int]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Held:
    epoch: int
    """Revision at which the ownership began: greater than that of any owner before."""
    written: int
    """Revision of the last write of the key."""


class Ownership:
    """Which coordinator owns which partition; :meth:`run` takes this one's share.

    Args:
        etcd: An open client.
        instance: This coordinator.
    """

    def __init__(self, etcd: Etcd, instance: str) -> None:
        self._etcd = etcd
        self._instance = instance
        self._owners: View[str] = View(
            etcd, keys.partitions(), lambda _, document: document.decode()
        )
        self._members: View[ServiceRecord] = View(
            etcd, keys.coordinators(), lambda _, document: decode_service(document)
        )
        self._held: dict[int, _Held] = {}
        self._listeners: list[Callable[[], None]] = []
        self._changed = asyncio.Event()
        self._balanced = asyncio.Event()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change of who owns what, and of who lives."""
        self._listeners.append(listener)

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that this coordinator owns."""
        return frozenset(self._held)

    @property
    def epochs(self) -> dict[int, int]:
        """The partitions that this coordinator owns, each with the epoch of its ownership."""
        return {number: held.epoch for number, held in self._held.items()}

    @property
    def members(self) -> Mapping[str, ServiceRecord]:
        """All coordinators that live, by instance."""
        return {record.instance: record for record in self._members.items.values()}

    @property
    def alone(self) -> bool:
        """Whether this coordinator owns all partitions."""
        return len(self._held) == PARTITIONS

    @property
    def dealer(self) -> str | None:
        """The coordinator that deals the submissions out, as far as is known."""
        return self.owner(DEALER_PARTITION)

    def epoch(self, partition: int) -> int:
        """Of this coordinator's ownership of a partition; 0 if it does not own it."""
        held = self._held.get(partition)
        return 0 if held is None else held.epoch

    async def confirm(self, partition: int) -> bool:
        """Whether the registry has this coordinator as the owner of a partition right now."""
        held = self._held.get(partition)
        try:
            entry = await self._etcd.get(keys.partition(partition))
        except MeshError as exc:
            log.warning("who owns partition %d is not known: %s", partition, exc.message)
            return False
        return held is not None and entry is not None and entry.mod_revision == held.written

    def owner(self, partition: int) -> str | None:
        """Who owns a partition; None while nobody does, or is about to."""
        if partition in self._held:
            return self._instance
        found = self._owners.items.get(str(partition))
        return None if found == self._instance else found

    async def owner_within(self, partition: int, *, timeout_s: float = _OWNER_WITHIN_S) -> str:
        """Who owns a partition, at once or when somebody does.

        Raises:
            MeshError: BUSY when nobody did in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (owner := self.owner(partition)) is None:
                    await self._changed.wait()
        except TimeoutError:
            raise MeshError(
                ErrorCode.BUSY,
                f"no coordinator owns partition {partition} for {timeout_s:g} s",
                remedy="Ask again in a moment; if it stays so, look at `langmesh status`.",
            ) from None
        return owner

    @contextlib.asynccontextmanager
    async def run(self, *, on_gained: Change, on_lost: Change) -> AsyncIterator[Ownership]:
        """Take this coordinator's share, and give it back at the end of the block.

        Args:
            on_gained: Called before this coordinator counts as the owner of these partitions.
            on_lost: Called when it does not any more, and before another one gets to know.
        """
        async with self._owners, self._members:
            await self._owners.wait_ready(timeout_s=30)
            await self._members.wait_ready(timeout_s=30)
            forget = [view.subscribe(self._notify) for view in (self._owners, self._members)]
            keeper = asyncio.create_task(self._keep(on_gained, on_lost), name="own partitions")
            try:
                yield self
            finally:
                for end in forget:
                    end()
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)

    async def balanced(self, *, timeout_s: float) -> None:
        """Wait until this coordinator has what nobody else has and belongs to it.

        Raises:
            MeshError: REGISTRY_UNAVAILABLE when that takes too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._balanced.wait()
        except TimeoutError:
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"this coordinator could not take its partitions within {timeout_s:g} s",
            ) from None

    async def _keep(self, on_gained: Change, on_lost: Change) -> None:
        while True:
            try:
                async with Lease(self._etcd) as lease:
                    try:
                        await self._hold(lease, on_gained, on_lost)
                    except asyncio.CancelledError:
                        # Before the lease ends, so that nobody else drives them meanwhile.
                        await self._drop(self.owned, on_lost)
                        raise
            except MeshError as exc:
                log.warning("the lease on partitions: %s", exc.message)
            await asyncio.sleep(_RETRY_S)

    async def _hold(self, lease: Lease, on_gained: Change, on_lost: Change) -> None:
        """Keep the share under a lease until that is lost."""
        rewritten = not self._held
        while not lease.lost.is_set():
            changed = self._changed
            try:
                if not rewritten:
                    await self._rewrite(lease)
                    rewritten = True
                await self._balance(lease, on_gained, on_lost)
            except MeshError as exc:
                log.warning("partitions cannot be shared out yet: %s", exc.message)
                await asyncio.sleep(_RETRY_S)
            else:
                await _either(lease.lost, changed)

    async def _rewrite(self, lease: Lease) -> None:
        """Hang what this coordinator still has on a new lease; it is told later what it lost."""
        found = await self._etcd.list(keys.partitions())
        mine = {
            number: entry.mod_revision
            for number in self._held
            if (entry := found.entries.get(keys.partition(number))) is not None
            and entry.value == self._instance.encode()
        }
        for number, written in (await self._write(mine, lease)).items():
            self._held[number] = _Held(self._held[number].epoch, written)

    async def _balance(self, lease: Lease, on_gained: Change, on_lost: Change) -> None:
        owners = {
            int(number): (owner, self._owners.written(number))
            for number, owner in self._owners.items.items()
            if number.isdecimal() and int(number) < PARTITIONS
        }
        members = self.members
        plan = moves(
            self._instance,
            members=members,
            held={number: held.written for number, held in self._held.items()},
            owners=owners,
            revision=self._owners.revision,
        )
        if plan.lost:
            log.warning("%d partitions went to other coordinators", len(plan.lost))
            await self._drop(plan.lost, on_lost)
        if plan.give:
            written = {
                number: held.written if (held := self._held.get(number)) else owners[number][1]
                for number in plan.give
            }
            await self._drop(plan.give & self._held.keys(), on_lost)
            await self._delete(written)
            log.info("gave %d partitions to other coordinators", len(plan.give))
        if plan.take:
            seen = {number: owners[number][1] if number in owners else 0 for number in plan.take}
            taken = await self._write(seen, lease)
            new = frozenset(taken.keys() - self._held.keys())
            if new:
                await on_gained(self.owned | new)
            self._held |= {number: _Held(at, at) for number, at in taken.items()}
            self._notify()
            if new:
                log.info("drives %d of %d partitions", len(self._held), PARTITIONS)
        if self._instance in members:
            self._balanced.set()

    async def _drop(self, lost: frozenset[int], on_lost: Change) -> None:
        if not lost:
            return
        for number in lost:
            self._held.pop(number, None)
        self._notify()
        await on_lost(lost)

    async def _write(self, seen: Mapping[int, int], lease: Lease) -> dict[int, int]:
        """Write this coordinator into keys whose last write is the one that was seen (0: none).

        Returns:
            The revision of each write that succeeded.
        """
        value = self._instance.encode()
        written: dict[int, int] = {}
        for part in _parts(sorted(seen)):
            names = [keys.partition(number) for number in part]
            result = await self._etcd.txn(
                [mod_is(name, seen[number]) for name, number in zip(names, part, strict=True)],
                [put_op(name, value, lease.id) for name in names],
            )
            if result.succeeded:
                written |= dict.fromkeys(part, result.revision)
                continue
            for name, number in zip(names, part, strict=True):
                won, revision = await self._etcd.compare_and_put(
                    name, value, seen[number], lease.id
                )
                if won:
                    written[number] = revision
        return written

    async def _delete(self, written: Mapping[int, int]) -> None:
        for part in _parts(sorted(written)):
            # All at once, so that the next owner makes one move of it.
            if not await self._delete_if(part, written):
                for number in part:
                    await self._delete_if([number], written)

    async def _delete_if(self, numbers: list[int], written: Mapping[int, int]) -> bool:
        names = [keys.partition(number) for number in numbers]
        compared = [
            mod_is(name, written[number]) for name, number in zip(names, numbers, strict=True)
        ]
        return (await self._etcd.txn(compared, [delete_op(name) for name in names])).succeeded

    def _notify(self) -> None:
        # Whoever waits gets this change; the next wait is for the next one.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listener in self._listeners:
            listener()


def _parts(numbers: list[int]) -> Iterable[list[int]]:
    for start in range(0, len(numbers), _TXN_OPS_MAX):
        yield numbers[start : start + _TXN_OPS_MAX]


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
