"""LangGraph's own conformance suite for checkpointers, every capability of it."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES

from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats


@pytest.mark.parametrize("capability", sorted(ALL_CAPABILITIES))
async def test_capability(server: EmbeddedNats, capability: str):
    @checkpointer_test(name=f"NatsSaver {capability}")
    async def made():
        async with NatsSaver.connect(server.url) as saver:
            yield saver

    report = await validate(made, capabilities={capability})
    result = report.results[capability]
    assert result.failures == []
    assert result.passed
    assert result.tests_passed >= 5
