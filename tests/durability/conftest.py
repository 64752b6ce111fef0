"""A private mesh for each test, on real servers and under uvloop."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from tests.graphs.gates import Gate

TRIALS = int(os.environ.get("TRIALS", "1"))
"""How often each crash point is tried; the figures in docs/reliability.md are of 20."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trial" in metafunc.fixturenames:
        metafunc.parametrize("trial", range(TRIALS))


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


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance that is printed with a failure, so that it can be had again by ``SEED=…``."""
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"SEED={seed}")
    return random.Random(seed)
