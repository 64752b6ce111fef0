"""One worked example of every message, for docs/protocol.md and for the tests of the contract.

An example is built from the struct itself: what a message *needs* is filled in by field name and
type, so that a new message or field has an example without an edit here; what makes an example
*telling* is chosen below. The examples belong to one run of the graph ``research``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from langmesh.wire import names, subjects

TENANT, GRAPH, THREAD, RUN = "default", "research", "t1", "r1"
NODE, RELEASE = "researcher", "v1"
CAP = "0k3v9d1qf7m2xw8c4h6tb5ngaj"
TIME = "2026-01-31T12:00:00.000000Z"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

_PARTITION = names.partition(TENANT, THREAD)
_EXEC = subjects.execution(TENANT, GRAPH, NODE, RELEASE)
_SLOT = subjects.slot(_PARTITION, TENANT, GRAPH, NODE, CAP)
_COORDINATOR, _AGENT = "coordinator-5c0e8f21", "researcher-3f9a1c2e"
_CHECKPOINT = "1f0b2c3d-0000-6000-8001-0123456789ab"
_VERSION = "0000000000000002.5f3a9c0b7d1e"
_DIGEST = b"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_JSON_VALUE = ["json", b'{"question":"Why NATS?"}']
_ERROR = {
    "type": "ValueError",
    "code": "node_raised",
    "message": "no sources found",
    "node": NODE,
    "traceback": "Traceback (most recent call last):\n  …\nValueError: no sources found\n",
}

_STATE = {
    "thread_id": THREAD,
    "checkpoint_id": _CHECKPOINT,
    "created_at": TIME,
    "superstep": 1,
    "values": {"question": "Why NATS?", "notes": ["NATS is one small binary."]},
    "next": ["writer"],
    "interrupts": [],
}

_BY_NAME: dict[str, Any] = {
    "attempt": 1,
    "cap": CAP,
    "caps": [CAP],
    "checkpoint_id": _CHECKPOINT,
    "checkpoint_ns": f"{NODE}:2f6d0a3e",
    "coordinator": _COORDINATOR,
    "executor": {"instance": _AGENT, "pid": 4711, "host": "worker-1"},
    "graph": GRAPH,
    "id": "9d2c7b5e1f6a4083b1e0c5d4a3f29871",
    "idempotency_key": "6b1d0c9e8f7a4352",
    "input": _JSON_VALUE,
    "instance": _AGENT,
    "invocation": "00c1f2e3",
    "node": NODE,
    "path": ["__pregel_pull", NODE],
    "pid": 4711,
    "receiver": NODE,
    "release": RELEASE,
    "revision": "b7e23ec29af22b0b",
    "run": RUN,
    "run_id": RUN,
    "sender": _COORDINATOR,
    "sent_at_ms": 1769860800000,
    "slot": _SLOT,
    "stop": 25,
    "submit_seq": 41,
    "superstep": 1,
    "task_id": "2f6d0a3e-5f4b-0c1d-9e8f-7a6b5c4d3e2f",
    "tenant": TENANT,
    "thread": THREAD,
    "thread_id": THREAD,
    "time": TIME,
    "trace_id": TRACE,
    "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    "write": "5b8efc1d2a7049d3b6c01f2e3d4a5968",
    "triggers": [f"branch:to:{NODE}"],
}

_CHOSEN: dict[str, dict[str, Any]] = {
    "Submission": {
        "input": {"question": "Why NATS?"},
        "thread_id": THREAD,
        "stream_mode": ["updates", "messages"],
        "config": {"tags": ["docs"], "recursion_limit": 25},
    },
    "RunAccepted": {"seq": 1, "trace_id": TRACE},
    "RunStarted": {"seq": 2},
    "TaskStarted": {"seq": 3, "subject": _EXEC},
    "TaskWaiting": {"seq": 4, "reason": "no agent serves the node"},
    "TaskRestarted": {"seq": 5, "attempt": 2, "delay_ms": 500, "error": _ERROR},
    "TaskEnded": {
        "seq": 6,
        "status": "ok",
        "attempt": 2,
        "chunks": 12,
        "instance": _AGENT,
        "pid": 4711,
        "queue_ms": 0.8,
        "execute_ms": 312.5,
    },
    "StreamPart": {
        "seq": 7,
        "mode": "updates",
        "namespace": [],
        "data": {NODE: {"notes": ["NATS is one small binary."]}},
    },
    "RunInterrupted": {
        "seq": 8,
        "interrupts": [{"id": "6c2d1e", "value": {"approve": "Publish the answer?"}}],
        "next": ["reviewer"],
    },
    "RunEnded": {
        "seq": 9,
        "status": "success",
        "output": {"question": "Why NATS?", "answer": "Because it is small."},
        "supersteps": 4,
        "tasks": 4,
        "trace_id": TRACE,
    },
    "RunRejected": {
        "code": "invalid_field",
        "message": "stream_mode: Invalid enum value 'update'",
        "remedy": "Compare the body with the message's table in docs/protocol.md.",
    },
    "Chunk": {"n": 1, "mode": "messages", "namespace": [], "data": [{"content": "Because"}, {}]},
    "DeadLetter": {
        "reason": "node_poisoned",
        "message": f"node {NODE}: delivered 5 times and never finished",
        "subject": _EXEC,
        "stream_seq": 1204,
        "body": b"\x83",
        "run_id": RUN,
        "task_id": "2f6d0a3e-5f4b-0c1d-9e8f-7a6b5c4d3e2f",
    },
    "StoreItem": {
        "namespace": ["users", "ada"],
        "key": "style",
        "value": {"likes": "short answers"},
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T12:00:00Z",
        "ttl_s": 3600,
        "vectors": {"format": "f32", "dims": 2, "data": b"\x00\x00\x80?\x00\x00\x00\x00"},
    },
    "StoreDeleted": {"namespace": ["users", "ada"], "key": "style"},
    "StartRun": {"input": {"question": "Why NATS?"}, "thread_id": THREAD},
    "WaitRun": {"timeout_s": 10.0},
    "ResumeRun": {"resume": {"approved": True}},
    "GetHistory": {"limit": 2},
    "UpdateThread": {"values": {"notes": ["NATS has streams."]}, "as_node": NODE},
    "RunView": {
        "status": "success",
        "output": {"question": "Why NATS?", "answer": "Because it is small."},
    },
    "ThreadState": _STATE,
    "ThreadHistory": {"states": [_STATE]},
    "Routes": {
        "topology": {"nodes": {NODE: {"successors": ["writer"]}}, "entry": [NODE]},
        "bindings": {NODE: {"subject": _EXEC, "release": RELEASE, "served": True}},
    },
    "AgentLoad": {"cpu_usage": 0.02, "memory_usage": 0.01, "request_rate": 0.4, "in_flight": 1},
    "RegisterAgent": {
        "release": RELEASE,
        "capabilities": ["search"],
        "ttl_s": 15,
        "load": {},
    },
    "AgentPlace": {
        "subject": _EXEC,
        "stream": "EXEC",
        "consumer": subjects.exec_consumer(_EXEC),
        "encoding": "json",
        "bound": True,
        "ack_wait_s": 4.0,
        "ttl_s": 15,
        "renew_before_s": 5.0,
    },
    "RpcFault": {
        "code": "unknown_run",
        "message": "run_id: no run 'r1' is known",
        "remedy": "Check the id; runs are kept as long as the EVENT stream keeps their events.",
        "retryable": False,
    },
    "CallTask": {"index": 0, "function": "app:search", "name": "search"},
    "CallResult": {"status": "ok", "value": ["json", b'["NATS"]']},
    "PlainPayload": {
        "input": {"question": "Why NATS?", "subquestion": "What is NATS?"},
    },
    "PlainTask": {"header": {"type": "task.execute.v1"}},
    "Header": {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    "OutcomePayload": {
        "kind": "ok",
        "writes": [["notes", ["json", b'["NATS is one small binary."]']]],
        "chunks": 12,
        "queue_us": 800,
        "execute_us": 312500,
        "executor": {"instance": _AGENT, "pid": 4711, "host": "worker-1"},
    },
    "Entry": {
        "number": 7,
        "previous": bytes(range(32)),
        "writer": "saver-5c0e8f21",
        "time_ms": 1769860800000,
        "records": [
            {
                "type": "checkpoint.v1",
                "checkpoint_id": _CHECKPOINT,
                "checkpoint": ["msgpack", b"\x81\xa1v\x04"],
                "metadata": ["msgpack", b"\x81\xa4step\x01"],
                "versions": {"notes": _VERSION},
                "values": [["notes", _VERSION, ["msgpack", b"\x91\xa4NATS"]]],
            },
        ],
    },
    "CheckpointRecord": {
        "parent_id": "1f0b2c3d-0000-6000-8000-0123456789ab",
        "checkpoint": ["msgpack", b"\x81\xa1v\x04"],
        "metadata": ["msgpack", b"\x81\xa4step\x01"],
        "versions": {"notes": _VERSION, "question": 1},
        "values": [["notes", _VERSION, ["blob", _DIGEST]]],
    },
    "WritesRecord": {
        "task_path": "~__pregel_pull, researcher",
        "writes": [
            [0, "notes", ["msgpack", b"\x91\xa4NATS"]],
            [-3, "__interrupt__", ["null", b""]],
        ],
    },
    "BaseRecord": {"pruned": 6},
    "RunStartedRecord": {
        "seq": 2,
        "events": [],
        "submission": b'{"input":{"question":"Why NATS?"}}',
    },
    "RunResumedRecord": {"seq": 9, "events": [], "submission": b'{"command":{"resume":"yes"}}'},
    "SuperstepRecord": {
        "seq": 5,
        "events": [b'{"type":"task.ended.v1","seq":5}'],
        "applied": [["9d1f2c3b-0000-5000-8000-0123456789ab", "researcher", 1]],
    },
    "RunInterruptedRecord": {"seq": 8, "events": []},
    "RunCancellingRecord": {"seq": 8, "events": []},
    "RunEndedRecord": {"seq": 9, "events": [], "status": "success"},
    "TaskOutcome": {"header": {"sender": _AGENT, "receiver": _COORDINATOR}, "context": {}},
}

_BY_TYPE: dict[type[inspect.Type], Any] = {
    inspect.StrType: "text",
    inspect.IntType: 1,
    inspect.FloatType: 1.0,
    inspect.BoolType: True,
    inspect.BytesType: b"bytes",
    inspect.NoneType: None,
    inspect.AnyType: None,
}


def example(kind: type[Any]) -> Any:
    """Return an instance of a message that a peer could have sent."""
    return msgspec.convert(_fill(kind, {}), kind, builtin_types=(bytes,))


def body(kind: type[Any]) -> bytes:
    """Return the example as JSON that a peer would write, without fields left at their default."""
    return msgspec.json.encode(_fill(kind, {}))


def _fill(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Complete `given` with chosen and required fields; what the struct lacks is left out."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    chosen = {**_CHOSEN.get(kind.__name__, {}), **given}
    filled: dict[str, Any] = {}
    if info.tag_field is not None:
        filled[info.tag_field] = info.tag
    for field in info.fields:
        if field.name in chosen or field.required:
            filled[field.encode_name] = _sample(kind, field, chosen.get(field.name))
    return filled


def _sample(kind: type[Any], field: inspect.Field, value: Any) -> Any:
    struct = _struct_of(field.type)
    if struct is not None and not struct.array_like and (value is None or isinstance(value, dict)):
        return _fill(struct.cls, {**(value or {}), **_header_type(kind, field.name)})
    if value is None:
        value = _BY_NAME.get(field.name)
    return _of_type(field.type) if value is None else value


def _header_type(kind: type[Any], field: str) -> dict[str, Any]:
    """A header names the type of the message around it."""
    return {"type": kind.TYPE} if field == "header" and hasattr(kind, "TYPE") else {}


def _struct_of(kind: inspect.Type) -> inspect.StructType | None:
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return next((option for option in options if isinstance(option, inspect.StructType)), None)


def _of_type(kind: inspect.Type) -> Any:
    match kind:
        case inspect.UnionType(types=types):
            sample = _of_type(types[0])
        case inspect.LiteralType(values=values):
            sample = values[0]
        case inspect.TupleType(item_types=items):
            sample = [_of_type(item) for item in items]
        case inspect.StructType(array_like=True, fields=fields):
            sample = [_of_type(field.type) for field in fields]
        case inspect.StructType(cls=cls):
            sample = _fill(cls, {})
        case inspect.DictType():
            sample = {}
        case _:
            sample = _BY_TYPE.get(type(kind), [])
    return sample
