"""Large values of threads: kept once, by digest, in an object store.

A stowed value is ``Value("blob", <digest>)``; the object holds its kind, a NUL byte and its data.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from langmesh.bus import Bus
from langmesh.bus.blobs import VALUES_BUCKET, Blobs
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.patience import patiently
from langmesh.wire.codec import BLOB_BYTES_MIN
from langmesh.wire.messages import Value

AGE_S: Final = 2 * 24 * 3600.0
"""Values that nobody refers to are kept for so long (``log.collect``)."""
_BLOB: Final = "blob"
_CACHE_BYTES: Final = 32 * 1024 * 1024
_ATTEMPT_S: Final = 30.0

T = TypeVar("T")


class Values:
    """Stows and fetches large values.

    Args:
        bus: The connection.
        patience_s: Seconds to try again while the broker is away.
    """

    def __init__(self, bus: Bus, *, patience_s: float) -> None:
        self._blobs = Blobs(bus, bucket=VALUES_BUCKET, ttl_s=0)
        self._patience_s = patience_s
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        # Who needs what another one uploads or downloads waits for that.
        self._uploading = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def stow(self, value: Value, *, limit: int = BLOB_BYTES_MIN) -> Value:
        """A value that is small enough for an entry: itself, or a reference to it.

        Raises:
            MeshError: As :meth:`put`.
        """
        if len(value.data) < limit or value.kind == _BLOB:
            return value
        return Value(_BLOB, (await self.put(value.kind.encode() + b"\0" + value.data)).encode())

    async def fetch(self, value: Value) -> Value:
        """The value itself, where :meth:`stow` left a reference.

        Raises:
            MeshError: As :meth:`get`.
        """
        if value.kind != _BLOB:
            return value
        kind, _, data = (await self.get(value.data.decode())).partition(b"\0")
        return Value(kind.decode(), data)

    async def put(self, data: bytes) -> str:
        """Keep bytes and return their name; what is there already is not sent again.

        Raises:
            MeshError: PAYLOAD_TOO_LARGE over 256 MiB, BROKER_UNAVAILABLE.
        """
        async with self._uploading:
            return await self._patiently(lambda: self._blobs.put(data, fresh_s=AGE_S / 2))

    async def get(self, name: str) -> bytes:
        """Bytes by their name.

        Raises:
            MeshError: INTERNAL when they are gone, BROKER_UNAVAILABLE.
        """
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            if (data := self._cache.get(name)) is not None:
                self._cache.move_to_end(name)
                return data
            data = await self._patiently(lambda: self._blobs.get(name))
            self._remember(name, data)
            return data

    def _remember(self, name: str, data: bytes) -> None:
        if len(data) > _CACHE_BYTES // 2:
            return
        self._cache[name] = data
        self._cached_bytes += len(data)
        while self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async def timed() -> T:
            try:
                async with asyncio.timeout(_ATTEMPT_S):
                    return await attempt()
            except TimeoutError as exc:
                # The client library waits for chunks without a limit.
                problem = f"a large value did not cross within {_ATTEMPT_S:g} s"
                raise MeshError(ErrorCode.BROKER_UNAVAILABLE, problem) from exc

        return await patiently(timed, patience_s=self._patience_s)
