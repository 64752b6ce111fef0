"""Large values, kept in the object store by digest and named where they are used."""

from __future__ import annotations

import hashlib
from typing import Final

import nats.errors
import nats.js.errors
from nats.js.api import ObjectStoreConfig
from nats.js.object_store import ObjectStore

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError

BUCKET: Final = "langmesh-blobs"
BLOB_BYTES_MAX: Final = 256 * 1024 * 1024
_TTL_S: Final = 7 * 24 * 3600


class Blobs:
    """Stores and loads bytes by their SHA-256."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._store: ObjectStore | None = None

    async def put(self, data: bytes) -> str:
        """Store bytes once and return their name.

        Raises:
            MeshError: PAYLOAD_TOO_LARGE over 256 MiB, BROKER_UNAVAILABLE.
        """
        if len(data) > BLOB_BYTES_MAX:
            raise MeshError(
                ErrorCode.PAYLOAD_TOO_LARGE, f"a value of {len(data):,} bytes cannot cross the mesh"
            )
        name = hashlib.sha256(data).hexdigest()
        try:
            store = await self._bucket()
            try:
                await store.get_info(name)
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
            MeshError: BROKER_UNAVAILABLE, or INTERNAL if the value is gone.
        """
        try:
            data = (await (await self._bucket()).get(name)).data
        except nats.js.errors.NotFoundError as exc:
            raise MeshError(ErrorCode.INTERNAL, f"the large value {name} has expired") from exc
        except (nats.errors.Error, TimeoutError) as exc:
            raise MeshError(
                ErrorCode.BROKER_UNAVAILABLE, f"loading a large value: {exc!r}"
            ) from exc
        return data or b""

    async def _bucket(self) -> ObjectStore:
        if self._store is None:
            js = self._bus.client.jetstream(timeout=10)
            try:
                self._store = await js.object_store(BUCKET)
            except nats.js.errors.NotFoundError:
                self._store = await js.create_object_store(
                    BUCKET, config=ObjectStoreConfig(bucket=BUCKET, ttl=_TTL_S)
                )
        return self._store
