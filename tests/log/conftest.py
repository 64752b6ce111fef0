"""A private nats-server for each test, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_streams
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard
from langmesh.wire.streams import LOG


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with Guard() as guard:
        server = EmbeddedNats(tmp_path / "nats", tmp_path / "nats-server.log", guard=guard)
        await server.start()
        yield server


@pytest.fixture
async def bus(server: EmbeddedNats) -> AsyncIterator[Bus]:
    async with connect(server.url, name="test") as bus:
        await ensure_streams(bus, [LOG])
        yield bus
