"""Measure the chain on a mesh of real processes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from langmesh.bench.baseline import langgraph_steps_per_s, raw_hop_ms
from langmesh.bench.chain import nodes
from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_streams
from langmesh.client import Client
from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.supervisor import Stack, running_stack
from langmesh.wire.messages import RunEnded, RunStarted, TaskEnded
from langmesh.wire.streams import STREAMS

_SAMPLE_RATIO = "0.01"
_BASELINE_S = 3.0
_HOPS = 300
_SINGLE_RUNS = 20
_ROUNDS = 5
_READY_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def chain_on_mesh(
    settings: Settings, *, steps: int, concurrency: int, runs: int | None, agents: int | None = None
) -> dict[str, Any]:
    """Run the benchmark and return its figures.

    The stock LangGraph loop is measured before and after the mesh, in this process, while the mesh
    is idle.

    Args:
        settings: Of this process; its home gets a folder ``bench``.
        steps: Nodes in the chain.
        concurrency: Runs at once.
        runs: Runs in all; 20 per unit of concurrency by default, at least 100.
        agents: Processes that host all nodes; by default one for every two cores.

    Raises:
        MeshError: SERVICE_FAILED, or INTERNAL if a run fails.
    """
    settings = dataclasses.replace(settings, home=str(Path(settings.home) / "bench"))
    async with running_chain(settings, steps=steps, agents=agents) as running:
        return await _measure(running, steps, concurrency, runs or max(100, concurrency * 20))


@dataclass(frozen=True, slots=True)
class Running:
    """A mesh that serves a chain."""

    stack: Stack
    bus: Bus
    client: Client
    agent_pids: list[int]


@contextlib.asynccontextmanager
async def running_chain(
    settings: Settings, *, steps: int, agents: int | None, coordinators: int = 1
) -> AsyncIterator[Running]:
    """Run a mesh of processes that serves a chain of so many nodes.

    Raises:
        MeshError: SERVICE_FAILED and the like.
    """
    source = f"langmesh.bench.chain:chain_{steps}"
    specs = [
        dataclasses.replace(spec.coordinator([source]), replicas=coordinators),
        spec.ServiceSpec(
            name="chain-agent",
            module="langmesh.agent",
            args=("chain", *nodes(steps)),
            replicas=agents or max(1, (os.cpu_count() or 2) // 2),
            env={"LANGMESH_MAX_IN_FLIGHT": "64"},
        ),
    ]
    # Head sampling as in production; the cost of tracing is another question than that of the mesh.
    environ = {"LANGMESH_SAMPLE_RATIO": _SAMPLE_RATIO, **os.environ}
    async with (
        running_stack(settings, specs, graphs=["chain"], environ=environ) as stack,
        connect(stack.state.nats_url, name="bench", wait_s=10) as bus,
    ):
        await ensure_streams(bus)
        await stack.wait_ready(specs, timeout_s=_READY_S)
        agent_pids = [item.pid for item in stack.ready.services if item.name == "chain-agent"]
        async with Client.open(bus, "chain", tenant=settings.tenant) as client:
            yield Running(stack, bus, client, agent_pids)


async def _measure(running: Running, steps: int, concurrency: int, runs: int) -> dict[str, Any]:
    stack, bus, client = running.stack, running.bus, running.client
    await drive_runs(client, steps, concurrency=min(concurrency, 8), runs=min(runs, 16))
    hops: list[float] = []
    single: list[float] = []
    for _ in range(_ROUNDS):
        # In turns, so that a change of the machine's pace meets both.
        hops.append(await raw_hop_ms(stack.state.nats_url, hops=_HOPS))
        single += (await drive_runs(client, steps, concurrency=1, runs=_SINGLE_RUNS))[1]
    hop_ms = median(hops)
    before = await langgraph_steps_per_s(steps, concurrency=concurrency, seconds=_BASELINE_S)
    stored, cpu = await _stored(bus), _cpu_s(stack)
    seconds, times = await drive_runs(client, steps, concurrency=concurrency, runs=runs)
    used, stored = _used(cpu, _cpu_s(stack)), await _stored(bus) - stored
    after = await langgraph_steps_per_s(steps, concurrency=concurrency, seconds=_BASELINE_S)
    total = runs * steps
    oracle = (before + after) / 2
    return {
        "graph": "chain",
        "steps": steps,
        "concurrency": concurrency,
        "runs": runs,
        "steps_per_s": round(total / seconds, 1),
        "step_ms_p50": round(median(times), 3),
        "step_ms_p99": round(quantiles(times, n=100)[98], 3),
        "agent_pids": running.agent_pids,
        "storage": "file",
        "durability_profile": stack.state.profile,
        "sample_ratio": float(stack.env["LANGMESH_SAMPLE_RATIO"]),
        "messages_per_step": round(stored / total, 2),
        "langgraph": {"steps_per_s": round(oracle, 1)},
        "ratio_to_langgraph": round(total / seconds / oracle, 3),
        "single": {
            "step_ms_p50": round(median(single), 3),
            "raw_hop_ms_p50": round(hop_ms, 3),
            "ratio_to_raw_hop": round(median(single) / hop_ms, 2),
        },
        "cpu_us_per_step": {name: round(seconds * 1e6 / total) for name, seconds in used.items()},
    }


async def drive_runs(
    client: Client, steps: int, *, concurrency: int, runs: int, durability: str = "exit"
) -> tuple[float, list[float]]:
    """Drive runs; returns the seconds for all and each step's milliseconds."""
    gate = asyncio.Semaphore(concurrency)
    times: list[float] = []

    async def one() -> None:
        async with gate:
            handle = await client.submit(
                {"n": 0},
                stream_mode=[],
                durability=durability,
                config={"recursion_limit": steps + 5},
            )
            last: datetime | None = None
            async for event in handle.events():
                if isinstance(event, RunStarted):
                    last = datetime.fromisoformat(event.time)
                elif isinstance(event, TaskEnded) and last is not None:
                    now = datetime.fromisoformat(event.time)
                    times.append((now - last).total_seconds() * 1000)
                    last = now
                elif isinstance(event, RunEnded) and event.output != {"n": steps}:
                    raise MeshError(ErrorCode.INTERNAL, f"a run of the benchmark ended as {event}")

    started = monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(runs):
            group.create_task(one())
    return monotonic() - started, times


async def _stored(bus: Bus) -> int:
    """Messages that the broker has stored so far in the streams of the protocol."""
    infos = await asyncio.gather(*(bus.api(f"STREAM.INFO.{item.name}") for item in STREAMS))
    return sum(info["state"]["last_seq"] for info in infos)


def _cpu_s(stack: Stack) -> dict[str, float]:
    """CPU seconds of every process of the stack; empty where the system does not tell."""
    pids = {child.name: child.pid for child in stack.guard.children} | {"client": os.getpid()}
    found = {}
    for name, pid in pids.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[name] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


def _used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after if name in before}
