"""Spans from the tracer to the store, over real OTLP."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time

import pytest
from opentelemetry import trace as api

from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.telemetry import tree
from langmesh.telemetry.attributes import (
    SpanStart,
    invoke_agent,
    invoke_workflow,
    process,
    send,
)
from langmesh.telemetry.store import StoredLink
from langmesh.telemetry.tracecontext import parse
from langmesh.telemetry.tracing import setup
from langmesh.wire.messages import TaskContext

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
CONTEXT = TaskContext(
    tenant="acme",
    graph="research",
    revision="rev",
    thread="t1",
    run="r1",
    node="planner",
    release="v7",
    superstep=2,
    checkpoint_id="c",
    checkpoint_ns="",
    invocation="i",
)


def start(telemetry, spec: SpanStart, **more):
    return telemetry.tracer.start(spec.name, kind=spec.kind, attributes=spec.attributes, **more)


def one_run(coordinator, agent) -> str:
    """A run of one task, as the coordinator and an agent trace it; returns the trace id."""
    subject = "mesh.v1.exec.acme.research.planner.v7"
    ids = {"task_id": "k1", "attempt": 1}
    run = start(
        coordinator,
        invoke_workflow(tenant="acme", graph="research", revision="rev", thread="t1", run="r1"),
    )
    sent = start(
        coordinator,
        send(CONTEXT, subject=subject, message_id="m1", **ids),
        parent=run.traceparent,
        links=[run.traceparent, "nonsense"],
    )
    processed = start(
        agent, process(CONTEXT, subject=subject, message_id="m1", **ids), parent=sent.traceparent
    )
    sent.end()
    invoked = start(agent, invoke_agent(CONTEXT, **ids), parent=processed.traceparent)
    invoked.event("chunk", {"n": 1})
    invoked.set("answer", 42)
    invoked.set("share", 0.5)
    invoked.set("fresh", True)
    invoked.end(ValueError("no such city"))
    processed.end("the node failed")
    run.end()
    return run.trace_id


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_run_arrives_as_one_whole_trace(
    protocol, store, grpc_receiver, http_receiver, service
):
    endpoint = (grpc_receiver if protocol == "grpc" else http_receiver).endpoint
    coordinator = service(endpoint, protocol=protocol, name="coordinator")
    agent = service(endpoint, protocol=protocol, name="planner")
    trace_id = one_run(coordinator, agent)
    assert await coordinator.aclose()
    assert await agent.aclose()

    spans = store.trace_of_run("r1")
    assert spans == store.trace(trace_id)
    assert tree.check(spans) == []
    by_name = {span.name: span for span in spans}
    run = by_name["invoke_workflow research"]
    sent = by_name["send mesh.v1.exec.research.planner"]
    processed = by_name["process mesh.v1.exec.research.planner"]
    invoked = by_name["invoke_agent planner"]
    assert len(spans) == 4
    assert [s.kind for s in (run, sent, processed, invoked)] == [
        "internal",
        "producer",
        "consumer",
        "internal",
    ]
    assert [s.service for s in (run, sent, processed, invoked)] == [
        "coordinator",
        "coordinator",
        "planner",
        "planner",
    ]
    assert run.parent_id == ""
    assert [s.parent_id for s in (sent, processed, invoked)] == [
        s.span_id for s in (run, sent, processed)
    ]
    assert sent.links == [StoredLink(trace_id, run.span_id)]
    assert sent.attributes["messaging.system"] == "nats"
    assert sent.attributes["messaging.operation.type"] == "send"
    assert processed.instance == "planner-1"
    assert (processed.status, processed.status_message) == ("error", "the node failed")
    assert run.status == "unset"
    assert invoked.attributes["gen_ai.agent.name"] == "planner"
    assert invoked.attributes["gen_ai.conversation.id"] == "t1"
    assert {k: invoked.attributes[k] for k in ("answer", "share", "fresh")} == {
        "answer": 42,
        "share": 0.5,
        "fresh": True,
    }
    assert (invoked.status, invoked.status_message) == ("error", "ValueError: no such city")
    assert invoked.attributes["error.type"] == "ValueError"
    chunk, exception = invoked.events
    assert (chunk.name, chunk.attributes) == ("chunk", {"n": 1})
    assert exception.attributes["exception.type"] == "ValueError"
    assert "no such city" in exception.attributes["exception.stacktrace"]
    assert run.start_ns <= sent.start_ns <= invoked.start_ns <= invoked.end_ns <= run.end_ns


async def test_a_catalogue_error_is_typed_by_its_code(store, http_receiver, service):
    telemetry = service(http_receiver.endpoint)
    span = telemetry.tracer.start("x")
    span.end(MeshError(ErrorCode.NODE_TIMED_OUT, "too slow"))
    await telemetry.aclose()
    assert store.trace(span.trace_id)[0].attributes["error.type"] == "node_timed_out"


async def test_no_odd_value_costs_the_batch(store, http_receiver, service):
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    telemetry = service(http_receiver.endpoint)
    span = telemetry.tracer.start("lone \ud800 surrogate", parent=SAMPLED)
    span.set("surrogate", "\ud800")
    span.set("hostile", Hostile())
    span.set("none", None)
    span.set("huge", 1 << 70)
    span.set("long", "x" * 100_000)
    span.set("list", ["a", 1, Hostile()])
    span.event("\udfff", {"k": "\udfff"})
    span.end(HostileError())
    fine = telemetry.tracer.start("fine", parent=SAMPLED)
    fine.end()
    assert await telemetry.aclose()
    odd = next(s for s in store.trace(span.trace_id) if s.span_id == span.span_id)
    assert len(store.trace(span.trace_id)) == 2
    assert odd.attributes["surrogate"] == "\\ud800"
    assert odd.attributes["huge"] == str(1 << 70)
    assert len(odd.attributes["long"]) == 16_384
    assert "unprintable" in odd.attributes["hostile"]
    assert odd.status == "error"


async def test_only_the_first_end_counts(store, http_receiver, service):
    telemetry = service(http_receiver.endpoint)
    span = telemetry.tracer.start("x")
    span.end()
    span.end("late")
    span.set("late", 1)
    span.event("late")
    await telemetry.aclose()
    (stored,) = store.trace(span.trace_id)
    assert (stored.status, stored.attributes, stored.events) == ("unset", {}, [])


async def test_a_wide_join_keeps_every_link(store, http_receiver, service):
    telemetry = service(http_receiver.endpoint)
    tasks = [telemetry.tracer.start("task", parent=SAMPLED) for _ in range(1_000)]
    join = telemetry.tracer.start("join", parent=SAMPLED, links=[t.traceparent for t in tasks])
    join.end()
    await telemetry.aclose()
    (stored,) = store.trace(join.trace_id)
    assert [link.span_id for link in stored.links] == [task.span_id for task in tasks]


@pytest.mark.parametrize(
    ("ratio", "parent", "recorded"),
    [
        (1.0, "", True),
        (0.0, "", False),
        (0.0, SAMPLED, True),
        (1.0, UNSAMPLED, False),
        (1.0, "garbage", True),
        (0.0, "garbage", False),
    ],
)
async def test_children_follow_their_parent_and_roots_the_ratio(
    ratio, parent, recorded, store, http_receiver, service
):
    telemetry = service(http_receiver.endpoint, ratio=ratio)
    span = telemetry.tracer.start("x", parent=parent)
    assert span.recording is recorded
    context = parse(span.traceparent)
    assert context is not None
    assert context.sampled is recorded
    if (known := parse(parent)) is not None:
        assert span.trace_id == known.trace_id
    span.end()
    await telemetry.aclose()
    assert [s.name for s in store.trace(span.trace_id)] == (["x"] if recorded else [])


def test_a_ratio_samples_about_that_share(service):
    tracer = service(ratio=0.25).tracer
    sampled = sum(tracer.start("x").traceparent.endswith("-01") for _ in range(4_000))
    assert 800 < sampled < 1_200


def test_without_an_endpoint_ids_are_made_and_handed_on(service):
    tracer = service().tracer
    root = tracer.start("root")
    assert not root.recording
    assert parse(root.traceparent) is not None
    assert tracer.start("other").trace_id != root.trace_id
    child = tracer.start("child", parent=root.traceparent)
    assert child.traceparent == root.traceparent
    child.set("k", 1)
    child.event("e")
    child.end(ValueError())
    with child.activate():
        assert f"{api.get_current_span().get_span_context().trace_id:032x}" == root.trace_id
    assert not api.get_current_span().get_span_context().is_valid


def test_without_an_endpoint_no_sdk_and_no_grpc_is_imported():
    code = (
        "import sys; from langmesh.settings import Settings;"
        "from langmesh.telemetry import logs, tracing;"
        "t = tracing.setup(Settings(), service='s', instance='i', version='v');"
        "s = t.tracer.start('x')\n"
        "with s.activate(): s.end()\n"
        "assert t.shutdown(1)\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'grpc' or 'opentelemetry.sdk' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_user_code_sees_the_current_span_and_its_own_spans_hang_below_it(
    store, http_receiver
):
    # A process of its own, because the global provider can be set only once.
    code = f"""
