"""Threads deleted and pruned by the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from tests.cli.conftest import Shell
from tests.integration.kit import publish


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh(shell: Shell) -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        shell.env = mesh.environ
        yield mesh


async def test_threads_are_pruned_and_deleted(mesh: LocalMesh, shell: Shell) -> None:
    async def called(*args: str, code: int = 0) -> Any:
        return await asyncio.to_thread(shell.json, "prune", *args, code=code)

    for name in ("loop", "chain"):
        await publish(mesh, f"tests.graphs.shapes:{name}")
    async with (
        asyncio.timeout(60),
        mesh.coordinator(),
        mesh.agents("loop"),
        mesh.agents("chain"),
    ):
        for thread in ("one", "two"):
            await mesh.run("loop", {"n": 0}, thread_id=thread)
        await mesh.run("chain", {"trail": []}, thread_id="other")
        await asyncio.sleep(1.1)
        would = await called("--older-than", "1s", "--dry-run")
        assert would["dry_run"]
        threads = sorted(each["thread_id"] for each in would["pruned"])
        assert threads == ["one", "other", "two"]
        assert (await called("--older-than", "1h"))["pruned"] == []

        kept = await called("--thread", "one", "--thread", "two", "--keep-latest")
        assert [each["kept"] for each in kept["pruned"]] == [1, 1]
        assert all(each["dropped"] > 1 for each in kept["pruned"])
        text = await asyncio.to_thread(shell.call, "prune", "--thread", "one")
        assert "deleted: 1" in text
        await asyncio.sleep(1.1)
        gone = await called("--older-than", "1s", "--graph", "loop")
        assert [each["thread_id"] for each in gone["pruned"]] == ["two"]
        assert [each["thread_id"] for each in gone["refused"]] == ["other"]
        refused = await called("--thread", "one", code=1)
        assert refused["error"]["code"] == "unknown_thread"
        refused = await called("--older-than", "7", code=1)
        assert "duration" in refused["error"]["message"]
