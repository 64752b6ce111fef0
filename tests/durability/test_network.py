"""A network that loses acknowledgements and cuts frames between the services and the broker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from langmesh.bus import connect
from langmesh.testing import LocalMesh
from tests.durability.history import verify
from tests.durability.proxy import Proxy
from tests.durability.work import assert_as_alone
from tests.integration.kit import publish, results


@contextlib.asynccontextmanager
async def behind_a_proxy(
    mesh: LocalMesh, chance: random.Random
) -> AsyncIterator[tuple[LocalMesh, Proxy]]:
    """The mesh as its services see it through a proxy."""
    async with Proxy(mesh.nats_url, chance).run() as proxy:
        settings = dataclasses.replace(mesh.settings, nats_url=proxy.url)
        yield dataclasses.replace(mesh, nats_url=proxy.url, settings=settings), proxy


@contextlib.asynccontextmanager
async def harming(proxy: Proxy, chance: random.Random) -> AsyncIterator[None]:
    """Harm the connections again and again while the block runs."""

    async def harm() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.4, 1.0))
            if chance.random() < 0.5:
                await proxy.lose_answers(chance.uniform(0.02, 0.3))
            else:
                await proxy.cut()

    task = asyncio.create_task(harm())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("harm", ["lose_answers", "cut"])
async def test_a_harm_that_is_called_off_is_over(
    mesh: LocalMesh, chance: random.Random, harm: str
) -> None:
    """Otherwise the network stays harmed, and a run that cannot end says nothing."""
    async with asyncio.timeout(30), behind_a_proxy(mesh, chance) as (behind, proxy):
        task = asyncio.create_task(proxy.cut() if harm == "cut" else proxy.lose_answers(60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with connect(behind.nats_url, name="test", wait_s=5) as bus:
            assert await bus.api("INFO")


async def test_lost_acknowledgements_and_cut_frames(
    mesh: LocalMesh, chance: random.Random, tmp_path: Path, trial: int
) -> None:
    record = str(tmp_path / "executions")
    await publish(mesh, "tests.graphs.work:pipeline")
    async with asyncio.timeout(150), contextlib.AsyncExitStack() as stack:
        # Both stand before the harm begins, since a start may refuse a broker that is not there.
        behind, proxy = await stack.enter_async_context(behind_a_proxy(mesh, chance))
        await stack.enter_async_context(behind.coordinator())
        await stack.enter_async_context(behind.agents("pipeline"))
        client = await stack.enter_async_context(mesh.client("pipeline"))
        async with harming(proxy, chance):
            handles = []
            for _ in range(60):
                given = {"record": record, "seconds": 0.05}
                handles.append(await client.submit(given, stream_mode=[]))
                await asyncio.sleep(0.1)
        for end in await results(handles, timeout_s=90):
            assert_as_alone(end)
            assert len((await verify(mesh, end, "pipeline")).applied) == 3
        assert proxy.harmed >= 4
