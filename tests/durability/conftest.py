"""A private mesh for each test, on real servers and under uvloop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from tests.graphs.gates import Gate


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr("tests.graphs.gates.gate", gate)
    return gate
