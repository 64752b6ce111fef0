"""Clients that know NATS, JSON and docs/protocol.md, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import nats
import pytest

from langmesh.testing import LocalMesh
from tests.integration.kit import publish, stock_client, tapping

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("corpus_in_environ")
async def test_the_documented_program_gets_its_answer(mesh: LocalMesh, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(# submit\.py\n.*?)```", page, re.DOTALL)
    assert found is not None
    program = tmp_path / "submit.py"
    program.write_text(found[1], encoding="utf-8")
    async with tapping(mesh, "mesh.v1.submit.>") as tap:
        # -I: the program cannot import this project, only what is installed.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(program)),
            env={"NATS_URL": mesh.nats_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await tap.wait_for(lambda _: True, timeout_s=20)
    nodes = ("planner", "researcher", "writer", "reviewer")
    async with mesh.coordinator("research.graph:graph"), mesh.agents("research", *nodes):
        async with asyncio.timeout(30):
            output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    events = [json.loads(line) for line in output.splitlines()]
    assert events[0]["type"] == "run.accepted.v1"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {event["run_id"] for event in events} == {events[0]["run_id"]}
    ended = events[-1]
    assert (ended["type"], ended["status"]) == ("run.ended.v1", "success")
    assert "NATS" in ended["output"]["answer"]
    assert {e["node"] for e in events if e["type"] == "task.ended.v1"} == set(nodes)


async def test_a_thread_goes_on_where_its_last_run_ended(mesh: LocalMesh) -> None:
    topology = await publish(mesh, "tests.graphs.shapes:loop")
    async with (
        mesh.coordinator(),
        mesh.agents("loop", *topology.nodes),
        stock_client(mesh) as client,
    ):
        js = client.jetstream()
        events = await js.subscribe(
            "mesh.v1.event.default.loop.talk.*", stream="EVENT", ordered_consumer=True
        )

        async def ended(body: dict[str, Any]) -> dict[str, Any]:
            await js.publish("mesh.v1.submit.default.loop", json.dumps(body).encode())
            while True:
                event = json.loads((await events.next_msg(timeout=10)).data)
                if event["type"] == "run.ended.v1":
                    return dict(event)

        first = await ended({"thread_id": "talk", "input": {"n": 2, "trail": ["one"]}})
        assert first["output"] == {"trail": ["one", "count", "count"], "n": 4}
        second = await ended({"thread_id": "talk", "input": {"trail": ["two"]}})
        assert second["output"] == {"trail": [*first["output"]["trail"], "two", "count"], "n": 5}
        assert second["run_id"] != first["run_id"]


REFUSED = {
    "no JSON": (b'{"input": ', "malformed_body"),
    "no text": (b"\xff\xfe{}", "malformed_body"),
    "a list": (b"[]", "invalid_field"),
    "an unknown field": (b'{"inputs": {}}', "invalid_field"),
    "no input": (b'{"input": {"m": 1}}', "invalid_input"),
    "a wrong type": (b'{"input": {"n": "one"}}', "invalid_input"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_run_is_refused_by_its_sequence(
    mesh: LocalMesh, body: bytes, code: str
) -> None:
    topology = await publish(mesh, "tests.graphs.shapes:loop")
    async with (
        mesh.coordinator(),
        mesh.agents("loop", *topology.nodes),
        stock_client(mesh) as client,
    ):
        js = client.jetstream()
        answers = await js.subscribe(
            "mesh.v1.reject.default.loop", stream="EVENT", ordered_consumer=True
        )
        ack = await js.publish("mesh.v1.submit.default.loop", body)
        refusal = json.loads((await answers.next_msg(timeout=10)).data)
        assert refusal["type"] == "run.rejected.v1"
        assert (refusal["submit_seq"], refusal["code"]) == (ack.seq, code)
        assert refusal["message"]
        assert refusal["remedy"]
        # The refusal is final, and the coordinator goes on.
        assert (await mesh.run("loop", {"n": 4})).output["n"] == 5
        with pytest.raises(nats.errors.TimeoutError):
            await answers.next_msg(timeout=0.1)