from opentelemetry import trace
from langmesh.settings import Settings
from langmesh.telemetry import tracing
settings = Settings(otlp_endpoint={http_receiver.endpoint!r}, otlp_protocol="http/protobuf")
t = tracing.setup(settings, service="planner", instance="planner-1", version="v1")
span = t.tracer.start("invoke_agent planner")
with span.activate():
    current = trace.get_current_span()
    current.set_attribute("user.key", "user value")
    current.add_event("user event", {{"n": 1}})
    try:
        with trace.get_tracer("user").start_as_current_span("user work") as own:
            own.set_attribute("k", "v")
            raise ValueError("handled by the user")
    except ValueError as exc:
        current.record_exception(exc)
    current.set_status(trace.StatusCode.ERROR, "user says so")
    current.update_name("ignored")
    current.end()
    assert current.is_recording()
assert not trace.get_current_span().is_recording()
span.end()
assert not current.is_recording()
assert t.shutdown(5)
print(span.trace_id)
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await child.communicate()
    assert (child.returncode, err.decode()) == (0, "")
    own, work = sorted(store.trace(out.decode().strip()), key=lambda s: s.name)
    assert own.name == "invoke_agent planner"
    assert work.parent_id == own.span_id
    assert (work.service, work.status) == ("planner", "error")
    assert own.attributes == {"user.key": "user value"}
    assert [e.name for e in own.events] == ["user event", "exception"]
    assert (own.status, own.status_message) == ("error", "user says so")


