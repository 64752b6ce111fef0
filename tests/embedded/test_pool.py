from __future__ import annotations

import asyncio
import time
from pathlib import Path

import nats
import uvloop

from langmesh.embedded.pool import lease_servers
from tests.embedded.conftest import alive


async def test_leases_are_private_and_empty():
    began = time.perf_counter()
    async with lease_servers() as first:
        taken = time.perf_counter()
        async with lease_servers() as second:
            print(
                f"leases after {1e3 * (taken - began):.0f} and "
                f"{1e3 * (time.perf_counter() - taken):.0f} ms"
            )
            for servers in (first, second):
                client = await nats.connect(servers.nats_url, allow_reconnect=False)
                info = await client.jetstream().add_stream(name="S", subjects=["s"])
                assert info.state.messages == 0
                await client.jetstream().publish("s", b"mine")
                await client.close()
            assert {first.nats.port, first.etcd.port}.isdisjoint(
                {second.nats.port, second.etcd.port}
            )
            assert first.nats.data_dir != second.nats.data_dir


def test_every_event_loop_can_lease_and_nothing_is_left():
    async def lease():
        async with lease_servers() as servers:
            return Path(servers.nats.data_dir).parent, [servers.nats.pid, servers.etcd.pid]

    for run in (asyncio.run, uvloop.run, asyncio.run):
        home, pids = run(lease())
        assert not home.exists()
        assert not any(map(alive, pids))
