"""Dead letters by the command line: a task that killed its agents, listed, shown and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import codec, subjects
from langmesh.wire.messages import DeadLetter
from tests.cli.conftest import Shell
from tests.graphs.work import noted
from tests.integration.kit import publish


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def mesh(shell: Shell) -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        shell.env = mesh.environ
        yield mesh


@asynccontextmanager
async def dying_agents(mesh: LocalMesh) -> AsyncIterator[None]:
    """One agent after the other, as a supervisor has it."""

    async def keep_alive() -> None:
        while True:
            env = {"LANGMESH_DELIVERIES_MAX": "1"}
            await mesh.spawn("killer", "langmesh.agent", "poison", "killer", env=env).wait()

    supervisor = asyncio.create_task(keep_alive())
    try:
        yield
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)


async def test_a_task_that_killed_its_agents_is_replayed_once_it_is_mended(
    mesh: LocalMesh, shell: Shell, tmp_path: Path
) -> None:
    async def called(*args: str, code: int = 0) -> dict:
        return await asyncio.to_thread(shell.json, "dead", *args, code=code)

    record = str(tmp_path / "executions")
    await publish(mesh, "tests.graphs.work:poison")
    async with asyncio.timeout(120), mesh.coordinator(), dying_agents(mesh):
        assert await called("ls") == {"letters": []}
        ended = await mesh.run("poison", {"record": record, "seconds": 0}, timeout_s=60)
        assert ended.error is not None
        assert ended.error.code == "node_poisoned"
        (kept,) = (await called("ls", "--graph", "poison", "--node", "killer"))["letters"]
        assert (kept["graph"], kept["node"]) == ("poison", "killer")
        assert kept["letter"]["reason"] == "node_poisoned"
        assert kept["letter"]["run_id"] == ended.run_id
        assert await called("ls", "--graph", "other") == {"letters": []}
        seq = str(kept["seq"])
        shown = await called("show", seq)
        assert shown["content"]["context"]["run"] == ended.run_id
        assert shown["content"]["attempt"] == 1
        text = await asyncio.to_thread(shell.call, "dead", "show", seq)
        assert "node_poisoned" in text
        assert f"langmesh dead replay {seq}" in text

        Path(f"{record}.mended").touch()
        run = await called("replay", seq)
        assert run["thread_id"] == ended.thread_id
        view = await asyncio.to_thread(shell.json, "runs", "show", run["run_id"])
        while view["status"] not in ("success", "error"):
            view = await asyncio.to_thread(shell.json, "runs", "show", run["run_id"])
        assert view["status"] == "success"
        assert view["output"]["done"] == ["killer"]
        assert await called("ls") == {"letters": []}
    assert [of for _, of in noted(record, "begin", "killer")] == [ended.run_id, run["run_id"]]


async def test_letters_are_dropped_and_what_cannot_be_replayed_stays(
    mesh: LocalMesh, shell: Shell
) -> None:
    async def called(*args: str, code: int = 0) -> dict:
        return await asyncio.to_thread(shell.json, "dead", *args, code=code)

    for number in range(3):
        letter = DeadLetter(
            reason="malformed_body",
            message=f"not a message {number}",
            subject="mesh.v1.exec.default.g.n.v1",
            stream_seq=number,
            time="2026-01-31T12:00:00Z",
            body=b"\xc1",
        )
        await mesh.bus.append(subjects.dead("default", "g", "n"), codec.encode_json(letter))
    found = (await called("ls", "--limit", "2"))["letters"]
    assert [each["letter"]["message"] for each in found] == ["not a message 2", "not a message 1"]
    shown = await called("show", "1")
    assert (shown["content"], shown["letter"]["body"]) == (None, "wQ==")
    assert "not a message 0" in await asyncio.to_thread(shell.call, "dead", "show", "1")
    refused = await called("replay", "1", code=1)
    assert refused["error"]["code"] == "invalid_field"
    assert "dead drop" in refused["error"]["remedy"]
    dropped = await called("drop", "1", "3")
    assert [each["seq"] for each in dropped["dropped"]] == [1, 3]
    assert [each["seq"] for each in (await called("ls"))["letters"]] == [2]
    for action in ("show", "replay", "drop"):
        missing = await called(action, "1", code=1)
        assert missing["error"]["message"] == "SEQ: there is no dead letter 1"
    text = await asyncio.to_thread(shell.call, "dead", "ls")
    assert "not a message 1" in text
