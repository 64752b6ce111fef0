"""A private mesh for each test, a gate for its nodes, and a client that knows NATS and JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from tests.graphs.gates import Gate
from tests.rpc.kit import Asker, asking


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


@pytest.fixture
async def ask(mesh: LocalMesh) -> AsyncIterator[Asker]:
    async with asking(mesh) as ask:
        yield ask


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    return gate
