"""The coordinators' shared secret: with it they make capabilities, which nobody else can."""

from __future__ import annotations

import secrets
from typing import Final

from langmesh import clock
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd, get_op, mod_is, put_op

KEY_BYTES: Final = 32
_CURRENT: Final = "current"
"""Names the id of the key that new capabilities are made with; every key itself is under its id."""


async def capability_key(etcd: Etcd) -> tuple[str, bytes]:
    """The current key's id and its 32 bytes; the first coordinator to ask makes it.

    Raises:
        MeshError: As :class:`~langmesh.registry.etcd.Etcd` does; REGISTRY_REJECTED if what is
            stored is no key.
    """
    current = keys.secret(_CURRENT)
    entry = await etcd.get(current)
    if entry is None:
        key_id = clock.new_id()[:8]
        made = await etcd.txn(
            [mod_is(current, 0)],
            [
                put_op(current, key_id.encode()),
                put_op(keys.secret(key_id), secrets.token_bytes(KEY_BYTES)),
            ],
            [get_op(current)],
        )
        entry = await etcd.get(current) if made.succeeded else made.reads[0]
    if entry is None:
        raise MeshError(ErrorCode.REGISTRY_REJECTED, f"{current} was deleted while it was read")
    key_id = entry.value.decode("utf-8", "replace")
    return key_id, await capability_key_by_id(etcd, key_id)


async def capability_key_by_id(etcd: Etcd, key_id: str) -> bytes:
    """The key with an id: capabilities made before a rotation name an earlier one.

    Raises:
        MeshError: As :class:`~langmesh.registry.etcd.Etcd` does; REGISTRY_REJECTED if there is no
            such key.
    """
    entry = await etcd.get(keys.secret(key_id))
    if entry is None or len(entry.value) != KEY_BYTES:
        found = "is absent" if entry is None else f"has {len(entry.value)} bytes"
        raise MeshError(
            ErrorCode.REGISTRY_REJECTED,
            f"{keys.secret(key_id)} {found}; expected a key of {KEY_BYTES} bytes",
        )
    return entry.value
