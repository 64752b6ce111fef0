"""A client that meets what a later version, or a stranger, wrote about its run."""

import json

import pytest

from langmesh.client import RunHandle
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import subjects


async def write(mesh: LocalMesh, handle: RunHandle, *events: dict | bytes) -> None:
    """Write events of a run as its coordinator would."""
    subject = subjects.event("default", "g", "t", "r")
    for seq, event in enumerate(events, 1):
        about = {"seq": seq, "run_id": "r", "thread_id": "t", "time": "now"}
        body = event if isinstance(event, bytes) else json.dumps({**about, **event}).encode()
        await mesh.bus.append(subject, body)


async def test_unknown_events_and_garbage_are_skipped():
    async with local_mesh() as mesh, mesh.client("g") as client:
        handle = await client.submit({})
        await write(
            mesh,
            handle,
            {"type": "run.accepted.v1", "graph": "g", "submit_seq": handle.submit_seq},
            {"type": "run.paused.v9", "until": "tomorrow"},
            b"\xff garbage",
            {"type": "run.ended.v1", "status": "success", "output": 1, "later": "field"},
        )
        seen = [event async for event in handle.events()]
        assert [event.seq for event in seen] == [1, 4]
        assert seen[-1].output == 1


async def test_a_refusal_for_a_reason_of_a_later_version_is_still_a_refusal():
    async with local_mesh() as mesh, mesh.client("g") as client:
        handle = await client.submit({})
        refusal = {
            "type": "run.rejected.v1",
            "submit_seq": handle.submit_seq,
            "code": "quota_exceeded",
            "message": "tenant: too many runs",
            "remedy": "Wait.",
            "time": "now",
        }
        await mesh.bus.append(subjects.reject("default", "g"), json.dumps(refusal).encode())
        with pytest.raises(MeshError, match="too many runs") as caught:
            await handle.result()
        assert (caught.value.code, caught.value.remedy) == (ErrorCode.INTERNAL, "Wait.")


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"input": {"a": {1, 2} | {object()}}}, ErrorCode.VALUE_NOT_SERIALIZABLE, "input"),
        ({"input": {}, "context": {"key": "\ud800"}}, ErrorCode.VALUE_NOT_SERIALIZABLE, "context"),
        ({"input": "x" * 1_000_001}, ErrorCode.PAYLOAD_TOO_LARGE, "1,000,000"),
        ({"input": {}, "thread": "t"}, ErrorCode.INVALID_FIELD, "`thread`"),
    ],
    ids=["a set of objects", "a surrogate", "too large", "a misspelt field"],
)
async def test_what_cannot_be_sent_is_refused_by_field(given: dict, code: ErrorCode, field: str):
    async with local_mesh() as mesh, mesh.client("g") as client:
        with pytest.raises(MeshError) as caught:
            await client.submit(**given)
        assert caught.value.code is code
        assert field in caught.value.message
        assert (await mesh.bus.api("STREAM.INFO.SUBMIT"))["state"]["messages"] == 0
