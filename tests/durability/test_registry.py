"""etcd is away for longer than every lease: runs begin, go on and end all the same."""

from __future__ import annotations

import asyncio
import os

from langmesh.registry.lease import TTL_S
from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunInterrupted
from tests.durability.test_broker import NODES, SOURCE, TRAIL
from tests.integration.kit import publish

AWAY_S = int(os.environ.get("AWAY_S", str(TTL_S + 2)))
"""How long etcd is away; the figures in docs/reliability.md are of 60."""


async def test_runs_go_on_while_the_registry_is_away(mesh: LocalMesh) -> None:
    await publish(mesh, SOURCE)
    etcd = mesh.servers.etcd
    assert etcd is not None
    async with (
        asyncio.timeout(AWAY_S + 110),
        mesh.coordinator() as coordinator,
        mesh.agents("gated", *NODES),
        mesh.client("gated") as client,
    ):

        async def one(thread: str) -> None:
            first = await (await client.submit({"trail": []}, thread_id=thread)).result()
            assert isinstance(first, RunInterrupted)
            command = {"resume": True}
            last = await (await client.submit(None, thread_id=thread, command=command)).result()
            assert isinstance(last, RunEnded)
            assert last.output["trail"] == TRAIL

        await one("before")
        await etcd.kill()
        # Outlasting the leases is what is tested; nothing announces their end.
        for second in range(AWAY_S):
            await one(f"at {second}")
            await asyncio.sleep(1)
        await etcd.start()
        await one("after")
        assert not coordinator.stop.is_set()
