"""Services need what they use themselves, and each does its own work in its own process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from langmesh.testing import LocalMesh
from langmesh.wire.messages import RunEnded, RunStarted, TaskEnded
from tests.integration.kit import assert_contiguous, events_of

BLOCKER = '''
import sys


class Blocker:
    """Refuses what a service must not need."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"bm25s", "numpy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Blocker())
'''
NODES = ("planner", "researcher", "writer", "reviewer")


@pytest.fixture
def blocked(mesh: LocalMesh, tmp_path: Path) -> dict[str, str]:
    """An environment in which bm25s and numpy cannot be imported."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER)
    path = os.pathsep.join([str(folder), mesh.environ["PYTHONPATH"]])
    environ = {**mesh.environ, "PYTHONPATH": path}
    for module in ("bm25s", "numpy"):
        attempt = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            env=environ,
            capture_output=True,
            check=False,
        )
        assert attempt.returncode == 1
        assert f"No module named '{module}'".encode() in attempt.stderr
    return {"PYTHONPATH": path}


async def test_only_the_researcher_needs_its_index(
    mesh: LocalMesh, blocked: dict[str, str], corpus: Path
) -> None:
    own = {"researcher": {"LANGMESH_CORPUS": str(corpus)}}
    coordinator = mesh.spawn(
        "coordinator", "langmesh.coordinator", "research.graph:graph", env=blocked
    )
    agents = {
        node: mesh.spawn(node, f"services.{node}", env=own.get(node, blocked)) for node in NODES
    }
    async with mesh.client("research") as client, asyncio.timeout(60):
        events = await events_of(await client.submit({"question": "Why NATS?"}))
    assert_contiguous(events)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "success"
    assert "NATS" in ended.output["answer"]
    done = [event for event in events if isinstance(event, TaskEnded)]
    assert {event.node for event in done} == set(NODES)
    assert all(event.pid == agents[event.node].pid for event in done)
    [started] = [event for event in events if isinstance(event, RunStarted)]
    assert started.coordinator.startswith("coordinator-")
    assert len({coordinator.pid, os.getpid(), *(event.pid for event in done)}) == len(NODES) + 2
