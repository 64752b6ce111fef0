"""The services that a mesh has, read from its registry: for tests that wait for them."""

from __future__ import annotations

import asyncio
import logging

from langmesh.errors import MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service

log = logging.getLogger(__name__)


async def services(etcd: Etcd) -> list[ServiceRecord]:
    """Every registered coordinator and agent, by name, except records that cannot be read."""
    snapshots = await asyncio.gather(etcd.list(keys.coordinators()), etcd.list(keys.agents()))
    records = []
    for snapshot in snapshots:
        for key, entry in snapshot.entries.items():
            try:
                records.append(decode_service(entry.value))
            except MeshError as exc:
                log.warning("left out what is registered at %s: %s", key, exc.message)
    return sorted(records, key=lambda record: (record.service, record.instance))
