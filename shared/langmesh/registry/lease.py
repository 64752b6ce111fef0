"""Leases, and registrations that stay in etcd for as long as their process lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from langmesh import clock
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd

TTL_S: Final = 4
"""Lifetime of a lease that nobody renews. etcd looks for expired leases every half second and
deletes their keys through its log, so what died is gone within 5 s."""
_BEATS_PER_TTL: Final = 4
_LOST_AFTER_TTLS: Final = 0.8
"""A lease that was not confirmed for this share of its lifetime counts as lost, while etcd still
honours it."""
_REVOKE_S: Final = 1.0
_PAUSE_FIRST_S: Final = 0.1
_PAUSE_MAX_S: Final = 2.0

_logger = logging.getLogger(__name__)


class Lease:
    """A lease that is renewed until the context ends, which deletes its keys at once.

    Whoever acts alone by virtue of the lease must stop when `lost` is set. A stopped process cannot
    notice in time, so its writes must carry a fence as well (``Entry.create_revision``).

    Args:
        etcd: An open client of this event loop.
        ttl_s: Whole seconds for which etcd honours the lease without a renewal; etcd raises what is
            below 1.5 of its election timeouts.
    """

    def __init__(self, etcd: Etcd, *, ttl_s: int = TTL_S) -> None:
        self._etcd = etcd
        self._ttl_s = ttl_s
        self._id = 0
        self._confirmed_at = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()
        """Set when the lease has ended, or could not be confirmed for so long that it may have."""

    @property
    def id(self) -> int:
        """The lease's id; pass it with the writes that shall end with it."""
        return self._id

    async def __aenter__(self) -> Self:
        self._confirmed_at = clock.monotonic()
        self._id = await self._etcd.grant(self._ttl_s)
        self._renewal = asyncio.create_task(self._renew(), name=f"lease {self._id:x}")
        # However the renewal ends: a lease that nobody renews must not look alive.
        self._renewal.add_done_callback(lambda _: self.lost.set())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_lost = self.lost.is_set()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        if was_lost:
            return  # its keys may by now hang on a newer lease; what is left of it expires
        try:
            await self._etcd.revoke(self._id, timeout_s=_REVOKE_S)
        except MeshError as failure:
            _logger.warning("lease %x is left to expire: %s", self._id, failure.message)

    async def _renew(self) -> None:
        pause_s = self._ttl_s / _BEATS_PER_TTL
        alive = True
        while alive:
            await asyncio.sleep(min(pause_s, max(self._left_s(), 0)))
            alive = await self._beat()

    async def _beat(self) -> bool:
        """Renew once, repeating until that is answered; False when the lease has ended."""
        while (left_s := self._left_s()) > 0:
            sent_at = clock.monotonic()
            try:
                ttl_s = await self._etcd.keep_alive(
                    self._id, timeout_s=min(left_s, self._ttl_s / _BEATS_PER_TTL)
                )
            except MeshError as failure:
                _logger.info("lease %x was not confirmed: %s", self._id, failure.message)
                await asyncio.sleep(min(_PAUSE_FIRST_S, left_s))
                continue
            if ttl_s > 0:
                self._confirmed_at = sent_at
            return ttl_s > 0
        return False

    def _left_s(self) -> float:
        return self._confirmed_at + self._ttl_s * _LOST_AFTER_TTLS - clock.monotonic()


