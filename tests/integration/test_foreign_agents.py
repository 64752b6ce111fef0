"""Programs that know NATS, JSON and docs/protocol.md serve nodes, in any language."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from langmesh.bus.streams import ensure_consumer
from langmesh.graphs import directory
from langmesh.registry import keys
from langmesh.registry.records import Binding, decode_service
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from langmesh.wire import subjects
from langmesh.wire.messages import RunEnded, RunInterrupted, TaskEnded, TaskWaiting
from langmesh.wire.streams import EXEC, exec_consumer
from tests.integration.kit import events_of, publish, stock_client

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
RESEARCH = ("planner", "researcher", "writer")


def program(language: str, name: str, folder: Path) -> Path:
    """One of the page's programs as a file."""
    pattern = rf"```{language}\n((?:#|//) {re.escape(name)}\n.*?)```"
    found = re.search(pattern, PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    path = folder / name
    path.write_text(found[1], encoding="utf-8")
    return path


async def bind_plain(mesh: LocalMesh, graph: str, node: str) -> str:
    """Bind a node to agents that speak JSON; return their subject."""
    subject = subjects.execution("default", graph, node, "plain")
    binding = Binding(subject=subject, release="plain", encoding="json")
    await directory.rebind(mesh.etcd, tenant="default", graph=graph, node=node, binding=binding)
    await ensure_consumer(mesh.bus, exec_consumer(subject))
    return subject


@pytest.mark.usefixtures("corpus_in_environ")
@pytest.mark.parametrize(
    ("language", "name", "command"),
    [
        ("python", "reviewer.py", [sys.executable, "-I"]),
        pytest.param(
            *("javascript", "reviewer.mjs", ["node"]),
            marks=pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is absent"),
        ),
    ],
)
async def test_a_documented_program_serves_a_node_of_the_demo_graph(
    mesh: LocalMesh, tmp_path: Path, language: str, name: str, command: list[str]
) -> None:
    path, log = program(language, name, tmp_path), tmp_path / "agent.log"
    async with (
        mesh.coordinator("research.graph:graph"),
        mesh.agents("research", *RESEARCH),
        mesh.client("research") as c,
    ):
        await bind_plain(mesh, "research", "reviewer")
        mesh.servers.guard.spawn(name, [*command, str(path)], log=log, env=mesh.environ)
        served = keys.agents("default", "research", "reviewer")
        async with View(mesh.etcd, served, lambda _, doc: decode_service(doc)) as agents:
            await agents.wait_for(lambda items: len(items) == 1, timeout_s=30)
            [(instance, record)] = agents.items.items()
        assert (record.instance, record.release, record.ttl_s) == (instance, "plain", 15)
        for question in ("Why NATS?", "What is a queue group? ü€😀"):
            handle = await c.submit({"question": question})
            events = await events_of(handle)
            ended = events[-1]
            assert isinstance(ended, RunEnded)
            assert ended.status == "success", (ended.error, log.read_text())
            assert [each.node for each in events if isinstance(each, TaskWaiting)] == []
            by_whom = [each for each in events if isinstance(each, TaskEnded)][-1]
            assert by_whom.node == "reviewer"
            tongue = {"python": "Python", "javascript": "JavaScript"}[language]
            assert ended.output["answer"].endswith(f"Reviewed in {tongue}.")


@pytest.mark.usefixtures("corpus_in_environ")
async def test_the_least_program_serves_a_node_of_the_demo_graph(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    path, log = program("python", "least.py", tmp_path), tmp_path / "agent.log"
    async with (
        mesh.coordinator("research.graph:graph"),
        mesh.agents("research", *RESEARCH),
        mesh.client("research") as c,
    ):
        await bind_plain(mesh, "research", "reviewer")
        command = [sys.executable, "-I", str(path)]
        mesh.servers.guard.spawn("least", command, log=log, env=mesh.environ)
        for question in ("Why NATS?", "What is a queue group?"):
            ended = (await events_of(await c.submit({"question": question})))[-1]
            assert isinstance(ended, RunEnded)
            assert ended.status == "success", (ended.error, log.read_text())
            assert ended.output["answer"].endswith("Reviewed in Python.")


async def answer_once(mesh: LocalMesh, subject: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Pull one task, write an outcome of the given payload, and return the task."""
    async with stock_client(mesh) as nats:
        js = nats.jetstream()
        pull = await js.pull_subscribe_bind(subjects.exec_consumer(subject), EXEC.name)
        [delivery] = await pull.fetch(1, timeout=20)
        task: dict[str, Any] = json.loads(delivery.data)
        asked = task["payload"]
        outcome = {
            "header": task["header"] | {"type": "task.outcome.v1", "sender": "by hand"},
            "payload": {"task_id": asked["task_id"], "attempt": asked["attempt"], **payload},
            "context": task["context"],
        }
        await js.publish(asked["slot"], json.dumps(outcome).encode())
        await delivery.ack()
        return task


FAULT = {"code": "node_raised", "type": "TypeError", "message": "no such thing", "node": "step_1"}


@pytest.mark.parametrize("kind", ["error", "retry"])
async def test_a_failure_elsewhere_is_the_runs_failure(mesh: LocalMesh, kind: str) -> None:
    await publish(mesh, "tests.graphs.gates:gated_loop")
    subject = await bind_plain(mesh, "gated_loop", "before")
    async with mesh.coordinator(), mesh.client("gated_loop") as client:
        handle = await client.submit({"n": 1})
        await answer_once(mesh, subject, {"kind": kind, "fault": FAULT})
        ended = await handle.result()
    assert isinstance(ended, RunEnded)
    assert ended.status == "error"
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("TypeError", "no such thing")


async def test_an_outcome_that_cannot_be_read_fails_the_run_by_field(
    mesh: LocalMesh,
) -> None:
    await publish(mesh, "tests.graphs.gates:gated_loop")
    subject = await bind_plain(mesh, "gated_loop", "before")
    async with mesh.coordinator(), mesh.client("gated_loop") as client:
        handle = await client.submit({"n": 1})
        await answer_once(mesh, subject, {"kind": "ok", "update": [1]})
        ended = await handle.result()
    assert isinstance(ended, RunEnded)
    assert ended.status == "error"
    assert ended.error is not None
    assert ended.error.code == "invalid_field"
    assert "payload.update" in ended.error.message


async def test_a_program_elsewhere_can_ask_a_human_and_gets_the_answer(mesh: LocalMesh) -> None:
    await publish(mesh, "tests.graphs.gates:gated_loop")
    subject = await bind_plain(mesh, "gated_loop", "before")
    async with mesh.coordinator(), mesh.client("gated_loop") as client:
        handle = await client.submit({"n": 1}, thread_id="t")
        first = await answer_once(mesh, subject, {"kind": "interrupt", "question": "Go on?"})
        asked = await handle.result()
        assert isinstance(asked, RunInterrupted)
        assert [each["value"] for each in asked.interrupts] == ["Go on?"]
        again = await client.submit(command={"resume": {"yes": True}}, thread_id="t")
        second = await answer_once(mesh, subject, {"kind": "interrupt", "question": "Sure?"})
        asked = await again.result()
        assert isinstance(asked, RunInterrupted)
        assert [each["value"] for each in asked.interrupts] == ["Sure?"]
        last = await client.submit(command={"resume": "sure"}, thread_id="t")
        third = await answer_once(mesh, subject, {"kind": "error", "fault": FAULT})
        await last.result()
    assert "resume" not in first["payload"]
    assert second["payload"]["resume"] == [{"yes": True}]
    assert third["payload"]["resume"] == [{"yes": True}, "sure"]
    assert second["payload"]["idempotency_key"] == first["payload"]["idempotency_key"]
