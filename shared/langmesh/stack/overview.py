"""How a mesh stands: its services with their health and load, and its nodes with who serves them.

Made of what the registry and the broker hold, without reading either.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from langmesh.registry import keys
from langmesh.registry.loads import SILENT_INTERVALS, Load
from langmesh.registry.records import Bindings, ServiceRecord

Health = Literal["starting", "ready", "draining", "silent"]
NodeKey = tuple[str, str, str]
"""Tenant, graph and node."""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One registered process, or one node of it."""

    name: str
    instance: str
    pid: int
    host: str
    state: str
    event_loop: str
    release: str
    tenant: str
    graph: str
    """Empty for a coordinator, as ``node`` is."""
    node: str
    started_at: str
    health: Health
    """The state; or ``silent`` if it is still registered, but did not report its load in time."""
    bound: bool
    """Whether the node's tasks go to its release."""
    registered_by: Literal["itself", "agent.register"]
    capacity: int
    capabilities: list[str]
    versions: dict[str, str]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    load: Load | None
    """None until it reported."""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a published graph, with sums over the agents of the release it is bound to."""

    tenant: str
    graph: str
    node: str
    release: str
    subject: str
    encoding: str
    replicas: int
    """Registered agents."""
    ready: int
    """Those of them that take tasks and report."""
    served: bool
    """Whether one of them takes tasks."""
    in_flight: int
    capacity: int
    cpu_usage: float
    """Sum of shares, which is more than 1 for agents on several machines."""
    memory_bytes: int
    request_rate: float
    queue_wait_ms: float | None
    """Mean over the agents, weighed by the tasks that each began."""
    failures: int
    backlog: int | None
    """Tasks that wait for an agent; None if the broker did not say."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole mesh."""

    services: list[ServiceView]
    """By name and instance."""
    nodes: list[NodeView]
    """By graph and node."""


def overview(
    *,
    coordinators: Mapping[str, ServiceRecord],
    agents: Mapping[str, ServiceRecord],
    loads: Mapping[str, Load],
    bindings: Mapping[str, Bindings],
    backlogs: Mapping[str, int],
    now: str,
) -> Overview:
    """Put together what is known.

    Args:
        coordinators: Registrations by key below the coordinators' prefix.
        agents: Likewise below the agents' prefix.
        loads: Reports by key below the loads' prefix.
        bindings: By key below the graphs' prefix.
        backlogs: Tasks that wait, by subject.
        now: RFC 3339; how old reports are is judged by it.
    """
    bound: dict[NodeKey, str] = {}
    nodes: dict[NodeKey, tuple[str, str, str]] = {}
    for key, table in bindings.items():
        tenant, graph, *_ = keys.names(key)
        for node, binding in table.nodes.items():
            bound[tenant, graph, node] = binding.release
            nodes[tenant, graph, node] = (binding.release, binding.subject, binding.encoding)
    services = [
        _service(keys.names(key), record, loads.get(key), bound, now)
        for group in (coordinators, agents)
        for key, record in group.items()
    ]
    services.sort(key=lambda each: (each.name, each.graph, each.instance))
    by_node: dict[NodeKey, list[ServiceView]] = {}
    for service in services:
        if service.node and service.bound:
            key_of = (service.tenant, service.graph, service.node)
            by_node.setdefault(key_of, []).append(service)
    return Overview(
        services=services,
        nodes=[
            _node(key, *nodes[key], by_node.get(key, []), backlogs.get(nodes[key][1]))
            for key in nodes
        ],
    )


def is_silent(load: Load, now: str) -> bool:
    """Whether a report is so old that its service should have made others since."""
    try:
        age = datetime.fromisoformat(now) - datetime.fromisoformat(load.timestamp)
    except (ValueError, TypeError):
        return True  # a report without a time that can be read is worth as much as none
    return age.total_seconds() > SILENT_INTERVALS * load.interval_s


def _service(
    names: tuple[str, ...],
    record: ServiceRecord,
    load: Load | None,
    bound: Mapping[NodeKey, str],
    now: str,
) -> ServiceView:
    silent = load is not None and record.state == "ready" and is_silent(load, now)
    tenant = names[0]
    return ServiceView(
        name=record.service,
        instance=record.instance,
        pid=record.pid,
        host=record.host,
        state=record.state,
        event_loop=record.event_loop,
        release=record.release,
        tenant=tenant,
        graph=record.graph,
        node=record.node,
        started_at=record.started_at,
        health="silent" if silent else record.state,
        bound=bound.get((tenant, record.graph, record.node)) == record.release,
        registered_by="agent.register" if record.ttl_s else "itself",
        capacity=record.capacity,
        capabilities=record.capabilities,
        versions=record.versions,
        input_schema=record.input_schema,
        output_schema=record.output_schema,
        load=load,
    )


def _node(
    key: NodeKey,
    release: str,
    subject: str,
    encoding: str,
    services: list[ServiceView],
    backlog: int | None,
) -> NodeView:
    loads = [service.load for service in services if service.load is not None]
    begun = [(load.queue_wait_ms, load.request_rate) for load in loads]
    waits = [(wait, max(rate, 1e-9)) for wait, rate in begun if wait is not None]
    weight = sum(rate for _, rate in waits)
    return NodeView(
        tenant=key[0],
        graph=key[1],
        node=key[2],
        release=release,
        subject=subject,
        encoding=encoding,
        replicas=len(services),
        ready=sum(service.health == "ready" for service in services),
        served=any(service.state == "ready" for service in services),
        in_flight=sum(load.in_flight for load in loads),
        capacity=sum(service.capacity for service in services),
        cpu_usage=round(sum(load.cpu_usage for load in loads), 4),
        memory_bytes=sum(load.memory_bytes for load in loads),
        request_rate=round(sum(load.request_rate for load in loads), 3),
        queue_wait_ms=round(sum(w * r for w, r in waits) / weight, 3) if waits else None,
        failures=sum(load.failures for load in loads),
        backlog=backlog,
    )
