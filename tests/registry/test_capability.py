import asyncio

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.capability import KEY_BYTES, capability_key, capability_key_by_id
from langmesh.registry.etcd import Etcd


async def test_concurrent_coordinators_agree(server):
    async with Etcd([server.endpoint]) as one, Etcd([server.endpoint]) as two:
        first, second = await asyncio.gather(capability_key(one), capability_key(two))
        assert first == second
        assert await capability_key(two) == first
        key_id, key = first
        assert len(key) == KEY_BYTES
        assert len(set(key)) > 8
        assert await capability_key_by_id(one, key_id) == key
        assert set((await one.list(keys.secrets())).entries) == {
            keys.secret("current"),
            keys.secret(key_id),
        }


async def test_a_rotated_key_stays_readable_by_its_id(etcd):
    old_id, old = await capability_key(etcd)
    await etcd.put(keys.secret("next"), bytes(KEY_BYTES))
    await etcd.put(keys.secret("current"), b"next")
    assert await capability_key(etcd) == ("next", bytes(KEY_BYTES))
    assert await capability_key_by_id(etcd, old_id) == old


async def test_what_is_no_key_is_refused(etcd):
    await etcd.put(keys.secret("current"), b"short")
    for value in (None, b"abc"):
        if value is not None:
            await etcd.put(keys.secret("short"), value)
        with pytest.raises(MeshError, match="short") as caught:
            await capability_key(etcd)
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED
