"""One run is one trace, through processes that share nothing but the broker."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from langmesh.embedded.process import Child
from langmesh.telemetry import attributes as names
from langmesh.telemetry import otlp, receiver_grpc, receiver_http
from langmesh.telemetry.receiver_grpc import OtlpGrpcReceiver
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore, StoredSpan
from langmesh.telemetry.tree import check
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import subjects
from langmesh.wire.messages import RunEnded
from tests import registered

SOURCE = "tests.tracing.graph_under_trace:graph"
GRAPH = "graph_under_trace"
NODES = ("plan", "look", "weigh", "close")
TASKS = {"plan": 1, "look": 3, "weigh": 2, "close": 1}
"""Attempts per node."""
SPANS = 1 + 3 * sum(TASKS.values())
TRACE = "0af7651916cd43dd8448eb211c80319c"
RELEASE = "v7"
PARENT = "b7ad6b7169203331"
RECEIVERS = {"grpc": OtlpGrpcReceiver, "http/protobuf": OtlpHttpReceiver}


@dataclass(slots=True)
class Traced:
    """A mesh of one process per service that sends its spans to a store of ours."""

    mesh: LocalMesh
    store: SpanStore
    processes: dict[str, Child]

    async def run(self, traceparent: str = "") -> RunEnded:
        """Publish a submission, with a trace context in its header if one is given."""
        async with self.mesh.client(GRAPH) as client:
            if not traceparent:
                ended = await (await client.submit({"question": "why"})).result()
                assert isinstance(ended, RunEnded)
                return ended
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def on_event(message) -> None:
            if b"run.ended.v1" in message.data and not done.done():
                done.set_result(message.data)

        bus = self.mesh.bus
        followed = await bus.subscribe(subjects.events_of_graph("default", GRAPH), on_event)
        await bus.client.publish(
            subjects.submit("default", GRAPH),
            b'{"input":{"question":"why"}}',
            headers={"traceparent": traceparent},
        )
        async with asyncio.timeout(30):
            ended = json.loads(await done)
        await followed.unsubscribe()
        ended.pop("type")
        return RunEnded(**ended)

    async def stop(self) -> None:
        """Stop the services, which then send their last spans."""
        await asyncio.gather(*(child.stop(15) for child in self.processes.values()))
        for name, child in self.processes.items():
            assert child.returncode == 0, (name, child.output())

    def lines(self) -> list[dict]:
        """What all services have logged."""
        return [
            json.loads(line)
            for child in self.processes.values()
            for line in child.output().splitlines()
        ]


@asynccontextmanager
async def traced(path: Path, protocol: str, **env: str) -> AsyncIterator[Traced]:
    with SpanStore(path / "spans.db") as store:
        async with RECEIVERS[protocol](store) as receiver, local_mesh() as mesh:
            env |= {
                "LANGMESH_RELEASE": RELEASE,
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            }
            processes = {
                "coordinator": mesh.spawn("coordinator", "langmesh.coordinator", SOURCE, env=env)
            }
            for node in NODES:
                processes[node] = mesh.spawn(node, "langmesh.agent", SOURCE, node, env=env)
            running = Traced(mesh, store, processes)
            async with asyncio.timeout(60):
                while len(await registered.services(mesh.etcd)) < len(processes):
                    for child in processes.values():
                        assert child.returncode is None, child.output()
                    await asyncio.sleep(0.1)
            yield running


def by(spans: list[StoredSpan], keep: Callable[[StoredSpan], bool]) -> list[StoredSpan]:
    return [span for span in spans if keep(span)]


def verify(spans: list[StoredSpan], ended: RunEnded, root_parent: str = "") -> None:
    """The whole shape of the run's one trace."""
    known = {span.span_id: span for span in spans}
    assert {span.trace_id for span in spans} == {ended.trace_id}
    assert len(spans) == len(known) == SPANS

    (root,) = by(spans, lambda s: s.name == f"invoke_workflow {GRAPH}")
    assert (root.kind, root.parent_id, root.service) == ("internal", root_parent, "coordinator")

    sends = by(spans, lambda s: s.kind == "producer")
    processed = by(spans, lambda s: s.kind == "consumer")
    invoked = by(spans, lambda s: s.name.startswith("invoke_agent "))
    assert Counter(span.attributes[names.NODE] for span in sends) == TASKS
    for send in sends:
        node = send.attributes[names.NODE]
        assert send.name == f"send mesh.v1.exec.{GRAPH}.{node}"
        assert send.parent_id == root.span_id
        (process,) = by(processed, lambda s, send=send: s.parent_id == send.span_id)
        assert process.name == f"process mesh.v1.exec.{GRAPH}.{node}"
        (invoke,) = by(invoked, lambda s, process=process: s.parent_id == process.span_id)
        assert (invoke.name, invoke.kind) == (f"invoke_agent {node}", "internal")
        assert process.service == invoke.service == node
        assert process.instance.startswith(node)
        assert send.start_ns <= process.start_ns <= invoke.start_ns
        assert invoke.end_ns <= process.end_ns
        for span in (send, process, invoke):
            for key in (names.TASK, names.SUPERSTEP, names.ATTEMPT, names.RELEASE, names.TENANT):
                assert key in span.attributes, (span.name, key)
    for span in spans:
        assert span.attributes[names.RUN] == ended.run_id
        assert span.attributes[names.THREAD] == ended.thread_id

    # The join waits for all that was fanned out; the second attempt follows from the first.
    first, second = sorted(
        by(sends, lambda s: s.attributes[names.NODE] == "weigh"),
        key=lambda s: s.attributes[names.ATTEMPT],
    )
    looked = by(processed, lambda s: s.attributes[names.NODE] == "look")
    assert {link.span_id for link in first.links} == {span.span_id for span in looked}
    (failed,) = by(processed, lambda s: s.parent_id == first.span_id)
    assert [link.span_id for link in second.links] == [failed.span_id]
    assert failed.status == "error"
    assert "not yet" in failed.status_message


@pytest.fixture
def resources(monkeypatch) -> dict[str, dict[str, Any]]:
    """What each process said of itself, by service; the store keeps only part of it."""
    found: dict[str, dict[str, Any]] = {}

    def decode(body: bytes, *, as_json: bool = False) -> list[StoredSpan]:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {
                pair.key: pair.value.string_value or pair.value.int_value
                for pair in group.resource.attributes
            }
            found[resource[names.SERVICE_NAME]] = resource
        return otlp.decode(body, as_json=as_json)

    for receiver in (receiver_grpc, receiver_http):
        monkeypatch.setattr(receiver, "decode", decode)
    return found


@pytest.mark.parametrize("protocol", RECEIVERS)
async def test_a_run_is_one_connected_trace_through_every_process(
    tmp_path: Path, protocol: str, resources: dict[str, dict[str, Any]]
):
    async with traced(tmp_path, protocol) as running:
        one, other = await running.run(), await running.run()
        joined = await running.run(f"00-{TRACE}-{PARENT}-01")
        unsampled = await running.run(f"00-{'1' * 32}-{PARENT}-00")
        await running.stop()
        assert one.output["answer"] == "one three two"
        assert one.trace_id != other.trace_id
        for ended in (one, other):
            spans = running.store.trace_of_run(ended.run_id)
            verify(spans, ended)
            assert check(spans) == []
        assert joined.trace_id == TRACE
        spans = running.store.trace(TRACE)
        verify(spans, joined, root_parent=PARENT)
        assert check(spans) == [f"{TRACE}: 0 roots []", *missing(spans)]
        assert unsampled.trace_id == "1" * 32
        assert running.store.trace(unsampled.trace_id) == [], "the publisher's decision counts"
        assert {span.service for span in spans} == {"coordinator", *NODES}
        assert set(resources) == {"coordinator", *NODES}
        for service, child in running.processes.items():
            assert resources[service][names.SERVICE_INSTANCE].startswith(service)
            assert resources[service][names.SERVICE_VERSION] == RELEASE
            assert resources[service][names.PROCESS_PID] == child.pid
        verify_logs(running.lines(), {e.trace_id for e in (one, other, joined, unsampled)})


def missing(spans: list[StoredSpan]) -> list[str]:
    """The one parent that lies with the publisher."""
    (root,) = by(spans, lambda s: s.parent_id == PARENT)
    return [f"{root.name} ({root.span_id}): its parent {PARENT} is missing"]


def verify_logs(lines: list[dict], traces: set[str]) -> None:
    for line in lines:
        assert {"timestamp", "level", "service", "instance", "message"} <= line.keys(), line
    planning = [line for line in lines if line["message"] == "planning why"]
    # A trace that is not recorded has no current span that a log line could name.
    assert len(planning) == 4
    named = [line for line in planning if "trace_id" in line]
    assert {line["trace_id"] for line in named} <= traces
    assert len(named) >= 3
    assert all(len(line["span_id"]) == 16 for line in named)
    assert {line["service"] for line in planning} == {"plan"}


async def test_a_sample_ratio_of_zero_records_nothing(tmp_path: Path):
    async with traced(tmp_path, "http/protobuf", LANGMESH_SAMPLE_RATIO="0") as running:
        ended = await running.run()
        await running.stop()
        assert len(ended.trace_id) == 32
        assert running.store.trace(ended.trace_id) == []
        assert running.store.trace_of_run(ended.run_id) == []
