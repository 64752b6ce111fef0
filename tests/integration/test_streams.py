"""What the protocol promises of its streams, as a stock NATS client finds it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType
from nats.js.errors import APIError

from langmesh.testing import LocalMesh
from langmesh.wire.streams import EXEC_ACK_WAIT_S, SUBMIT_CONSUMER
from tests.integration.kit import Tap, events_of, serving, stock_client, tapping

HOUR = 3600
STREAMS: dict[str, dict[str, Any]] = {
    "SUBMIT": {"retention": RetentionPolicy.WORK_QUEUE, "max_age": 0},
    "EXEC": {"retention": RetentionPolicy.WORK_QUEUE, "max_age": 0},
    "SLOT": {
        "discard": DiscardPolicy.NEW,
        "discard_new_per_subject": True,
        "max_msgs_per_subject": 1,
        "max_age": 24 * HOUR,
    },
    "LOG": {"max_age": 0},
    "ACTIVE": {"max_msgs_per_subject": 1, "max_age": 0},
    "EVENT": {"max_age": 7 * 24 * HOUR},
    "CHUNK": {"max_age": HOUR, "max_bytes": 1 << 30},
    "DEAD": {"max_age": 30 * 24 * HOUR},
    "STORE": {
        "max_msgs_per_subject": 1,
        "max_age": 0,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 24 * HOUR,
    },
}
DEFAULTS = {
    "retention": RetentionPolicy.LIMITS,
    "storage": StorageType.FILE,
    "discard": DiscardPolicy.OLD,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_bytes": -1,
}


async def test_the_streams_have_the_protocols_settings(mesh: LocalMesh) -> None:
    async with stock_client(mesh) as client:
        found = {info.config.name: info.config for info in await client.jetstream().streams_info()}
    assert found.keys() == STREAMS.keys()
    for name, expected in STREAMS.items():
        wanted = {**DEFAULTS, **expected}
        assert {key: getattr(found[name], key) for key in wanted} == wanted, name


async def test_a_slot_is_written_once(mesh: LocalMesh) -> None:
    async with stock_client(mesh) as client:
        js = client.jetstream()
        slot = "mesh.v1.slot.7.default.loop.count.acap"
        first = await js.publish(slot, b"first")
        with pytest.raises(APIError) as refusal:
            await js.publish(slot, b"second")
        assert refusal.value.err_code == 10077
        kept = await js.get_last_msg("SLOT", slot)
        assert (kept.seq, kept.data) == (first.seq, b"first")
        assert (await js.publish(slot + "2", b"another")).seq == first.seq + 1


async def test_each_exec_subject_has_a_consumer_of_its_own(mesh: LocalMesh) -> None:
    async with serving(mesh, "tests.graphs.shapes:loop") as client, stock_client(mesh) as stock:
        await events_of(await client.submit({"n": 4}))
        consumer = await stock.jetstream().consumer_info("EXEC", "default=loop=count=v1")
        submit = await stock.jetstream().consumer_info("SUBMIT", "coordinator")
    assert consumer.config.filter_subject == "mesh.v1.exec.default.loop.count.v1"
    assert (consumer.config.ack_policy, consumer.config.ack_wait) == ("explicit", EXEC_ACK_WAIT_S)
    assert submit.config.ack_policy == "explicit"
    assert submit.config.ack_wait == SUBMIT_CONSUMER.ack_wait_s


async def test_no_message_is_left_behind(mesh: LocalMesh) -> None:
    async with (
        tapping(mesh, "$JS.ACK.SUBMIT.>", "$JS.ACK.EXEC.>") as tap,
        serving(mesh, "tests.graphs.shapes:loop") as client,
        stock_client(mesh) as stock,
    ):
        await events_of(await client.submit({"n": 2}))
        await tap.wait_for(lambda message: message.subject.startswith("$JS.ACK.SUBMIT."))
        async with asyncio.timeout(30):
            # The server works acknowledgements off beside its requests, and tells nobody when.
            for name in ("SUBMIT", "EXEC"):
                while (await stock.jetstream().stream_info(name)).state.messages:
                    pass
        assert (await stock.jetstream().stream_info("SLOT")).state.messages == 2


def chunks_before_the_end(tap: Tap) -> dict[tuple[str, int], list[Any]]:
    """The data of the chunks by node and attempt; each was there when its task's end was told."""
    found: dict[tuple[str, int], list[Any]] = {}
    for message in tap.messages:
        body = json.loads(message.data)
        if body["type"] == "chunk.v1":
            part = found.setdefault((body["node"], body["attempt"]), [])
            part.append(body["data"])
            assert body["n"] == len(part)
            assert (body["mode"], body["namespace"]) == ("custom", [])
            assert message.subject.endswith(f".{body['run_id']}.{body['node']}")
        elif body["type"] == "task.ended.v1":
            key = (body["node"], body.get("attempt", 1))
            assert body.get("chunks", 0) == len(found.get(key, [])), key
    return found


@pytest.mark.parametrize("modes", [["custom"], ["updates", "custom"]])
async def test_custom_output_arrives_in_order(mesh: LocalMesh, modes: list[str]) -> None:
    async with (
        tapping(mesh, "mesh.v1.chunk.>", "mesh.v1.event.>") as tap,
        serving(mesh, "tests.graphs.talkers:talkers") as client,
    ):
        handle = await client.submit({"words": 40}, stream_mode=modes)
        events = await events_of(handle)
        await tap.wait_for(lambda m: b'"run.ended.v1"' in m.data)
    assert events[-1].status == "success"
    found = chunks_before_the_end(tap)
    words = [f"word {i}" for i in range(40)]
    assert found == {
        ("writer", 1): words,
        ("threaded", 1): words,
        ("runtime", 1): [{"word": word} for word in words],
        ("flaky", 1): ["attempt 1"],
        ("flaky", 2): ["attempt 2", "and over"],
    }


async def test_nobody_asked_for_chunks(mesh: LocalMesh) -> None:
    async with (
        tapping(mesh, "mesh.v1.chunk.>", "mesh.v1.event.>") as tap,
        serving(mesh, "tests.graphs.talkers:talkers") as client,
    ):
        await events_of(await client.submit({"words": 3}))
        await tap.wait_for(lambda m: b'"run.ended.v1"' in m.data)
    assert chunks_before_the_end(tap) == {}
