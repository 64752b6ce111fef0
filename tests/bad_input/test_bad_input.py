"""Whatever anyone sends, writes or raises: one clear answer, and the mesh goes on.

Each case names what is done, the code of the answer, and what its words must hold: the field or
thing, and the way out. After each, a good run succeeds in the same processes.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from langmesh.bus.pull import Delivery, PullConsumer
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys
from langmesh.registry.records import decode_bindings, encode
from langmesh.wire import codec, subjects
from langmesh.wire.messages import ExecuteTask, TaskStarted
from langmesh.wire.streams import EXEC
from tests.bad_input.harness import Answer, Do, Probe, probing
from tests.bad_input.probe import LARGE

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEEP = 150
EXEC_DO = subjects.execution("default", "probe", "do", "v1")
EXEC_ABSENT = subjects.execution("default", "probe", "absent", "v1")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    do: Do
    code: str
    says: tuple[str, ...]


def body(content: bytes) -> Do:
    """Submit bytes as they are."""
    return lambda probe: probe.submit(content)


def fields(**given: Any) -> Do:
    """Submit a good input with other fields."""
    content = {"input": {"act": "fine"}, **given}
    return lambda probe: probe.submit(json.dumps(content).encode())


def value(given: Any, *, graph: str = "probe") -> Do:
    """Submit an input."""
    return lambda probe: probe.run(given, graph=graph)


def act(what: str, **given: Any) -> Do:
    """Have the node do something."""
    return lambda probe: probe.run({"act": what}, **given)


def nested(levels: int) -> dict[str, Any]:
    inner: Any = 1
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def twice(**given: Any) -> Do:
    """Submit the same fields again."""

    async def do(probe: Probe) -> Answer:
        first = await probe.run({"act": "fine"}, **given)
        assert not first.code, first
        return await probe.run({"act": "fine"}, **given)

    return do


def by_client(given: Any, **more: Any) -> Do:
    """Submit through the client, which refuses before anything is sent."""

    async def do(probe: Probe) -> Answer:
        before = await stored(probe)
        with pytest.raises(MeshError) as caught:
            async with probe.mesh.client("probe") as client:
                await client.submit(given, **more)
        assert await stored(probe) == before, "nothing was sent"
        return Answer(caught.value.code, f"{caught.value.message} {caught.value.remedy}")

    return do


async def stored(probe: Probe) -> int:
    info = await probe.mesh.bus.api("STREAM.INFO.SUBMIT")
    return int(info["state"]["last_seq"])


def dead(content: bytes) -> Do:
    """Publish bytes where an agent takes its tasks."""

    async def do(probe: Probe) -> Answer:
        seq = await probe.mesh.bus.append(EXEC_DO, content)
        letter = await probe.dead_letter(content)
        assert letter.stream_seq == seq
        return Answer(letter.reason, letter.message)

    return do


def control(content: bytes) -> Do:
    """Publish bytes where an agent takes its orders."""

    async def do(probe: Probe) -> Answer:
        mark = probe.mark("do")
        probe.mesh.bus.send(subjects.control("default", "probe", "do"), content)
        return Answer("", await probe.logged("do", "ignored a control message", since=mark))

    return do


def outcome(content: bytes) -> Do:
    """Answer a task with bytes, as an agent in another language may."""

    async def do(probe: Probe) -> Answer:
        def answer(delivery: Delivery) -> None:
            task = codec.decode(ExecuteTask, delivery.body)
            probe.mesh.bus.append_nowait(task.payload.slot, content, lambda _: delivery.ack())

        durable = subjects.exec_consumer(EXEC_ABSENT)
        async with PullConsumer(
            probe.mesh.bus, EXEC.name, durable, capacity=1, handler=answer
        ).run():
            answered = await probe.run({"act": "wait"})
        await probe.dead_letter(content)
        return answered

    return do


def registered(key: str, document: bytes, *words: str) -> Do:
    """Write a document to the registry, and put back what was there."""

    async def do(probe: Probe) -> Answer:
        etcd = probe.mesh.etcd
        before = await etcd.get(key)
        mark = probe.mark("coordinator")
        try:
            await etcd.put(key, document)
            said = await probe.logged("coordinator", *(words or ("rejected", key)), since=mark)
            # As long as it stands there, new runs take what was there before.
            assert not (await probe.run({"act": "fine"})).code
            await probe.services()
        finally:
            if before is not None:
                await etcd.put(key, before.value)
            else:
                await etcd.delete(key)
        return Answer("", said)

    return do


def rebound(node: str, **changes: Any) -> Do:
    """Bind a node to somewhere else in the registry."""

    async def do(probe: Probe) -> Answer:
        before = await probe.mesh.etcd.get(BINDINGS)
        assert before is not None
        bindings = decode_bindings(before.value)
        nodes = dict(bindings.nodes)
        nodes[node] = msgspec.structs.replace(nodes[node], **changes)
        changed = msgspec.structs.replace(bindings, nodes=nodes)
        return await registered(BINDINGS, encode(changed))(probe)

    return do


BINDINGS = keys.bindings("default", "probe")
GHOST = keys.agent("default", "probe", "do", "ghost")


CASES = [
    # What is no JSON object.
    Case("truncated JSON", body(b'{"input": {"act": "fi'), "malformed_body", ("truncated",)),
    Case("a list", body(b"[1, 2]"), "invalid_field", ("body", "object", "docs/protocol.md")),
    Case("a text", body(b'"hello"'), "invalid_field", ("body", "object")),
    Case("two objects", body(b"{}{}"), "malformed_body", ("submission", "JSON")),
    Case("UTF-16", body('{"input":{}}'.encode("utf-16")), "malformed_body", ("submission", "JSON")),
    Case("not UTF-8", body(b'{"input":{"act":"\xff"}}'), "malformed_body", ("utf-8",)),
    Case("nothing", body(b""), "malformed_body", ("submission", "docs/protocol.md")),
    Case("msgpack", body(msgspec.msgpack.encode({"input": {}})), "malformed_body", ("JSON",)),
    Case("a gigabyte promised", body(b"\xdf\xff\xff\xff\xff"), "malformed_body", ("JSON",)),
    Case("NaN", body(b'{"input":{"act":NaN}}'), "malformed_body", ("JSON",)),
    # Fields.
    Case("an unknown field", fields(inputs=1), "invalid_field", ("`inputs`", "docs/protocol.md")),
    Case("a huge unknown field", fields(**{'"' * 450_000: 1}), "invalid_field", ("unknown field",)),
    Case("thread_id a number", fields(thread_id=7), "invalid_field", ("thread_id", "str", "int")),
    Case("thread_id too long", fields(thread_id="t" * 101), "invalid_name", ("thread_id", "100")),
    Case("thread_id empty", fields(thread_id=""), "invalid_name", ("thread_id", "empty")),
    Case("run_id empty", fields(run_id=""), "invalid_name", ("run_id", "empty")),
    Case("run_id too long", fields(run_id="r" * 101), "invalid_name", ("run_id", "101", "63")),
    Case("run_id huge", fields(run_id="\\" * 450_000), "invalid_name", ("run_id", "450000")),
    Case("run_id an object", fields(run_id={}), "invalid_field", ("run_id", "object")),
    Case("stream_mode unknown", fields(stream_mode="all"), "invalid_field", ("stream_mode", "all")),
    Case("one unknown", fields(stream_mode=["values", "all"]), "invalid_field", ("mode[1]",)),
    Case("durability unknown", fields(durability="disk"), "invalid_field", ("durability", "disk")),
    Case("multitask unknown", fields(multitask="drop"), "invalid_field", ("multitask", "drop")),
    Case("config a list", fields(config=[]), "invalid_field", ("config", "object", "array")),
    Case(
        "recursion_limit a text",
        fields(config={"recursion_limit": "9"}),
        "invalid_field",
        ("config.recursion_limit", "int", "str"),
    ),
    Case(
        "recursion_limit 0",
        fields(config={"recursion_limit": 0}),
        "invalid_field",
        ("config.recursion_limit", "1"),
    ),
    Case("a misspelt config", fields(config={"tag": []}), "invalid_field", ("config", "`tag`")),
    Case("context a text", fields(context="x"), "invalid_field", ("context", "object", "str")),
    Case("command unknown", fields(command={"resumed": 1}), "invalid_field", ("`resumed`",)),
    Case("command a text", fields(command="resume"), "invalid_field", ("command", "object")),
    Case("update a list", fields(command={"update": [1]}), "invalid_field", ("command.update",)),
    # Depth.
    Case("deep input", value(nested(DEEP)), "malformed_body", ("input: ", "100 levels")),
    Case("deeper than Python", body(b'{"input":' + b"[" * 5000), "malformed_body", ("submission",)),
    Case(
        "deep configurable",
        fields(config={"configurable": nested(DEEP)}),
        "malformed_body",
        ("config.configurable: ", "100 levels"),
    ),
    Case(
        "deep resume",
        fields(command={"resume": nested(DEEP)}),
        "malformed_body",
        ("command.resume: ", "100 levels"),
    ),
    # Names are encoded, not refused.
    Case("NUL in thread_id", fields(thread_id="a\0b"), "", ()),
    Case("wildcards in thread_id", fields(thread_id="a.*.>"), "", ()),
    Case("white space in run_id", fields(run_id="\r\n\t "), "", ()),
    Case("an encoded name as a name", fields(thread_id="x--zz"), "", ()),
    # Graphs and tenants.
    Case(
        "unknown graph",
        lambda probe: probe.submit(b"{}", graph="nosuch"),
        "unknown_graph",
        ("'nosuch'", "probe, strict", "langmesh up"),
    ),
    Case(
        "unknown tenant",
        lambda probe: probe.submit(b"{}", tenant="nobody"),
        "unknown_graph",
        ("'nobody'", "none"),
    ),
    Case(
        "a graph that is no token",
        lambda probe: probe.submit(b"{}", subject="mesh.v1.submit.default.-x"),
        "invalid_name",
        ("'-x'",),
    ),
    # Input against the schema.
    Case("input a text", value("x"), "invalid_input", ("input", "object", "act", "got str")),
    Case("input of no field", value({"foo": 1}), "invalid_input", ("input", "act", "routes")),
    Case("act a number", value({"act": 7}), "invalid_input", ("input.act", "string", "int")),
    Case(
        "size a text",
        value({"act": "x", "size": "big"}),
        "invalid_input",
        ("input.size", "integer", "str"),
    ),
    Case(
        "a required field missing",
        value({"article": "x"}, graph="strict"),
        "invalid_input",
        ("input.pieces", "missing", "routes"),
    ),
    Case("no input", body(b"{}"), "invalid_input", ("input",)),
    Case("run_id used before", twice(run_id="mine", thread_id="t"), "duplicate_run", ("run_id",)),
    # What the client refuses to send.
    Case("10 MB", by_client({"act": "x" * LARGE}), "payload_too_large", ("1,000,000", "reference")),
    Case("a set", by_client({"act": object()}), "value_not_serializable", ("input", "JSON")),
    Case("a surrogate", by_client({"act": "\ud800"}), "value_not_serializable", ("input",)),
    Case("a misspelt field", by_client({}, thread="t"), "invalid_field", ("`thread`",)),
    # What the node does.
    Case("raises", act("raise"), "node_raised", ("the shelf is empty",)),
    Case("raises what has no text", act("raise unprintable"), "node_raised", ("Unprintable",)),
    Case("raises a surrogate", act("raise surrogate"), "node_raised", ("\\ud800 here",)),
    Case("raises CancelledError", act("raise cancelled"), "node_raised", ("do",)),
    Case("recurses for ever", act("recurse"), "node_raised", ("recursion",)),
    Case("a number", act("return a number"), "node_raised", ("Expected dict, got 42",)),
    Case("a lock", act("return a lock"), "value_not_serializable", ("'do'", "'result'", "lock")),
    Case("a lambda", act("return a lambda"), "value_not_serializable", ("'result'", "function")),
    Case(
        "a type that no schema names",
        act("return a stranger"),
        "value_not_serializable",
        ("'do'", "'result'", "Stranger", "schema"),
    ),
    Case("10 MB of output", act("return 10 MB"), "", ()),
    Case("an unknown destination, as LangGraph does", act("go nowhere"), "", ()),
    Case("two writes to one channel", act("write twice"), "invalid_input", ("result",)),
    Case("endless loop", act("loop", config={"recursion_limit": 5}), "recursion_limit", ("5",)),
    # What others put on the wire.
    Case("a task of garbage", dead(b"\xc1 garbage"), "malformed_body", ("task.execute.v1",)),
    Case("a task of JSON", dead(b'{"header": 1}'), "invalid_field", ("header", "object")),
    Case("a task of nothing", dead(b""), "malformed_body", ("task.execute.v1",)),
    Case("an order of garbage", control(b"\xc1"), "", ("control.cancel.v1",)),
    Case("an order of JSON", control(b'{"payload": {}}'), "", ("run", "payload")),
    Case("an outcome of garbage", outcome(b"\xc1"), "malformed_body", ("task.outcome.v1",)),
    # What others put into the registry: rejected, and what was there stays in force.
    Case("bindings of garbage", registered(BINDINGS, b"\xff"), "", ("before stays", "malformed")),
    Case(
        "bindings without nodes",
        registered(BINDINGS, b'{"revision":"r","nodes":7}'),
        "",
        ("before stays", "nodes: ", "object"),
    ),
    Case(
        "bindings of no revision",
        registered(BINDINGS, b'{"revision":"nosuch","nodes":{}}', "nosuch"),
        "",
        ("probe", "nosuch"),
    ),
    Case("a subject of no node", rebound("do", subject="a.>"), "", ("before stays", "'a.>'")),
    Case(
        "a topology of garbage",
        registered(keys.route("default", "probe", "r2"), b"{"),
        "",
        ("left out", "r2", "Topology"),
    ),
    Case("an agent of garbage", registered(GHOST, b"garbage"), "", ("left out", "ghost")),
    Case(
        "an agent without a process",
        registered(GHOST, b'{"service":"do","instance":"ghost","pid":-1}'),
        "",
        ("left out", "pid"),
    ),
    Case(
        "a graph key that is no name",
        registered(f"{keys.graphs()}default/a b/bindings", b"{}"),
        "",
        ("left out", "'a b'"),
    ),
    Case(
        "an agent key of too many parts",
        registered(f"{keys.agents()}default/probe/do/x/y", b"{}"),
        "",
        ("left out", "default/probe/do/x/y"),
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probe() -> AsyncIterator[Probe]:
    async with probing() as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_input_gets_a_clear_answer_and_the_mesh_goes_on(probe: Probe, case: Case):
    services = await probe.services()
    answer = await case.do(probe)
    assert answer.code == case.code, answer
    for words in case.says:
        assert words in answer.said, answer.said
    assert len(answer.said) < 5_000

    good = await probe.run({"act": "fine"})
    assert good.end.output["result"] == "did fine", good
    assert await probe.services() == services
    for name, process in probe.processes.items():
        assert process.returncode is None, name


async def test_a_node_that_raises_is_told_with_its_type_its_place_and_its_traceback(probe: Probe):
    answer = await probe.run({"act": "raise"})
    assert answer.error is not None
    assert (answer.error.type, answer.error.node) == ("ValueError", "do")
    assert 'raise ValueError("the shelf is empty")' in answer.error.traceback
    assert [e.node for e in answer.events if isinstance(e, TaskStarted)] == ["do"]


async def test_a_run_waits_for_a_human_and_takes_a_good_answer_after_a_bad_one(probe: Probe):
    asked = await probe.run({"act": "ask"}, thread_id="human")
    assert asked.end.interrupts
    refused = await probe.submit(b'{"thread_id":"human","command":{"resume":1,"go":2}}')
    assert refused.code == ErrorCode.INVALID_FIELD
    resumed = await probe.submit(b'{"thread_id":"human","command":{"resume":"on"}}')
    assert resumed.end.output["result"] == "on"


async def test_a_large_output_is_kept_in_the_object_store(probe: Probe):
    answer = await probe.run({"act": "return 10 MB"})
    assert answer.end.status == "success"
    assert answer.end.output["bytes"] > LARGE