def test_spans_of_concurrent_tasks_do_not_mix(service):
    tracer = service().tracer

    async def task(name: str) -> bool:
        span = tracer.start(name)
        with span.activate():
            await asyncio.sleep(0)
            seen = api.get_current_span().get_span_context().trace_id
            return f"{seen:032x}" == span.trace_id

    async def main() -> list[bool]:
        return await asyncio.gather(*(task(str(i)) for i in range(20)))

    assert all(asyncio.run(main()))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("kind", ["dead", "black hole"])
def test_a_collector_that_does_not_answer_blocks_nothing(
    protocol, kind, closed_port, black_hole, service, caplog
):
    port = closed_port if kind == "dead" else black_hole
    telemetry = service(f"http://127.0.0.1:{port}", protocol=protocol)
    began = time.monotonic()
    for _ in range(20_000):  # more than the queue holds
        telemetry.tracer.start("x", parent=SAMPLED).end()
    assert time.monotonic() - began < 10
    began = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert not telemetry.shutdown(1.0)
    assert time.monotonic() - began < 4
    assert telemetry.shutdown(1.0)
    telemetry.tracer.start("after", parent=SAMPLED).end()
    assert not [r for r in caplog.records if r.name.startswith("opentelemetry")]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tracing_does_nothing_in_a_forked_child(protocol, closed_port):
    """A program that an event loop starts is such a child until its exec."""
    code = f"""
import os, threading
from langmesh.settings import Settings
from langmesh.telemetry import tracing
settings = Settings(otlp_endpoint="http://127.0.0.1:{closed_port}", otlp_protocol={protocol!r})
t = tracing.setup(settings, service="s", instance="i", version="v")
child = os.fork()
if not child:
    os._exit(threading.active_count())
print(threading.active_count() > 1, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
t.shutdown(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True 1\n"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_collector_is_one_line_on_stderr_and_the_process_ends(protocol, closed_port):
    code = f"""
from langmesh.settings import Settings
from langmesh.telemetry import logs, tracing
logs.configure("s", "i", "INFO")
settings = Settings(otlp_endpoint="http://127.0.0.1:{closed_port}", otlp_protocol={protocol!r})
t = tracing.setup(settings, service="s", instance="i", version="v")
for _ in range(10_000):
    t.tracer.start("x").end()
t.shutdown(1)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 30
    (line,) = done.stderr.splitlines()
    assert '"level": "WARNING"' in line


async def test_a_collector_that_comes_back_gets_the_next_spans(store, closed_port, service, caplog):
    from langmesh.telemetry.receiver_http import OtlpHttpReceiver

    telemetry = service(f"http://127.0.0.1:{closed_port}")
    telemetry.tracer.start("lost", parent=SAMPLED).end()
    with caplog.at_level(logging.INFO, logger="langmesh"):
        assert not await asyncio.to_thread(telemetry.flush, 20)
        async with OtlpHttpReceiver(store, port=closed_port):
            telemetry.tracer.start("kept", parent=SAMPLED).end()
            assert await asyncio.to_thread(telemetry.flush, 20)
            await telemetry.aclose()
    assert [s.name for s in store.trace(parse(SAMPLED).trace_id)] == ["kept"]
    assert [r.levelname for r in caplog.records if r.name.startswith("langmesh")] == [
        "WARNING",
        "INFO",
    ]


@pytest.mark.parametrize("endpoint", ["ftp://host:1", "http://"])
def test_an_endpoint_that_is_none_is_a_setting_error(endpoint):
    with pytest.raises(MeshError) as caught:
        setup(Settings(otlp_endpoint=endpoint), service="s", instance="i", version="v")
    assert caught.value.code is ErrorCode.INVALID_SETTING


def test_starting_a_span_is_cheap(service, closed_port):
    """Generous bounds, an order of magnitude above what was measured: they catch a wrong path."""

    def cost_us(telemetry, parent: str) -> float:
        best = float("inf")
        for _ in range(5):
            began = time.thread_time()
            for _ in range(1_000):
                telemetry.tracer.start("x", parent=parent).end()
            best = min(best, (time.thread_time() - began) * 1e3)
        return best

    assert cost_us(service(), SAMPLED) < 20
    assert cost_us(service(), "") < 30
    assert cost_us(service(f"http://127.0.0.1:{closed_port}"), UNSAMPLED) < 20
