"""Services tell what they are and how busy they are, also while a node blocks everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys, loads, records
from langmesh.registry.loads import Load
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from tests.graphs import gates
from tests.graphs.gates import Gate
from tests.graphs.work import noted
from tests.integration.kit import publish, serving, stock_client

TICK_S = 0.05
GATES = "tests.graphs.gates:gated_loop"

Loads = View[Load]


@pytest.fixture
async def reports(mesh: LocalMesh) -> AsyncIterator[Loads]:
    async with View(mesh.etcd, keys.loads(), lambda _, document: loads.decode(document)) as view:
        await view.wait_ready()
        yield view


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(gates, "gate", made)
    return made


async def answers(client: NatsClient, subject: str, count: int) -> list[dict[str, Any]]:
    """What so many services answer to one question."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, b"", reply=inbox)
    return [json.loads((await subscription.next_msg(timeout=10)).data) for _ in range(count)]


async def test_loads_tell_what_is_in_work_and_what_was(
    mesh: LocalMesh, reports: Loads, gate: Gate
) -> None:
    await publish(mesh, GATES)
    async with (
        mesh.coordinator(load_interval_s=TICK_S) as coordinator,
        mesh.agents(
            "gated_loop", "before", "after", max_in_flight=3, load_interval_s=TICK_S
        ) as agent,
        mesh.client("gated_loop") as client,
    ):
        of_agent = f"default/gated_loop/before/{agent.instance}"
        of_coordinator = f"default/{coordinator.instance}"
        wanted = {of_agent, f"default/gated_loop/after/{agent.instance}", of_coordinator}
        await reports.wait_for(lambda items: items.keys() == wanted, timeout_s=10)
        handle = await client.submit({"n": 1}, thread_id="t")
        await gate.reached("t")
        await reports.wait_for(lambda items: items[of_agent].in_flight == 1, timeout_s=10)
        await reports.wait_for(lambda items: items[of_coordinator].in_flight == 1, timeout_s=10)
        load = reports.items[of_agent]
        assert (load.agent_id, load.capacity, load.interval_s) == (agent.instance, 3, TICK_S)
        assert load.memory_bytes > 0
        assert 0 < load.memory_usage <= 1
        assert 0 <= load.cpu_usage <= 1
        ended: list[Load] = []

        def collect() -> None:
            ended.append(reports.items[of_agent])

        forget = reports.subscribe(collect)
        gate.open("t")
        await handle.result()
        await reports.wait_for(lambda items: items[of_agent].in_flight == 0, timeout_s=10)
        forget()
        assert any(each.execute_ms for each in ended)
        assert sum(each.failures for each in ended) == 0
    # The lease of the registration held them: they are gone with it.
    assert (await mesh.etcd.list(keys.loads())).entries == {}


async def test_a_blocked_agent_reports_and_answers(
    mesh: LocalMesh, reports: Loads, tmp_path: Path
) -> None:
    record = str(tmp_path / "record")
    await publish(mesh, "tests.graphs.work:blocking")
    agent = mesh.spawn("blocker", "tests.integration.quick_agent", "blocking", "blocker")
    async with (
        asyncio.timeout(60),
        mesh.coordinator(),
        mesh.client("blocking") as client,
        stock_client(mesh) as nats,
    ):
        await client.submit({"record": record, "seconds": 600.0})

        def busy() -> set[str]:
            """When agents reported that they have something in work."""
            loads = reports.items.values()
            return {load.timestamp for load in loads if load.capacity == 16 and load.in_flight}

        await reports.wait_for(lambda _: bool(busy()), timeout_s=None)
        while not noted(record, "begin", "blocker"):
            await asyncio.sleep(0.01)
        for _ in range(3):
            seen = busy()
            await reports.wait_for(lambda _, seen=seen: bool(busy() - seen), timeout_s=None)
        [told] = await answers(nats, "$SRV.STATS.langmesh-blocking-blocker", 1)
        assert told["endpoints"][0]["num_requests"] == 1
        assert noted(record, "end", "blocker") == []
    agent.kill()
    await agent.wait()


