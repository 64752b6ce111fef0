"""A private mesh for each test, on real servers and under uvloop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder for the researcher to read, and no model to ask."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "nats.md").write_text(
        "# NATS\n\nNATS is a messaging system: one small binary that carries messages between"
        " services. It is used because it is simple, and because its streams keep what they take.\n"
    )
    monkeypatch.delenv("LANGMESH_MODEL", raising=False)
    return folder


@pytest.fixture
def corpus_in_environ(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for agents in this process."""
    monkeypatch.setenv("LANGMESH_CORPUS", str(corpus))
