"""The same contract, twice: on nats-server, and on its stand-in under virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_streams
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard
from tests.simulation.broker import Broker
from tests.simulation.connection import Connection
from tests.simulation.loop import Process, VirtualLoop, virtual_time


def pytest_asyncio_loop_factories(config, item):
    return {"nats-server": uvloop.new_event_loop, "simulated": VirtualLoop}


class Server:
    """Either of both, and what can happen to it."""

    def __init__(self, broker: Broker | None, real: EmbeddedNats | None) -> None:
        self._broker, self._real = broker, real

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Bus]:
        if self._real is not None:
            async with connect(self._real.url, name="test") as bus:
                yield bus
            return
        assert self._broker is not None
        async with connection(self._broker, Process()) as bus:
            yield bus

    async def kill(self) -> None:
        """Be killed, and start again."""
        if self._real is not None:
            await self._real.kill()
            await self._real.start()
        else:
            assert self._broker is not None
            self._broker.restart(forget=False)


@contextlib.asynccontextmanager
async def connection(broker: Broker, process: Process) -> AsyncIterator[Bus]:
    """A bus on the simulated server."""
    client = Connection(broker, process)
    bus = Bus(client, "simulated")  # type: ignore[arg-type]
    client.on_reconnect = bus.reconnected
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        with virtual_time(loop, 0):
            yield Server(Broker(random.Random(0)), None)
        return
    async with Guard() as guard:
        real = EmbeddedNats(tmp_path / "nats", tmp_path / "nats-server.log", guard=guard)
        await real.start()
        yield Server(None, real)


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[Bus]:
    async with server.connected() as bus:
        await ensure_streams(bus)
        yield bus
