"""What coordinators tell each other survives the way, and what is none of it is refused."""

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import peers, subjects
from langmesh.wire.rpc import RpcFault, RunReference

RUN = RunReference(run_id="r", thread_id="t", submit_seq=7, trace_id="")
FAULT = RpcFault(code="busy", message="m", remedy="w", retryable=True)


@pytest.mark.parametrize(
    "message",
    [
        peers.SubmissionDealt(
            dealer="c-1",
            subject="mesh.v1.submit.default.g",
            body=b"\x00{}",
            headers={"traceparent": "00-"},
            reply="$JS.ACK.SUBMIT.coordinator.1.7.7.0.0",
            again=True,
        ),
        peers.SubmissionDecided(seq=7, owner="c-2", in_flight=3, run=RUN),
        peers.SubmissionDecided(seq=7, owner="c-2", in_flight=3, error=FAULT),
        peers.SubmissionDecided(seq=7, owner="c-2", in_flight=0, returned=True),
        peers.OwnerLoad(owner="c-2", in_flight=1, settled=[5, 6]),
    ],
)
def test_a_message_is_read_as_it_was_written(message: peers.PeerMessage) -> None:
    assert peers.decode(peers.encode(message)) == message


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x80", b'{"type":"x"}', b"\xdc\xff\xff" * 99])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(MeshError) as refused:
        peers.decode(body)
    assert refused.value.code == ErrorCode.MALFORMED_BODY


def test_a_request_that_is_passed_on_keeps_its_names() -> None:
    subject = subjects.peer_rpc("coordinator-1", "a.b", "run.get")
    names = subjects.parse_rpc(subject)
    assert (names.tenant, names.verb) == ("a.b", "run.get")
    prefix = subjects.peer_rpc_all("coordinator-1").removesuffix(".*.>")
    assert subject.startswith(f"{prefix}.")
    # What is for the coordinator itself is none of the requests that are for it.
    assert subject != subjects.peer("coordinator-1")


def test_a_dead_letters_subject_has_its_names() -> None:
    names = subjects.parse_dead(subjects.dead("acme", "my graph", "writer"))
    assert (names.tenant, names.graph, names.node) == ("acme", "my graph", "writer")
    with pytest.raises(MeshError):
        subjects.parse_dead("mesh.v1.dead.acme.g")
    assert subjects.deads("acme") == "mesh.v1.dead.acme.*.*"
    assert subjects.deads("acme", "g", "n") == subjects.dead("acme", "g", "n")