async def test_every_service_answers_the_micro_protocol(mesh: LocalMesh, gate: Gate) -> None:
    async with serving(mesh, GATES) as client, stock_client(mesh) as nats:
        told = await answers(nats, "$SRV.INFO", 3)
        by_name = {each["name"]: each for each in told}
        assert by_name.keys() == {
            "langmesh-coordinator",
            "langmesh-gated_loop-before",
            "langmesh-gated_loop-after",
        }
        for each in told:
            assert each["type"] == "io.nats.micro.v1.info_response"
            assert all(isinstance(value, str) for value in each["metadata"].values())
        coordinator = by_name["langmesh-coordinator"]["metadata"]
        assert coordinator["instance"].startswith("coordinator-")
        assert (coordinator["release"], coordinator["consumer"]) == ("v1", "coordinator")
        before = by_name["langmesh-gated_loop-before"]
        instance = before["metadata"]["instance"]
        assert before["id"] == instance
        subject, consumer = (
            "mesh.v1.exec.default.gated_loop.before.v1",
            ("default=gated_loop=before=v1"),
        )
        assert before["metadata"] == {
            "instance": instance,
            "tenant": "default",
            "graph": "gated_loop",
            "node": "before",
            "release": "v1",
            "subject": subject,
            "stream": "EXEC",
            "consumer": consumer,
        }
        assert [each["subject"] for each in before["endpoints"]] == [subject]
        for more in ("", ".langmesh-gated_loop-before", f".langmesh-gated_loop-before.{instance}"):
            pings = await answers(nats, f"$SRV.PING{more}", 1 if more else 3)
            assert instance in {ping["id"] for ping in pings}
            assert {ping["type"] for ping in pings} == {"io.nats.micro.v1.ping_response"}

        gate.open("t")
        await (await client.submit({"n": 2}, thread_id="t")).result()
        [stats] = await answers(nats, "$SRV.STATS.langmesh-gated_loop-before", 1)
        [endpoint] = stats["endpoints"]
        assert (endpoint["num_requests"], endpoint["num_errors"]) == (2, 0)
        assert endpoint["processing_time"] >= endpoint["average_processing_time"] > 0
        assert stats["started"].endswith("Z")


async def test_a_registration_tells_what_the_node_can_do(mesh: LocalMesh) -> None:
    await publish(mesh, GATES)
    async with mesh.agents("gated_loop", "before", capabilities=["wait", "be seen"]) as agent:
        entry = await mesh.etcd.get(keys.agent("default", "gated_loop", "before", agent.instance))
        assert entry is not None
        record = records.decode_service(entry.value)
    assert record.capabilities == ["wait", "be seen"]
    assert record.input_schema["properties"]["n"] == {"type": "integer"}
    assert record.output_schema["properties"].keys() == {"n", "trail"}
    assert "required" not in record.output_schema


async def test_a_schema_that_is_too_large_is_left_out(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(records, "SCHEMA_BYTES_MAX", 20)
    caplog.set_level("INFO")
    await publish(mesh, GATES)
    async with mesh.agents("gated_loop", "before") as agent:
        key = keys.agent("default", "gated_loop", "before", agent.instance)
        entry = await mesh.etcd.get(key)
        assert entry is not None
        assert records.decode_service(entry.value).input_schema == {}
    assert "input_schema is left out" in caplog.text


@pytest.mark.parametrize("capabilities", [[""], ["x" * 101], ["x"] * 33, [7]])
async def test_capabilities_that_nobody_can_read_are_refused(
    mesh: LocalMesh, capabilities: list[Any]
) -> None:
    await publish(mesh, GATES)
    with pytest.raises(MeshError, match="capabilities of node 'before'") as caught:
        async with mesh.agents("gated_loop", "before", capabilities=capabilities):
            pass
    assert caught.value.code is ErrorCode.INVALID_FIELD
