"""``langmesh config`` by the command line, against an etcd with two published graphs."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from langmesh.testing import LocalMesh, local_mesh
from tests.cli.conftest import Shell
from tests.integration.kit import publish


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        await publish(mesh, "tests.graphs.tuned:tuned")
        await publish(mesh, "tests.graphs.gates:gated_loop")
        yield mesh


@pytest.fixture
def called(mesh: LocalMesh, shell: Shell) -> Any:
    """Runs the command in a thread; the mesh's own loop goes on."""
    shell.env = mesh.environ

    async def call(*args: str, code: int = 0) -> Any:
        return await asyncio.to_thread(shell.json, "config", *args, code=code)

    return call


async def test_set_get_history_and_rollback(called: Any):
    first = await called("set", "look.max_in_flight=4", "look.settings.tone=dry")
    assert (first["graph"], first["node"]) == ("tuned", "look")
    found = await called("get", "tuned/look")
    assert found == {**first, "policy": {"max_in_flight": 4, "settings": {"tone": "dry"}}}

    second = await called("set", "look.retry.max_attempts=3", "look.max_in_flight=")
    policy = {"retry": {"max_attempts": 3}, "settings": {"tone": "dry"}}
    assert (await called("get", "look"))["policy"] == policy
    await called("set", "tuned.sample_ratio=0.5", 'tuned.settings.words={"most": 9}')
    everything = await called("get")
    assert [(each["graph"], each["node"]) for each in everything] == [
        ("tuned", ""),
        ("tuned", "look"),
    ]
    assert everything[0]["policy"]["settings"] == {"words": {"most": 9}}

    history = await called("history", "look")
    assert [each["revision"] for each in history] == [second["revision"], first["revision"]]
    assert "@" in history[0]["changed_by"]
    back = await called("rollback", "look", str(first["revision"]))
    assert back["revision"] > second["revision"]
    assert (await called("get", "look"))["policy"]["max_in_flight"] == 4
    refused = (await called("rollback", "look", "1", code=1))["error"]
    assert str(first["revision"]) in refused["message"]


@pytest.mark.parametrize(
    ("assignment", "code", "says"),
    [
        ("look.max_in_flight=0", "invalid_field", "max_in_flight"),
        ("look.retry.attempts=3", "invalid_field", "attempts"),
        ("look.max_in_flight.x=3", "invalid_field", "max_in_flight"),
        ("look.max_in_flight", "invalid_field", "TARGET.FIELD=VALUE"),
        ("look=4", "invalid_field", "TARGET.FIELD=VALUE"),
        ("nobody.max_in_flight=4", "unknown_node", "tuned/look"),
        ("gated_loop.max_in_flight=4", "invalid_field", "max_in_flight"),
    ],
)
async def test_what_cannot_be_set_changes_nothing(
    called: Any, assignment: str, code: str, says: str
):
    await called("set", "look.timeout_s=9")
    refused = (await called("set", "look.settings.a=1", assignment, code=1))["error"]
    assert refused["code"] == code
    assert says in refused["message"]
    assert (await called("get", "look"))["policy"] == {"timeout_s": 9}


async def test_edit_in_an_editor(called: Any, shell: Shell, tmp_path: Path):
    await called("set", "look.timeout_s=9")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/9.0/12.5/ $1\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    shell.env["EDITOR"] = str(editor)
    assert (await called("edit", "look"))["revision"]
    assert (await called("get", "look"))["policy"] == {"timeout_s": 12.5}
    editor.write_text("#!/bin/sh\necho '{\"timeout_s\": -1}' > $1\n")
    refused = (await called("edit", "look", code=1))["error"]
    assert "timeout_s" in refused["message"]
    kept = Path(refused["remedy"].removeprefix("Your text is kept in ").rstrip("."))
    assert json.loads(kept.read_text()) == {"timeout_s": -1}
    kept.unlink()
    editor.write_text("#!/bin/sh\nexit 3\n")
    assert "EDITOR" in (await called("edit", "look", code=1))["error"]["message"]
    editor.write_text("#!/bin/sh\n")
    await called("edit", "look")
    assert (await called("get", "look"))["policy"] == {"timeout_s": 12.5}


async def test_what_somebody_wrote_past_the_checks_is_told(called: Any, mesh: LocalMesh):
    await mesh.etcd.put("/langmesh/v1/config/default/agents/tuned/look", b"no json")
    refused = (await called("set", "look.timeout_s=9", code=1))["error"]
    assert "config edit tuned/look" in refused["remedy"]


async def test_people_see_policies_and_tables(shell: Shell, mesh: LocalMesh):
    shell.env = mesh.environ

    async def told(*args: str) -> str:
        return await asyncio.to_thread(shell.call, "config", *args)

    assert "nothing is configured" in await told("get")
    assert "tuned/look has a new policy" in await told("set", "look.timeout_s=9")
    assert '"timeout_s": 9' in await told("get")
    assert "timeout_s" in await told("history", "look")