class Registration:
    """Keeps keys present in etcd under one lease while its context is open.

    It registers in the background, and again whenever the lease was lost or etcd came back, for as
    long as it takes; leaving the context deregisters at once. A process whose event loop may be
    blocked runs it in a thread with an event loop and an :class:`~langmesh.registry.etcd.Etcd` of
    its own.

    Args:
        etcd: An open client of this event loop.
        entries: Keys and values to keep present.
        ttl_s: Seconds after which etcd drops the keys of a process that died.
    """

    def __init__(self, etcd: Etcd, entries: Mapping[str, bytes], *, ttl_s: int = TTL_S) -> None:
        self._etcd = etcd
        self._entries = dict(entries)
        self._held: dict[str, bytes] = {}
        self._names = ", ".join(entries)
        self._ttl_s = ttl_s
        self._wanted = 1
        self._written = 0
        self._update = asyncio.Event()
        self._progress = asyncio.Condition()
        self._failure: MeshError | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether etcd holds the keys, with their latest values, as far as is known."""
        return self._written == self._wanted

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep(), name="registration")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_up(self, timeout_s: float = 3.0) -> None:
        """Wait until etcd holds the keys.

        Raises:
            MeshError: Why it does not after `timeout_s` seconds, REGISTRY_UNAVAILABLE or
                REGISTRY_REJECTED; the registration goes on trying.
        """
        await self._wait_written(self._wanted, timeout_s)

    async def update(self, value: bytes, *, key: str | None = None, timeout_s: float = 3.0) -> None:
        """Give a key a new value under the same lease and wait until etcd holds it.

        Args:
            value: The new value; kept also if the wait fails.
            key: Which key; may be omitted when there is one.
            timeout_s: Seconds to wait.

        Raises:
            KeyError: The key is not one of this registration's, or it has several and none was
                named.
            MeshError: As :meth:`wait_up`; the value will be written when etcd takes it.
        """
        if key is None:
            if len(self._entries) != 1:
                raise KeyError("name one of several keys")
            key = next(iter(self._entries))
        self.replace(key, value)
        await self._wait_written(self._wanted, timeout_s)

    def replace(self, key: str, value: bytes) -> None:
        """Give a key a new value under the same lease, as soon as etcd takes it.

        Raises:
            KeyError: The key is not one of this registration's.
        """
        if key not in self._entries:
            raise KeyError(key)
        self._entries[key] = value
        self._wanted += 1
        self._update.set()

    def offer(self, key: str, value: bytes) -> None:
        """Write a key under the same lease as soon as etcd takes it, and wait for nothing.

        The key may be a new one. While etcd is away only the latest value is kept.
        """
        self._entries[key] = value
        self._wanted += 1
        self._update.set()

    async def _keep(self) -> None:
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                async with Lease(self._etcd, ttl_s=self._ttl_s) as lease:
                    self._held.clear()
                    pause_s = _PAUSE_FIRST_S
                    await self._hold(lease)
                _logger.warning("registering anew: the lease of %s was lost", self._names)
            except MeshError as failure:
                self._note(failure)
            self._written = 0
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _hold(self, lease: Lease) -> None:
        """Write the keys, and again after each update, until the lease is lost."""
        pause_s = _PAUSE_FIRST_S
        while not lease.lost.is_set():
            try:
                await self._write(lease)
            except MeshError as failure:
                # Giving the lease up here would delete the keys that it still holds.
                self._note(failure)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            else:
                pause_s = _PAUSE_FIRST_S
                await _either(lease.lost, self._update)

    async def _write(self, lease: Lease) -> None:
        """Write what the lease does not hold yet: who follows a key is woken by its changes only.

        As only one task writes, no value is overtaken by an older one.
        """
        self._update.clear()
        version, entries = self._wanted, dict(self._entries)
        for key, value in entries.items():
            if self._held.get(key) != value:
                self._held.pop(key, None)  # until the write is known to have happened
                await self._etcd.put(key, value, lease.id)
                self._held[key] = value
        self._failure = None
        async with self._progress:
            self._written = version
            self._progress.notify_all()

    async def _wait_written(self, version: int, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: self._written >= version)
        except TimeoutError as exc:
            if self._failure is not None:
                raise MeshError(self._failure.code, self._failure.message) from exc
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"{self._etcd.transport.where} has not taken {self._names} within {timeout_s:g} s",
            ) from exc

    def _note(self, failure: MeshError) -> None:
        if self._failure is None or self._failure.message != failure.message:
            _logger.warning("not registered, trying again: %s", failure.message)
        self._failure = failure


async def _either(first: asyncio.Event, second: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
