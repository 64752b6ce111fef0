"""What is not a policy is refused with the place and the reason."""

from __future__ import annotations

import json

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import policies
from langmesh.registry.policies import GraphPolicy, NodePolicy, RetryRule

BAD = [
    (NodePolicy, {"max_in_flight": 0}, "max_in_flight", ">= 1"),
    (NodePolicy, {"max_in_flight": -3}, "max_in_flight", ">= 1"),
    (NodePolicy, {"max_in_flight": 10_001}, "max_in_flight", "<= 10000"),
    (NodePolicy, {"max_in_flight": "4"}, "max_in_flight", "got `str`"),
    (NodePolicy, {"max_in_flight": 4.5}, "max_in_flight", "got `float`"),
    (NodePolicy, {"max_in_flight": True}, "max_in_flight", "got `bool`"),
    (NodePolicy, {"max_inflight": 4}, "max_inflight", "unknown field"),
    (NodePolicy, {"sample_ratio": 0.5}, "sample_ratio", "unknown field"),
    (NodePolicy, {"timeout_s": 0}, "timeout_s", "> 0"),
    (NodePolicy, {"timeout_s": -1}, "timeout_s", "> 0"),
    (NodePolicy, {"timeout_s": 86_401}, "timeout_s", "<= 86400"),
    (NodePolicy, {"timeout_s": "30s"}, "timeout_s", "got `str`"),
    (NodePolicy, {"retry": 3}, "retry", "got `int`"),
    (NodePolicy, {"retry": {"max_attempts": 0}}, "retry.max_attempts", ">= 1"),
    (NodePolicy, {"retry": {"max_attempts": 101}}, "retry.max_attempts", "<= 100"),
    (NodePolicy, {"retry": {"attempts": 3}}, "attempts", "unknown field"),
    (NodePolicy, {"retry": {"initial_interval_s": -1}}, "retry.initial_interval_s", ">= 0"),
    (NodePolicy, {"retry": {"backoff_factor": 0.5}}, "retry.backoff_factor", ">= 1"),
    (NodePolicy, {"retry": {"max_interval_s": 4_000}}, "retry.max_interval_s", "<= 3600"),
    (NodePolicy, {"retry": {"jitter": "yes"}}, "retry.jitter", "got `str`"),
    (NodePolicy, {"log_level": "LOUD"}, "log_level", "'LOUD'"),
    (NodePolicy, {"log_level": "debug"}, "log_level", "'debug'"),
    (NodePolicy, {"model": ""}, "model", "length >= 1"),
    (NodePolicy, {"model": "m" * 201}, "model", "length <= 200"),
    (NodePolicy, {"settings": ["temperature"]}, "settings", "got `array`"),
    (NodePolicy, {"settings": {"": 1}}, "settings", "length >= 1"),
    (GraphPolicy, {"sample_ratio": 1.1}, "sample_ratio", "<= 1"),
    (GraphPolicy, {"sample_ratio": -0.1}, "sample_ratio", ">= 0"),
    (GraphPolicy, {"max_in_flight": 4}, "max_in_flight", "unknown field"),
    (GraphPolicy, {"nodes": {}}, "nodes", "unknown field"),
    (GraphPolicy, ["sample_ratio"], "body", "got `array`"),
    (GraphPolicy, None, "body", "got `null`"),
]


@pytest.mark.parametrize(("kind", "document", "place", "reason"), BAD)
def test_a_document_that_is_no_policy_is_refused(kind, document, place, reason):
    with pytest.raises(MeshError) as refused:
        policies.decode(kind, json.dumps(document).encode())
    assert refused.value.code is ErrorCode.INVALID_FIELD
    assert place in refused.value.message
    assert reason in refused.value.message


@pytest.mark.parametrize("document", [b"", b"{", b'{"max_in_flight": NaN}', b"\xff"])
def test_what_is_no_json_is_refused(document: bytes):
    with pytest.raises(MeshError) as refused:
        policies.decode(NodePolicy, document)
    assert refused.value.code is ErrorCode.MALFORMED_BODY


def test_a_policy_of_any_size_is_not_accepted():
    document = json.dumps({"settings": {"text": "x" * policies.DOCUMENT_BYTES_MAX}}).encode()
    with pytest.raises(MeshError) as refused:
        policies.decode(NodePolicy, document)
    assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE


def test_layers_count_field_by_field():
    node = NodePolicy(
        max_in_flight=4, retry=RetryRule(max_attempts=3), settings={"a": 1, "deep": {"x": 1}}
    )
    graph = GraphPolicy(
        timeout_s=9,
        sample_ratio=0.5,
        retry=RetryRule(max_attempts=9, jitter=False),
        settings={"a": 2, "b": 3, "deep": {"y": 2}},
    )
    assert policies.layered(node, None, graph) == NodePolicy(
        max_in_flight=4,
        timeout_s=9,
        retry=RetryRule(max_attempts=3, jitter=False),
        settings={"a": 1, "b": 3, "deep": {"x": 1}},
    )
    assert policies.layered(None) == NodePolicy()
