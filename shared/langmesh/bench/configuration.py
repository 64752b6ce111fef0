"""Measure how long a change of configuration takes to count in many agent processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from langmesh.bus import connect
from langmesh.bus.streams import ensure_streams
from langmesh.clock import monotonic
from langmesh.registry import configuring, keys
from langmesh.registry.configuring import Target
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.supervisor import running_stack

_GRAPH = "chain"
_NODE = "n1"
_PER_INSTANCE_S = 8.0
"""What the start of a process may take when all start at once on few cores."""
_IN_FORCE_S = 30.0


async def configuration_in_force(
    settings: Settings, *, instances: int, rounds: int
) -> dict[str, Any]:
    """Change ``max_in_flight`` again and again, and time each agent.

    A change counts for an agent when its registration tells the new capacity, which it writes after
    it has applied the change; so the figures include the way back through etcd.

    Args:
        settings: Of this process; its home gets a folder ``bench``.
        instances: Agent processes.
        rounds: Changes.

    Raises:
        MeshError: SERVICE_FAILED, TIMED_OUT.
    """
    settings = dataclasses.replace(settings, home=str(Path(settings.home) / "bench"))
    specs = [
        spec.coordinator(["langmesh.bench.chain:chain_1"]),
        spec.ServiceSpec(
            name=_NODE, module="langmesh.agent", args=(_GRAPH, _NODE), replicas=instances
        ),
    ]
    async with running_stack(settings, specs, graphs=[_GRAPH]) as stack:
        async with connect(stack.state.nats_url, name="bench", wait_s=10) as bus:
            await ensure_streams(bus)
        await stack.wait_ready(specs, timeout_s=60 + instances * _PER_INSTANCE_S)
        pids = {item.pid for item in stack.ready.services}
        async with Etcd(stack.state.etcd_endpoints) as etcd:
            raw = [await _raw_watch_s(etcd, settings.tenant) for _ in range(rounds)]
            times = await _changes(etcd, settings.tenant, instances, rounds)
        same = pids == {item.pid for item in stack.ready.services}
    ms = [seconds * 1000 for seconds in times]
    return {
        "instances": instances,
        "rounds": rounds,
        "in_force_ms_p50": round(median(ms), 1),
        "in_force_ms_p99": round(quantiles(ms, n=100)[98], 1),
        "in_force_ms_max": round(max(ms), 1),
        "raw_watch_ms_p50": round(median(raw) * 1000, 1),
        "ratio_to_raw_watch": round(median(times) / median(raw), 1),
        "same_processes": same,
    }


async def _changes(etcd: Etcd, tenant: str, instances: int, rounds: int) -> list[float]:
    """Seconds from each change to each agent's registration with it."""
    seen: dict[str, float] = {}
    wanted = 0

    def decode(_key: str, document: bytes) -> ServiceRecord:
        record = decode_service(document)
        if record.capacity == wanted:
            seen.setdefault(record.instance, monotonic())
        return record

    def policy(_document: bytes) -> bytes:
        return msgspec.json.encode({"max_in_flight": wanted})

    times: list[float] = []
    async with View(etcd, keys.agents(tenant, _GRAPH, _NODE), decode) as view:
        await view.wait_for(lambda items: len(items) == instances, _IN_FORCE_S)
        for number in range(rounds):
            wanted = 20 + number
            seen.clear()
            started = monotonic()
            await configuring.change(etcd, Target(tenant, _GRAPH, _NODE), policy)
            await view.wait_for(lambda _: len(seen) == instances, _IN_FORCE_S)
            times += [at - started for at in seen.values()]
    return times


async def _raw_watch_s(etcd: Etcd, tenant: str) -> float:
    """Seconds until a watcher is told of one write."""
    key = keys.flag(tenant, "bench")
    async with View(etcd, keys.flags(tenant), lambda _, document: document) as view:
        await view.wait_ready()
        value = str(monotonic()).encode()
        started = monotonic()
        await etcd.put(key, value)
        await view.wait_for(lambda items: value in items.values(), _IN_FORCE_S)
        took = monotonic() - started
    await etcd.delete(key)
    return took
