"""Large values, kept in the object store by digest and named where they are used."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.api import ObjectStoreConfig
from nats.js.object_store import ObjectStore

from langmesh.bus.client import Bus
from langmesh.clock import since_s
from langmesh.errors import ErrorCode, MeshError

BUCKET: Final = "langmesh-blobs"
"""Values in flight, which expire."""
VALUES_BUCKET: Final = "langmesh-values"
"""Values of threads, which do not."""
BLOB_BYTES_MAX: Final = 256 * 1024 * 1024
_INLINE_BYTES_MAX: Final = 1024 * 1024
TTL_S: Final = 7 * 24 * 3600


class Blobs:
    """Stores and loads bytes by their SHA-256.

    Args:
        bus: The connection.
        bucket: The object store's name; it is created when it is first needed.
        ttl_s: Seconds that an object is kept, 0 for ever; takes effect when the bucket is created.
    """

    def __init__(self, bus: Bus, *, bucket: str = BUCKET, ttl_s: int = TTL_S) -> None:
        self._bus = bus
        self._bucket_name = bucket
        self._ttl_s = ttl_s
        self._store: ObjectStore | None = None

    async def put(self, data: bytes, *, fresh_s: float | None = None) -> str:
        """Store bytes once and return their name.

        Args:
            data: The bytes.
            fresh_s: Store them once more if what is there is older than so many seconds.

        Raises:
            MeshError: PAYLOAD_TOO_LARGE over 256 MiB, BROKER_UNAVAILABLE.
        """
        if len(data) > BLOB_BYTES_MAX:
            raise MeshError(
                ErrorCode.PAYLOAD_TOO_LARGE, f"a value of {len(data):,} bytes cannot cross the mesh"
            )
        name = await _digest(data)
        try:
            store = await self._bucket()
            try:
                found = await store.get_info(name)
                if fresh_s is not None and since_s(found.mtime or "") > fresh_s:
                    await store.put(name, data)
            except nats.js.errors.NotFoundError:
                await store.put(name, data)
        except (nats.errors.Error, TimeoutError) as exc:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE, f"storing a large value: {exc!r}"
            ) from exc
        return name

    async def get(self, name: str) -> bytes:
        """Load bytes by their name.

        Raises:
            MeshError: BROKER_UNAVAILABLE, or INTERNAL if the value is gone or another one.
        """
        try:
            data = (await (await self._bucket()).get(name)).data or b""
        except nats.js.errors.NotFoundError as exc:
            gone = "has expired" if self._ttl_s else "is gone"
            raise MeshError(ErrorCode.INTERNAL, f"the large value {name} {gone}") from exc
        except (nats.errors.Error, TimeoutError) as exc:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE, f"loading a large value: {exc!r}"
            ) from exc
        if await _digest(data) != name:
            raise MeshError(ErrorCode.INTERNAL, f"the large value {name} is not what it was")
        return data

    async def _bucket(self) -> ObjectStore:
        if self._store is None:
            js = self._bus.client.jetstream(timeout=10)
            try:
                self._store = await js.object_store(self._bucket_name)
            except nats.js.errors.NotFoundError:
                self._store = await js.create_object_store(
                    self._bucket_name,
                    config=ObjectStoreConfig(bucket=self._bucket_name, ttl=self._ttl_s or None),
                )
        return self._store


async def _digest(data: bytes) -> str:
    """SHA-256; a large one is made in a thread, since the event loop would stand still."""
    if len(data) < _INLINE_BYTES_MAX:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
