"""A decoded, always current map of one prefix, kept in memory by a watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Generic, Self, TypeVar

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd
from langmesh.registry.model import Changes, Entry, Snapshot
from langmesh.registry.watch import watch

T = TypeVar("T")

_REFUSED_PAUSE_S: Final = 2.0

_logger = logging.getLogger(__name__)


class View(Generic[T]):
    """The documents under a prefix, decoded, as of a moment ago; use as an async context manager.

    While etcd is away the view keeps its last contents. A document that does not decode is logged
    and rejected: the key keeps the value that it had, if any. Nothing that anyone writes under the
    prefix stops the view.

    Args:
        etcd: An open client of this event loop.
        prefix: Ends with ``/``; keys are relative to it.
        decode: Makes a value of a relative key and its document; raises to reject it.
        grace_s: A key that is deleted stays for so many seconds, and does not go at all if it is
            written again meanwhile: a process that registers anew after an outage is then never
            missed. The price is that what really went is seen to go that much later.
    """

    def __init__(
        self, etcd: Etcd, prefix: str, decode: Callable[[str, bytes], T], *, grace_s: float = 0.0
    ) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._decode = decode
        self._grace_s = grace_s
        self._items: dict[str, T] = {}
        self._written: dict[str, int] = {}
        self._rejected: dict[str, str] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._revision = 0
        self._callbacks: list[Callable[[], None]] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def items(self) -> Mapping[str, T]:
        """The contents by relative key, live: copy them to keep them across an ``await``."""
        return MappingProxyType(self._items)

    def written(self, key: str) -> int:
        """The store's revision that wrote a key's value in `items`; 0 if there is none."""
        return self._written.get(key, 0)

    @property
    def rejected(self) -> Mapping[str, str]:
        """Why a key's latest document was rejected, by relative key; live like `items`."""
        return MappingProxyType(self._rejected)

    @property
    def revision(self) -> int:
        """The store's revision that the contents reflect; 0 before the first snapshot."""
        return self._revision

    @property
    def ready(self) -> bool:
        """Whether the first snapshot has arrived."""
        return self._revision > 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"view {self._prefix}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every change of the contents, until the result is called."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return unsubscribe

    async def wait_ready(self, timeout_s: float = 3.0) -> None:
        """Wait for the first snapshot.

        Raises:
            MeshError: REGISTRY_UNAVAILABLE if there is none after `timeout_s` seconds; the view
                goes on trying.
        """
        try:
            await self._wait(lambda: self.ready, timeout_s)
        except TimeoutError as exc:
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"{self._etcd.transport.where} did not list {self._prefix} within {timeout_s:g} s",
            ) from exc

    async def wait_for(
        self, predicate: Callable[[Mapping[str, T]], bool], timeout_s: float | None
    ) -> None:
        """Wait until the contents satisfy `predicate`; without a timeout, for ever.

        Raises:
            MeshError: TIMED_OUT if they do not within `timeout_s` seconds.
        """
        try:
            await self._wait(lambda: self.ready and predicate(self.items), timeout_s)
        except TimeoutError as exc:
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"{self._prefix} did not reach the awaited state within {timeout_s:g} s;"
                f" it holds {len(self._items)} keys at revision {self._revision}",
            ) from exc

    async def _wait(self, condition: Callable[[], bool], timeout_s: float | None) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await self._changed.wait()

    async def _run(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(watch(self._etcd, self._prefix)) as batches:
                    async for batch in batches:
                        self._apply(batch)
            except MeshError as exc:
                _logger.warning("%s is not kept current: %s", self._prefix, exc.message)
            await asyncio.sleep(_REFUSED_PAUSE_S)

    def _apply(self, batch: Snapshot | Changes) -> None:
        if isinstance(batch, Snapshot):
            present = {self._relative(key): entry for key, entry in batch.entries.items()}
            for key in (self._items.keys() | self._rejected.keys()) - present.keys():
                self._delete(key)
            for key, entry in present.items():
                self._put(key, entry)
        else:
            for change in batch.changes:
                key = self._relative(change.key)
                if change.entry is None:
                    self._delete(key)
                else:
                    self._put(key, change.entry)
        self._revision = batch.revision
        self._notify()

    def _put(self, key: str, entry: Entry) -> None:
        if (timer := self._leaving.pop(key, None)) is not None:
            timer.cancel()
        try:
            value = self._decode(key, entry.value)
        except MeshError as exc:
            self._reject(entry, key, exc.message)
        except Exception as exc:
            # A decoder's own fault must not stop the view either; this one deserves its traceback.
            _logger.exception("the decoder of %s failed", self._prefix)
            self._reject(entry, key, f"{type(exc).__name__}: {exc}")
        else:
            self._items[key] = value
            self._written[key] = entry.mod_revision
            self._rejected.pop(key, None)

    def _reject(self, entry: Entry, key: str, reason: str) -> None:
        self._rejected[key] = reason
        kept = "its value from before stays" if key in self._items else "it is left out"
        _logger.warning(
            "rejected %s at revision %d, %s: %s", entry.key, entry.mod_revision, kept, reason
        )

    def _delete(self, key: str) -> None:
        if self._grace_s <= 0:
            self._forget(key)
        elif key not in self._leaving:
            loop = asyncio.get_running_loop()
            self._leaving[key] = loop.call_later(self._grace_s, self._leave, key)

    def _leave(self, key: str) -> None:
        del self._leaving[key]
        self._forget(key)
        self._notify()

    def _forget(self, key: str) -> None:
        self._items.pop(key, None)
        self._written.pop(key, None)
        self._rejected.pop(key, None)

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._prefix)

    def _notify(self) -> None:
        # Whoever waits gets this event; the next wait is for the next change.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for callback in tuple(self._callbacks):
            try:
                callback()
            except Exception:
                _logger.exception("a subscriber to %s failed", self._prefix)
