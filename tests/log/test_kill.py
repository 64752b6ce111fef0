"""nats-server is killed with SIGKILL, before and while entries are on their way."""

from __future__ import annotations

import asyncio

import pytest

from langmesh.bus import Bus
from langmesh.embedded.nats import EmbeddedNats
from tests.log.kit import chain_of, checkpoint, entries, logs_on, state_of, writes

CHAIN = chain_of("t")


@pytest.mark.parametrize("owner", [True, False])
async def test_a_server_that_is_killed_between_appends(server: EmbeddedNats, bus: Bus, owner: bool):
    log = logs_on(bus).own("t") if owner else logs_on(bus).shared("t")
    for n in range(4):
        await log.append([checkpoint(f"c{n}")])
        await server.kill()
        await server.start()
    await log.append([checkpoint("c4")])
    assert list((await state_of(bus, CHAIN)).checkpoints) == [f"c{n}" for n in range(5)]
    assert len(await entries(bus, CHAIN)) == 5


@pytest.mark.parametrize("owner", [True, False])
async def test_a_server_that_is_killed_under_load(server: EmbeddedNats, bus: Bus, owner: bool):
    """Each append is there once when its call returns, and in the order of the calls."""
    logs = logs_on(bus)
    log = logs.own("t") if owner else logs.shared("t")
    await log.load()
    stored, stop = 0, asyncio.Event()

    async def write() -> None:
        nonlocal stored
        while not stop.is_set():
            await log.append([writes(f"{stored}", b"1")])
            stored += 1

    async def until(count: int) -> None:
        while stored < count:
            await asyncio.sleep(0.002)

    writer = asyncio.create_task(write())
    for round_ in range(1, 4):
        await until(stored + 50 * round_)
        await server.kill()
        await server.start()
    await until(stored + 20)
    stop.set()
    await writer
    state = await state_of(bus, CHAIN)
    assert list(state.writes["c"]) == [(f"{n}", 0) for n in range(stored)]
    assert len(await entries(bus, CHAIN)) == stored


async def test_what_is_appended_while_the_server_is_away_is_stored_when_it_is_back(
    server: EmbeddedNats, bus: Bus
):
    log = logs_on(bus).own("t")
    await log.append([checkpoint("c0")])
    await server.kill()
    futures = [log.append_nowait([checkpoint(f"c{n}")]) for n in range(1, 30)]
    reading = asyncio.create_task(logs_on(bus).shared("t").load())
    await server.start()
    await asyncio.gather(*futures)
    assert "c0" in (await reading).checkpoints
    assert list((await state_of(bus, CHAIN)).checkpoints) == [f"c{n}" for n in range(30)]
    assert len(await entries(bus, CHAIN)) == 3


async def test_large_values_survive_a_kill(server: EmbeddedNats, bus: Bus):
    log = logs_on(bus).own("t")
    await log.load()
    future = log.append_nowait([writes("x", bytes(2_000_000))])
    await server.kill()
    await server.start()
    await future
    assert len((await state_of(bus, CHAIN)).writes["c"]["x", 0].value.data) == 2_000_000
