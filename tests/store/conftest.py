"""A private mesh for each test, with a store on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import uvloop

from langmesh.store import NatsStore
from langmesh.testing import LocalMesh, local_mesh


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


@pytest.fixture
async def store(mesh: LocalMesh) -> AsyncIterator[NatsStore]:
    async with NatsStore.connect(mesh.nats_url) as store:
        yield store
