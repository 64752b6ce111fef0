"""Agents run with what is configured, from the next attempt on and without a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from langmesh import MeshGraph, RunFailed
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import configuring, keys, records
from langmesh.registry.configuring import Target
from langmesh.telemetry import attributes as names
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore
from langmesh.testing import LocalMesh, local_mesh
from tests.graphs import tuned
from tests.integration.kit import publish

SOURCE = "tests.graphs.tuned:tuned"
NODE = Target("default", "tuned", "look")
GRAPH = Target("default", "tuned")


async def configure(mesh: LocalMesh, target: Target = NODE, **fields: Any) -> int:
    """Make fields the whole policy; gives its revision."""
    return await configuring.change(mesh.etcd, target, lambda _: json.dumps(fields).encode())


@asynccontextmanager
async def running(mesh: LocalMesh, **options: Any) -> AsyncIterator[MeshGraph]:
    """Run the graph with one agent."""
    await publish(mesh, SOURCE)
    async with (
        asyncio.timeout(60),
        mesh.coordinator(),
        mesh.agents("tuned", "look", **options),
        MeshGraph("tuned", bus=mesh.bus) as graph,
    ):
        yield graph


async def seen(graph: MeshGraph, **wanted: Any) -> dict[str, Any]:
    """What the node sees, once it sees what is wanted."""
    while True:
        found: dict[str, Any] = (await graph.ainvoke({"fail": 0}))["seen"]
        if all(found[name] == value for name, value in wanted.items()):
            return found


async def test_a_node_reads_what_is_set_for_it_and_for_its_graph(mesh: LocalMesh):
    async with running(mesh) as graph:
        assert await seen(graph) == {"revision": 0, "model": "", "settings": {}, "attempt": 1}
        await configure(mesh, GRAPH, model="test:big", settings={"tone": "dry", "words": 9})
        revision = await configure(mesh, settings={"words": 3, "tags": ["a"]})
        found = await seen(graph, revision=revision)
        assert found["model"] == "test:big"
        assert found["settings"] == {"tone": "dry", "words": 3, "tags": ["a"]}
        await configure(mesh)
        assert (await seen(graph, settings={"tone": "dry", "words": 9}))["revision"] < revision


async def test_timeout_and_retry_count_before_the_nodes_own(mesh: LocalMesh):
    async with running(mesh) as graph:
        with pytest.raises(RunFailed, match="attempt 2"):
            await graph.ainvoke({"fail": 2})
        revision = await configure(mesh, retry={"max_attempts": 4})
        await seen(graph, revision=revision)
        assert (await graph.ainvoke({"fail": 3}))["seen"]["attempt"] == 4
        revision = await configure(mesh, timeout_s=0.05)
        await seen(graph, revision=revision)
        with pytest.raises(RunFailed) as failed:
            await graph.ainvoke({"seconds": 30})
        assert failed.value.code is ErrorCode.NODE_TIMED_OUT
        await seen(graph, revision=await configure(mesh, GRAPH, settings={"x": 1}))


async def gather_crowd(
    mesh: LocalMesh, graph: MeshGraph, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """Begin twice as many tasks as may be at work: so many begin, and no more ever are."""
    crowd = tuned.Crowd()
    monkeypatch.setattr(tuned, "crowd", crowd)
    runs = [asyncio.create_task(graph.ainvoke({"fail": 0})) for _ in range(2 * places)]
    await crowd.reached(places)
    jetstream = mesh.bus.client.jetstream()
    while (await jetstream.consumer_info("EXEC", "default=tuned=look=v1")).num_pending < places:
        pass
    crowd.gate.set()
    assert all(found["seen"] for found in await asyncio.gather(*runs))
    monkeypatch.setattr(tuned, "crowd", None)
    assert crowd.most == places


async def test_the_number_of_tasks_at_work_follows(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
):
    async with running(mesh, max_in_flight=6) as graph:
        await gather_crowd(mesh, graph, monkeypatch, 6)
        await seen(graph, revision=await configure(mesh, max_in_flight=2))
        await gather_crowd(mesh, graph, monkeypatch, 2)
        await seen(graph, revision=await configure(mesh, max_in_flight=10))
        await gather_crowd(mesh, graph, monkeypatch, 10)
        await configure(mesh)
        await seen(graph, revision=0)
        await gather_crowd(mesh, graph, monkeypatch, 6)


async def test_it_shrinks_under_load_without_losing_a_task(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
):
    async with running(mesh, max_in_flight=20) as graph:
        runs = [asyncio.create_task(graph.ainvoke({"seconds": 0.05})) for _ in range(60)]
        for size in (1, 15, 2, 20, 3):
            revision = await configure(mesh, max_in_flight=size)
        found = await asyncio.gather(*runs)
        assert all(each["seen"] for each in found)
        await seen(graph, revision=revision)
        await gather_crowd(mesh, graph, monkeypatch, 3)


async def test_what_is_written_past_the_checks_is_rejected_and_the_old_stays(
    mesh: LocalMesh, caplog: pytest.LogCaptureFixture
):
    async with running(mesh) as graph:
        revision = await configure(mesh, settings={"kept": True})
        await seen(graph, revision=revision)
        bad = json.dumps({"max_in_flight": 0, "settings": {"kept": False}}).encode()
        await mesh.etcd.put(NODE.key, bad)
        # Watches keep the order, so what comes after it shows that it was read.
        await seen(graph, revision=await configure(mesh, GRAPH, settings={"after": 1}))
        assert (await seen(graph))["settings"] == {"kept": True, "after": 1}
        (told,) = {r.getMessage() for r in caplog.records if "rejected" in r.getMessage()}
        assert "max_in_flight" in told
        assert "its value from before stays" in told
        await seen(graph, revision=await configure(mesh, settings={"kept": False}))


async def test_the_registration_tells_the_capacity(mesh: LocalMesh):
    async with running(mesh, max_in_flight=6):
        await configure(mesh, max_in_flight=2)
        async with asyncio.timeout(60):
            while True:
                held = await mesh.etcd.list(keys.agents("default", "tuned", "look"))
                (entry,) = held.entries.values()
                if records.decode_service(entry.value).capacity == 2:
                    return


async def test_the_log_level_follows(mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch):
    levels: list[str] = []
    monkeypatch.setattr("langmesh.agent.host.logs.set_level", levels.append)
    async with running(mesh) as graph:
        await seen(graph, revision=await configure(mesh, log_level="DEBUG"))
        await seen(graph, revision=await configure(mesh, settings={"x": 1}))
    assert [level for level, before in zip(levels, ["", *levels], strict=False) if level != before][
        -2:
    ] == ["DEBUG", logging.getLevelName(logging.INFO)]


async def test_a_file_counts_below_the_registry_and_its_changes_apply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "policies.toml"
    file.write_text('[graphs.tuned]\nmodel = "file:a"\n[graphs.tuned.nodes.look.settings]\nn = 1\n')
    async with local_mesh(LANGMESH_CONFIG_FILE=str(file)) as mesh, running(mesh) as graph:
        assert (await seen(graph, model="file:a"))["settings"] == {"n": 1}
        file.write_text('[graphs.tuned.nodes.look.settings]\nn = 2\nm = "new"\n')
        await seen(graph, model="", settings={"n": 2, "m": "new"})
        await seen(graph, revision=await configure(mesh, settings={"n": 3}))
        assert (await seen(graph))["settings"] == {"n": 3, "m": "new"}
        file.write_text("[graphs.tuned.nodes.look]\nmax_in_flight = 0\n")
        while not any("max_in_flight" in record.getMessage() for record in caplog.records):
            await asyncio.sleep(0.05)
        assert (await seen(graph))["settings"] == {"n": 3, "m": "new"}


async def test_a_wrong_file_at_the_start_is_told(tmp_path: Path):
    file = tmp_path / "policies.json"
    file.write_text('{"graphs": {"tuned": {"nodes": {"look": {"max_in_flight": "many"}}}}}')
    async with local_mesh(LANGMESH_CONFIG_FILE=str(file)) as mesh:
        with pytest.raises(MeshError, match=r"graphs\[.*\]\.nodes.*max_in_flight|max_in_flight"):
            async with running(mesh):
                pass


async def test_the_share_of_traced_runs_follows(tmp_path: Path):
    with SpanStore(tmp_path / "spans.db") as store:
        async with (
            OtlpHttpReceiver(store) as receiver,
            local_mesh(
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ) as mesh,
            AsyncExitStack() as stack,
        ):
            await publish(mesh, SOURCE)
            coordinator = await stack.enter_async_context(mesh.coordinator())
            await stack.enter_async_context(mesh.agents("tuned", "look"))
            graph = await stack.enter_async_context(MeshGraph("tuned", bus=mesh.bus))
            traced = await graph.submit({"fail": 0})
            await traced.result()
            await seen(graph, revision=await configure(mesh, GRAPH, sample_ratio=0))
            untraced = await graph.submit({"fail": 0})
            await untraced.result()
            assert await coordinator.telemetry.aclose()
        assert store.trace(traced.trace_id)
        assert store.trace(untraced.trace_id) == []


async def test_fifty_agents_are_changed_as_they_run(tmp_path: Path):
    """No process is replaced, and the next spans carry the revision."""
    instances = 50
    with SpanStore(tmp_path / "spans.db") as store:
        async with (
            asyncio.timeout(120),
            OtlpHttpReceiver(store) as receiver,
            local_mesh(
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ) as mesh,
            AsyncExitStack() as stack,
        ):
            await publish(mesh, SOURCE)
            services = [await stack.enter_async_context(mesh.coordinator())]
            for _ in range(instances):
                agent = mesh.agents("tuned", "look", max_in_flight=1)
                services.append(await stack.enter_async_context(agent))
            graph = await stack.enter_async_context(MeshGraph("tuned", bus=mesh.bus))
            revision = await configure(mesh, max_in_flight=4)
            served: dict[str, int] = {}
            prefix = keys.agents("default", "tuned", "look")
            while len(served) < instances or set(served.values()) != {4}:
                held = (await mesh.etcd.list(prefix)).entries.values()
                found = [records.decode_service(entry.value) for entry in held]
                served = {record.instance: record.capacity for record in found}
            assert served.keys() == {service.instance for service in services[1:]}
            run = await graph.submit({"fail": 0})
            await run.result()
            for service in services:
                assert await service.telemetry.aclose()
        spans = {span.name: span for span in store.trace(run.trace_id)}
        for name in ("invoke_agent look", "process mesh.v1.exec.tuned.look"):
            assert spans[name].attributes[names.CONFIG_REVISION] == revision
