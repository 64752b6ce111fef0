import json

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.records import (
    Binding,
    Bindings,
    ServiceRecord,
    decode_bindings,
    decode_service,
    encode,
)

SERVICE = ServiceRecord(
    service="researcher",
    instance="researcher-1a2b3c4d",
    pid=7,
    host="h",
    state="ready",
    event_loop="uvloop",
    release="v1",
    capacity=16,
    started_at="2026-01-01T00:00:00.000000Z",
    versions={"langmesh": "0.1.0"},
    graph="research",
    node="researcher",
)
BINDINGS = Bindings(
    revision="r1", nodes={"n": Binding(subject="mesh.v1.exec.t.g.n.v1", release="v1")}
)


def test_records_are_json_and_come_back():
    assert json.loads(encode(SERVICE))["instance"] == "researcher-1a2b3c4d"
    assert decode_service(encode(SERVICE)) == SERVICE
    assert decode_bindings(encode(BINDINGS)) == BINDINGS


def test_a_newer_releases_field_is_ignored_in_a_service_record():
    document = json.loads(encode(SERVICE)) | {"gpu": True}
    assert decode_service(json.dumps(document).encode()) == SERVICE


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"state": "asleep"}, "state"),
        ({"pid": -1}, "pid"),
        ({"pid": "7"}, "pid"),
        ({"capacity": -1}, "capacity"),
        ({"instance": ""}, "instance"),
        ({"versions": {"a": 1}}, "versions"),
    ],
)
def test_a_wrong_field_of_a_service_record_is_named(change, field):
    with pytest.raises(MeshError) as caught:
        decode_service(json.dumps(json.loads(encode(SERVICE)) | change).encode())
    assert caught.value.code is ErrorCode.INVALID_FIELD
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    ("document", "code", "reason"),
    [
        (b"{", ErrorCode.MALFORMED_BODY, "Bindings"),
        (b"{}", ErrorCode.INVALID_FIELD, "revision"),
        (
            b'{"revision": "r", "nodes": {"n": {"subject": "s"}}}',
            ErrorCode.INVALID_FIELD,
            "release",
        ),
        (
            b'{"revision": "r", "nodes": {"n": {"subject": "s", "release": ""}}}',
            ErrorCode.INVALID_FIELD,
            "nodes",
        ),
        (
            b'{"revision": "r", "nodes": {"n": {"subject": "s", "release": "v1", "burden": 1}}}',
            ErrorCode.INVALID_FIELD,
            "burden",
        ),
    ],
)
def test_bindings_with_a_mistake_are_refused(document, code, reason):
    with pytest.raises(MeshError) as caught:
        decode_bindings(document)
    assert caught.value.code is code
    assert reason in caught.value.message
