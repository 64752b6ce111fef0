"""Kill processes with -9 while runs are in flight, and measure how much later those end."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from langmesh.bench.pause import NODES
from langmesh.bus import connect
from langmesh.bus.streams import ensure_streams
from langmesh.client import Client
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.supervisor import running_stack
from langmesh.wire.messages import AnyEvent, RunEnded, RunStarted, TaskStarted

_READY_S: Final = 60.0
_COORDINATORS: Final = 2
_GRAPH: Final = "pause"


async def recovery_from_kills(settings: Settings, *, runs: int, rounds: int) -> dict[str, Any]:
    """Kill an agent, and in other rounds a coordinator, in the middle of runs.

    The supervisor starts again what died, as an orchestrator does. A run's recovery is by how much
    it took longer than runs in quiet; of a coordinator's death only the runs count that it drove.

    Args:
        settings: Of this process; its home gets a folder ``bench``.
        runs: In flight at each kill.
        rounds: Kills of each kind.

    Raises:
        MeshError: SERVICE_FAILED, or INTERNAL if a run is lost.
    """
    settings = dataclasses.replace(settings, home=str(Path(settings.home) / "bench"))
    coordinator = spec.coordinator(["langmesh.bench.pause:pause"])
    specs = [
        dataclasses.replace(coordinator, replicas=_COORDINATORS),
        spec.ServiceSpec(name="pause-agent", module="langmesh.agent", args=(_GRAPH, *NODES)),
    ]
    async with (
        running_stack(settings, specs, graphs=[_GRAPH]) as stack,
        connect(stack.state.nats_url, name="bench", wait_s=10) as bus,
        Etcd(stack.state.etcd_endpoints) as etcd,
    ):
        await ensure_streams(bus)
        await stack.wait_ready(specs, timeout_s=_READY_S)
        async with (
            Client.open(bus, _GRAPH, tenant=settings.tenant) as client,
            View(etcd, keys.coordinators(), _record) as coordinators,
            View(etcd, keys.agents(settings.tenant, _GRAPH), _record) as agents,
        ):
            mesh = _Mesh(client, coordinators, agents)
            quiet = [took for _ in range(2) for took, _ in await mesh.round(runs)]
            figures = {"agent": [], "coordinator": []}  # type: dict[str, list[float]]
            for _ in range(rounds):
                for what, times in figures.items():
                    times += [took - median(quiet) for took in await mesh.kill(what, runs)]
    return {
        "runs_in_flight": runs,
        "rounds": rounds,
        "quiet_s_p50": round(median(quiet), 3),
        "recovery": {
            what: {
                "runs": len(times),
                "s_p50": round(median(times), 3),
                "s_p99": round(quantiles(times, n=100)[98], 3),
                "s_max": round(max(times), 3),
            }
            for what, times in figures.items()
        },
    }


def _record(_key: str, document: bytes) -> ServiceRecord:
    return decode_service(document)


class _Mesh:
    def __init__(
        self, client: Client, coordinators: View[ServiceRecord], agents: View[ServiceRecord]
    ) -> None:
        self._client = client
        self._coordinators = coordinators
        self._agents = agents

    async def kill(self, what: str, runs: int) -> list[float]:
        """Seconds that the runs took which a kill concerns."""
        await self._coordinators.wait_for(lambda items: len(items) == _COORDINATORS, _READY_S)
        await self._agents.wait_for(lambda items: len(items) == len(NODES), _READY_S)
        all_at_work = asyncio.Barrier(runs + 1)
        rounds = asyncio.create_task(self.round(runs, all_at_work))
        await all_at_work.wait()
        killed = self._pick(
            self._coordinators.items if what == "coordinator" else self._agents.items
        )
        os.kill(killed.pid, signal.SIGKILL)
        ended = await rounds
        return [took for took, by in ended if what == "agent" or by == killed.instance]

    @staticmethod
    def _pick(items: Mapping[str, ServiceRecord]) -> ServiceRecord:
        return min(items.values(), key=lambda record: record.started_at)

    async def round(
        self, runs: int, all_at_work: asyncio.Barrier | None = None
    ) -> list[tuple[float, str]]:
        """Drive runs at once; returns the seconds that each took, and who drove it first."""

        async def one() -> tuple[float, str]:
            handle = await self._client.submit({"n": 0}, stream_mode=[])
            events: list[AnyEvent] = []
            async for event in handle.events():
                events.append(event)
                is_second = isinstance(event, TaskStarted) and event.node == NODES[1]
                if is_second and all_at_work is not None:
                    await all_at_work.wait()
            end = events[-1]
            if not isinstance(end, RunEnded) or end.output != {"n": len(NODES)}:
                raise MeshError(ErrorCode.INTERNAL, f"a run of the benchmark ended as {end}")
            by = next(event.coordinator for event in events if isinstance(event, RunStarted))
            return _seconds(events[0], end), by

        return await asyncio.gather(*(one() for _ in range(runs)))


def _seconds(first: AnyEvent, last: AnyEvent) -> float:
    took = datetime.fromisoformat(last.time) - datetime.fromisoformat(first.time)
    return took.total_seconds()
