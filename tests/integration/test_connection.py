"""The short way out and in of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import nats.errors
import pytest

from langmesh.bus import Bus, connect
from langmesh.testing import LocalMesh

Heard = list[tuple[str, str, bytes, dict[str, str]]]


async def hearing(bus: Bus, subject: str, heard: Heard) -> None:
    """Keep what comes."""

    def listener(place: str, reply: str, body: bytes, headers: Mapping[str, str]) -> None:
        heard.append((place, reply, body, dict(headers)))

    await bus.hear(subject, listener)


async def test_messages_arrive_as_they_were_put_in_their_order(mesh: LocalMesh) -> None:
    heard: Heard = []
    await hearing(mesh.bus, "said.>", heard)
    client = mesh.bus.client
    client.put("said.plain", b"1")
    client.put("said.reply", b"\r\n", reply="back")
    client.put("said.last", b"", expected_last=7)
    client.put("said.all", b"4", reply="back", expected_last=0, headers={"a": "b", "c": " d "})
    await client.publish("said.stock", b"5", headers={"e": "f"})
    await mesh.bus.flush()
    last = "Nats-Expected-Last-Subject-Sequence"
    assert heard == [
        ("said.plain", "", b"1", {}),
        ("said.reply", "back", b"\r\n", {}),
        ("said.last", "", b"", {last: "7"}),
        ("said.all", "back", b"4", {last: "0", "a": "b", "c": "d"}),
        ("said.stock", "", b"5", {"e": "f"}),
    ]


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0\r\n\r\n"])
async def test_what_is_no_subject_is_not_sent(mesh: LocalMesh, subject: str) -> None:
    heard: Heard = []
    await hearing(mesh.bus, ">", heard)
    with pytest.raises(nats.errors.BadSubjectError):
        mesh.bus.client.put(subject, b"")
    with pytest.raises(nats.errors.BadSubjectError):
        mesh.bus.client.put("a", b"", reply=subject or " ")
    for name, value in (("a:b", "c"), ("a", "b\r\nc: d")):
        with pytest.raises(nats.errors.BadHeaderError):
            mesh.bus.client.put("a", b"", headers={name: value})
    await mesh.bus.flush()
    assert [each for each in heard if not each[0].startswith("$")] == []


async def test_a_listener_that_fails_hears_the_next_message(mesh: LocalMesh) -> None:
    heard: list[bytes] = []

    def listener(_subject: str, _reply: str, body: bytes, _headers: Mapping[str, str]) -> None:
        heard.append(body)
        raise ValueError(body)

    subscription = await mesh.bus.hear("said", listener)
    for body in (b"1", b"2"):
        mesh.bus.send("said", body)
    await mesh.bus.flush()
    assert heard == [b"1", b"2"]
    await subscription.unsubscribe()
    mesh.bus.send("said", b"3")
    await mesh.bus.flush()
    assert heard == [b"1", b"2"]


async def test_what_is_put_while_disconnected_is_sent_when_connected_again(mesh: LocalMesh) -> None:
    heard: Heard = []
    async with connect(mesh.nats_url, name="listener") as listening:
        await hearing(listening, "said", heard)
        await listening.flush()
        back = asyncio.Event()
        mesh.bus.on_reconnect(back.set)
        await mesh.bus.client._process_op_err(nats.errors.StaleConnectionError())
        assert not mesh.bus.client.is_connected
        mesh.bus.send("said", b"1")
        async with asyncio.timeout(10):
            await back.wait()
        await mesh.bus.flush()
        await listening.flush()
    assert [body for _, _, body, _ in heard] == [b"1"]


async def test_a_closed_connection_tells_whoever_waits(mesh: LocalMesh) -> None:
    async with connect(mesh.nats_url, name="closed") as bus:
        pass
    told: list[int | Exception] = []
    bus.append_nowait("mesh.v1.event.default.g.t.r", b"{}", told.append)
    assert told == []
    await asyncio.sleep(0)
    assert len(told) == 1
    assert "publish to mesh.v1.event.default.g.t.r" in str(told[0])
