"""A private nats-server for each test, and a saver on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    async with Guard() as guard:
        server = EmbeddedNats(tmp_path / "nats", tmp_path / "nats-server.log", guard=guard)
        await server.start()
        yield server


@pytest.fixture
async def saver(server: EmbeddedNats) -> AsyncIterator[NatsSaver]:
    async with NatsSaver.connect(server.url) as saver:
        yield saver
