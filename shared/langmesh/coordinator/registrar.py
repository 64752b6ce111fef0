"""Registers agents that have no etcd: they ask a coordinator, which keeps their lease for them.

All that is known of such an agent is in its record and on the record's lease, so that any
coordinator renews what another one began, and a coordinator's restart is not noticed.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Final

from langmesh import clock
from langmesh.bus import Bus
from langmesh.bus.streams import ensure_consumer
from langmesh.coordinator.catalog import Catalog
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys, loads, records
from langmesh.registry.etcd import Etcd, mod_is, put_op
from langmesh.registry.loads import Load
from langmesh.registry.model import Entry
from langmesh.registry.records import ServiceRecord
from langmesh.wire import codec, rpc, subjects
from langmesh.wire.streams import EXEC, EXEC_ACK_WAIT_S, exec_consumer

log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 3.0
_ATTEMPTS: Final = 5
_RENEWALS_PER_TTL: Final = 3


class Registrar:
    """Answers ``agent.register`` and ``agent.unregister``."""

    def __init__(self, bus: Bus, etcd: Etcd, catalog: Catalog) -> None:
        self._bus = bus
        self._etcd = etcd
        self._catalog = catalog

    async def register(self, tenant: str, asked: rpc.RegisterAgent) -> rpc.AgentPlace:
        """Register an agent, or renew its registration.

        Raises:
            MeshError: UNKNOWN_GRAPH, UNKNOWN_NODE, INVALID_NAME, PAYLOAD_TOO_LARGE naming the
                field, INSTANCE_TAKEN, REGISTRY_UNAVAILABLE, BROKER_UNAVAILABLE.
        """
        entry = self._catalog.get(tenant, asked.graph)
        if asked.node not in entry.loaded.topology.nodes:
            raise _unknown_node(asked, entry.loaded.topology.nodes)
        binding = self._catalog.binding(tenant, asked.graph, asked.node)
        release = binding.release if asked.release is None else asked.release
        bound = release == binding.release
        own = subjects.execution(tenant, asked.graph, asked.node, release)
        subject = binding.subject if bound else own
        for field in ("input_schema", "output_schema"):
            _check_size(field, getattr(asked, field))
        if await self._hold(tenant, asked, release):
            log.info(
                "agent %s serves %s of %s, release %s",
                *(asked.instance, asked.node, asked.graph, release),
            )
            # Whoever comes anew may come to a broker that lost its consumers.
            await ensure_consumer(self._bus, exec_consumer(subject))
        else:
            await self._catalog.ensure_consumer(subject)
        return rpc.AgentPlace(
            instance=asked.instance,
            release=release,
            subject=subject,
            stream=EXEC.name,
            consumer=subjects.exec_consumer(subject),
            encoding=binding.encoding if bound else "json",
            bound=bound,
            ack_wait_s=EXEC_ACK_WAIT_S,
            ttl_s=asked.ttl_s,
            renew_before_s=asked.ttl_s / _RENEWALS_PER_TTL,
        )

    async def unregister(self, tenant: str, asked: rpc.UnregisterAgent) -> rpc.AgentGone:
        """Take an agent out of the registry at once.

        Raises:
            MeshError: INVALID_NAME, INSTANCE_TAKEN, REGISTRY_UNAVAILABLE.
        """
        entry = await self._etcd.get(keys.agent(tenant, asked.graph, asked.node, asked.instance))
        if entry is None:
            return rpc.AgentGone(removed=False)
        _ours(entry, asked.instance)
        try:
            await self._etcd.revoke(entry.lease)
        except MeshError as exc:
            if exc.code is not ErrorCode.REGISTRY_REJECTED:
                raise
            return rpc.AgentGone(removed=False)  # it ended by itself meanwhile
        log.info("agent %s of %s stops", asked.instance, asked.node)
        return rpc.AgentGone(removed=True)

    async def _hold(self, tenant: str, asked: rpc.RegisterAgent, release: str) -> bool:
        """Write or renew the record; gives whether it is a new one."""
        names = (tenant, asked.graph, asked.node, asked.instance)
        key, load_key = keys.agent(*names), keys.load(*names)
        load = None if asked.load is None else loads.encode(_load(asked, asked.load))
        for _ in range(_ATTEMPTS):
            entry = await self._etcd.get(key)
            old = None if entry is None else _ours(entry, asked.instance)
            record = records.encode(_record(asked, release, old))
            if (
                entry is not None
                and old is not None
                and old.ttl_s == asked.ttl_s
                and await self._etcd.keep_alive(entry.lease, timeout_s=_KEEP_ALIVE_S)
            ):
                changes = [put_op(key, record, entry.lease)] if record != entry.value else []
                if load is not None:
                    changes.append(put_op(load_key, load, entry.lease))
                result = await self._etcd.txn([mod_is(key, entry.mod_revision)], changes)
                if result.succeeded:
                    return False
                continue
            if await self._begin(key, entry, record, load_key, load, asked.ttl_s):
                return entry is None
        raise MeshError(
            ErrorCode.BUSY, f"instance: {asked.instance!r} is being registered by somebody else too"
        )

    async def _begin(
        self,
        key: str,
        entry: Entry | None,
        record: bytes,
        load_key: str,
        load: bytes | None,
        ttl_s: int,
    ) -> bool:
        """Write the record under a lease of its own unless somebody else changed it meanwhile."""
        lease = await self._etcd.grant(ttl_s)
        changes = [put_op(key, record, lease)]
        if load is not None:
            changes.append(put_op(load_key, load, lease))
        seen = 0 if entry is None else entry.mod_revision
        result = await self._etcd.txn([mod_is(key, seen)], changes)
        if not result.succeeded:
            await self._revoke(lease)
        elif entry is not None:
            await self._revoke(entry.lease)  # takes the load of before along, if none came now
        return result.succeeded

    async def _revoke(self, lease: int) -> None:
        with contextlib.suppress(MeshError):  # it ends by itself
            await self._etcd.revoke(lease)


def _ours(entry: Entry, instance: str) -> ServiceRecord:
    """The record of an agent that registered here.

    Raises:
        MeshError: INSTANCE_TAKEN if it belongs to a process that registered itself.
    """
    try:
        record = records.decode_service(entry.value)
    except MeshError:
        record = None
    if record is None or record.ttl_s == 0 or entry.lease == 0:
        whose = "another process" if record is None else f"process {record.pid} on {record.host}"
        raise MeshError(
            ErrorCode.INSTANCE_TAKEN,
            f"instance: {instance!r} belongs to {whose}, which registered itself in etcd",
        )
    return record


def _record(asked: rpc.RegisterAgent, release: str, old: ServiceRecord | None) -> ServiceRecord:
    return ServiceRecord(
        service=asked.node,
        instance=asked.instance,
        pid=asked.pid or 0,
        host=asked.host or "unknown",
        state="ready",
        event_loop="",
        release=release,
        capacity=asked.capacity,
        started_at=clock.now_iso() if old is None else old.started_at,
        versions=asked.versions,
        graph=asked.graph,
        node=asked.node,
        capabilities=asked.capabilities,
        input_schema=asked.input_schema,
        output_schema=asked.output_schema,
        ttl_s=asked.ttl_s,
    )


def _load(asked: rpc.RegisterAgent, load: rpc.AgentLoad) -> Load:
    said: dict[str, Any] = {name: getattr(load, name) for name in load.__struct_fields__}
    return Load(
        agent_id=asked.instance,
        timestamp=clock.now_iso(),
        interval_s=float(asked.ttl_s),
        capacity=asked.capacity,
        **said,
    )


def _check_size(field: str, schema: dict[str, Any]) -> None:
    size = len(codec.project_json(schema))
    if size > records.SCHEMA_BYTES_MAX:
        raise MeshError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"{field}: {size:,} bytes, more than the limit of {records.SCHEMA_BYTES_MAX:,}",
            remedy="Leave it out, or describe less.",
        )


def _unknown_node(asked: rpc.RegisterAgent, nodes: dict[str, Any]) -> MeshError:
    return MeshError(
        ErrorCode.UNKNOWN_NODE,
        f"node: graph {asked.graph!r} has no node {asked.node[:100]!r}; it has {', '.join(nodes)}",
    )
