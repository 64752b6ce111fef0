"""What a great many threads whose runs are over and pruned cost the broker and a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from langmesh.bench.chain import nodes
from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_streams
from langmesh.checkpoint import NatsSaver
from langmesh.client import Client
from langmesh.clock import monotonic, new_id
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Child
from langmesh.embedded.servers import Servers, embedded_servers
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.etcd import Etcd
from langmesh.registry.view import View
from langmesh.settings import Settings
from langmesh.wire import subjects
from langmesh.wire.log import decode_entry, encode_entry
from langmesh.wire.messages import RunEnded
from langmesh.wire.names import partition
from langmesh.wire.streams import LOG

_STEPS: Final = 10
_ON_THEIR_WAY: Final = 4_000
_WATCHED_S: Final = 10.0
_READY_S: Final = 60.0


async def threads_retained(settings: Settings, *, threads: int) -> dict[str, Any]:
    """Fill LOG with pruned threads, kill the broker, and look at its start and at a coordinator's.

    One thread is made by a real run and pruned; the others are that thread under other names. Their
    events have expired, and no run is under way.

    Args:
        settings: Of this process; its home gets a folder that is deleted at the end.
        threads: How many.

    Raises:
        MeshError: SERVER_START_FAILED and the like.
    """
    home = Path(settings.home) / f"bench-retained-{new_id()[:8]}"
    async with embedded_servers(home, temporary=True) as servers:
        nats = servers.nats
        assert nats is not None
        async with connect(servers.nats_url, name="bench") as bus, _coordinator(servers):
            await ensure_streams(bus)
            body = await _pruned_thread(servers, bus, settings.tenant)
        empty = await _messages_of_coordinator(servers, nats)
        async with connect(servers.nats_url, name="bench") as bus:
            started = monotonic()
            await _fill(bus, settings.tenant, body, threads)
            filled_s = monotonic() - started
        await nats.kill()
        started = monotonic()
        await nats.start()
        ready_s = monotonic() - started
        rss_mb = _rss_kb(nats.pid) / 1024
        full = await _messages_of_coordinator(servers, nats)
        return {
            "threads": threads,
            "entry_bytes": len(body),
            "filled_s": round(filled_s, 1),
            "broker_restart_s": round(ready_s, 2),
            "broker_rss_mb": round(rss_mb),
            "broker_rss_mb_later": round(_rss_kb(nats.pid) / 1024),
            "disk_mb": round(await asyncio.to_thread(_size, home / "nats") / 1e6),
            "messages_of_coordinator": {"empty": empty, "full": full},
        }


@contextlib.asynccontextmanager
async def _coordinator(servers: Servers) -> AsyncIterator[Child]:
    """A coordinator process that has its partitions."""
    child = _spawn(
        servers, "coordinator", "langmesh.coordinator", f"langmesh.bench.chain:chain_{_STEPS}"
    )
    try:
        async with (
            Etcd(servers.etcd_endpoints) as etcd,
            View(etcd, keys.partitions(), lambda _, owner: owner) as partitions,
        ):
            await partitions.wait_for(bool, _READY_S)
        yield child
    finally:
        await child.stop()


def _spawn(servers: Servers, name: str, module: str, *args: str) -> Child:
    env = {
        **os.environ,
        "NATS_URL": servers.nats_url,
        "ETCD_ENDPOINTS": ",".join(servers.etcd_endpoints),
    }
    log = servers.home / "logs" / f"{name}.log"
    return servers.guard.spawn(name, [sys.executable, "-m", module, *args], log=log, env=env)


async def _pruned_thread(servers: Servers, bus: Bus, tenant: str) -> bytes:
    """Run the chain once and prune its thread; returns the entry that is left."""
    agent = _spawn(servers, "agent", "langmesh.agent", "chain", *nodes(_STEPS))
    async with Client.open(bus, "chain", tenant=tenant) as client:
        end = await (await client.submit({"n": 0}, stream_mode=[])).result()
    await agent.stop()
    if not isinstance(end, RunEnded) or end.status != "success":
        raise MeshError(ErrorCode.INTERNAL, f"the run of the benchmark ended as {end}")
    async with NatsSaver.connect(servers.nats_url, tenant=tenant) as saver:
        await saver.aprune([end.thread_id])
    place = partition(tenant, end.thread_id)
    left = await bus.last(LOG.name, subjects.log(place, tenant, end.thread_id))
    assert left is not None
    return left[1]


async def _fill(bus: Bus, tenant: str, body: bytes, threads: int) -> None:
    """Append the entry under other names, as many at once as keep the broker busy."""
    entry, _ = decode_entry(body)
    records = [msgspec.Raw(msgspec.msgpack.encode(record)) for record in entry.records]
    places = asyncio.Semaphore(_ON_THEIR_WAY)
    refused: list[Exception] = []

    def on_answer(answer: int | Exception) -> None:
        places.release()
        if isinstance(answer, Exception):
            refused.append(answer)

    for number in range(threads):
        await places.acquire()
        thread = f"bench-{number}"
        copy = encode_entry(msgspec.structs.replace(entry, thread=thread, records=[]), records)
        subject = subjects.log(partition(tenant, thread), tenant, thread)
        bus.append_nowait(subject, copy, on_answer)
        if refused:
            raise refused[0]
    for _ in range(_ON_THEIR_WAY):
        await places.acquire()
    if refused:
        raise refused[0]


async def _messages_of_coordinator(servers: Servers, nats: EmbeddedNats) -> int:
    """How many messages a coordinator sends to the broker from its start on, for a while."""
    before = await asyncio.to_thread(_messages_in, nats.monitor_url)
    async with _coordinator(servers):
        await asyncio.sleep(_WATCHED_S)
        return await asyncio.to_thread(_messages_in, nats.monitor_url) - before


def _messages_in(monitor_url: str) -> int:
    with urllib.request.urlopen(f"{monitor_url}/varz", timeout=5) as page:  # noqa: S310  our own
        return int(json.load(page)["in_msgs"])


def _rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
