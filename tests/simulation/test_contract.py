"""What langmesh asks of nats-server, answered alike by the real one and by the simulated one."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack

import pytest

from langmesh.bus import Bus, Conflict, SlotTaken
from langmesh.bus.pull import Delivery, PullConsumer
from langmesh.bus.reading import bounds, last_at_leader, purge, read_page, subjects_of
from langmesh.bus.streams import ensure_consumer, ensure_stream, ensure_streams
from langmesh.bus.tail import Tail
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.streams import ConsumerSpec, StreamSpec
from tests.simulation.conftest import Server

LOG = "mesh.v1.log.7.default.t1"
SLOT = "mesh.v1.slot.7.default.graph.node"
EXEC = "mesh.v1.exec.default.graph.node.v1"
TINY = StreamSpec(name="TINY", subjects=("tiny.>",), purpose="It is soon full.", discard_new=True)
CONSUMER = ConsumerSpec(
    stream="EXEC", durable="node", filter_subject=EXEC, ack_wait_s=1.0, max_ack_pending=-1
)


class Taken:
    """Deliveries as they come."""

    def __init__(self) -> None:
        self.all: list[Delivery] = []
        self._came = asyncio.Event()

    def take(self, delivery: Delivery) -> None:
        self.all.append(delivery)
        self._came.set()

    async def until(self, count: int, *, within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while len(self.all) < count:
                self._came.clear()
                await self._came.wait()

    @property
    def told(self) -> list[tuple[bytes, int]]:
        """Each delivery's body, and how often its message was handed out."""
        return [(each.body, each.deliveries) for each in self.all]


async def pulling(stack: AsyncExitStack, bus: Bus, *, capacity: int = 8) -> Taken:
    taken = Taken()
    consumer = PullConsumer(bus, "EXEC", "node", capacity=capacity, handler=taken.take)
    await stack.enter_async_context(consumer.run())
    return taken


async def test_streams_are_made_once(bus: Bus) -> None:
    await ensure_streams(bus)
    await ensure_streams(bus, ages_s={"EVENT": 100})
    info = await bus.api("STREAM.INFO.EVENT")
    assert info["config"]["max_age"] == 100 * 10**9


async def test_an_append_is_refused_unless_the_last_message_is_the_expected_one(bus: Bus) -> None:
    first = await bus.append(LOG, b"1", expected_last=0)
    with pytest.raises(Conflict):
        await bus.append(LOG, b"2", expected_last=0)
    with pytest.raises(Conflict):
        await bus.append(LOG, b"2", expected_last=first + 1)
    other = await bus.append(f"{LOG}2", b"other", expected_last=0)
    assert await bus.append(LOG, b"2", expected_last=first) == other + 1


async def test_a_slot_is_written_once(bus: Bus) -> None:
    await bus.append(f"{SLOT}.a", b"first")
    with pytest.raises(SlotTaken):
        await bus.append(f"{SLOT}.a", b"second")
    found = await bus.last("SLOT", f"{SLOT}.a")
    assert found is not None
    assert found[1] == b"first"
    await bus.append(f"{SLOT}.b", b"another slot")


async def test_a_full_stream_refuses_as_a_taken_slot_does(bus: Bus) -> None:
    await ensure_stream(bus, dataclasses.replace(TINY, max_bytes=200))
    await bus.append("tiny.a", b"x" * 60)
    with pytest.raises(SlotTaken):
        await bus.append("tiny.b", b"x" * 300)
    assert await bus.last("TINY", "tiny.b") is None
    await bus.append("tiny.b", b"x" * 10)


async def test_a_stream_of_last_messages_keeps_one_of_each_subject(bus: Bus) -> None:
    for body in (b"1", b"2"):
        last = await bus.append("mesh.v1.active.7.default.t1", body)
    assert await bus.last("ACTIVE", "mesh.v1.active.7.default.t1") == (last, b"2")
    assert await bus.at("ACTIVE", last - 1) is None
    assert await bounds(bus, "ACTIVE") == (last, last)


async def test_messages_are_found(bus: Bus) -> None:
    seqs = [await bus.append(LOG, body) for body in (b"1", b"2", b"3")]
    other = await bus.append(f"{LOG}2", b"other")
    assert await bus.first("LOG", LOG) == (seqs[0], b"1")
    assert await bus.last("LOG", LOG) == (seqs[2], b"3")
    assert await bus.at("LOG", seqs[1]) == (seqs[1], b"2")
    assert await bus.find("LOG", "mesh.v1.log.7.default.*") == (f"{LOG}2", other, b"other")
    assert await last_at_leader(bus, "LOG", LOG) == (seqs[2], b"3")
    assert await bus.last("LOG", "mesh.v1.log.7.default.nobody") is None
    assert await bus.find("LOG", "mesh.v1.log.8.>") is None
    assert await bus.first("LOG", "mesh.v1.log.7.default.nobody") is None
    assert await bus.at("LOG", other + 1) is None
    assert await last_at_leader(bus, "LOG", "mesh.v1.log.7.default.nobody") is None


async def test_pages_are_read_in_order(bus: Bus) -> None:
    seqs = [await bus.append(LOG, b"%d" % number) for number in range(300)]
    page, more = await read_page(bus, "LOG", LOG)
    assert [message.body for message in page] == [b"%d" % number for number in range(256)]
    assert more
    page, more = await read_page(bus, "LOG", "mesh.v1.log.>", start_seq=page[-1].seq + 1)
    assert [message.seq for message in page] == seqs[256:]
    assert not more
    assert await read_page(bus, "LOG", LOG, start_seq=seqs[-1] + 1) == ([], False)
    assert await read_page(bus, "LOG", "mesh.v1.log.8.>") == ([], False)


async def test_messages_are_deleted(bus: Bus) -> None:
    seqs = [await bus.append(LOG, body) for body in (b"1", b"2", b"3", b"4")]
    await bus.append(f"{LOG}2", b"other")
    await bus.delete("LOG", seqs[3])
    await bus.delete("LOG", seqs[3])
    assert await bus.last("LOG", LOG) == (seqs[2], b"3")
    assert await purge(bus, "LOG", LOG, before_seq=seqs[1]) == 1
    assert await bus.first("LOG", LOG) == (seqs[1], b"2")
    assert await purge(bus, "LOG", LOG) == 2
    assert await subjects_of(bus, "LOG", "mesh.v1.log.>") == [f"{LOG}2"]
    assert await bus.append(LOG, b"anew", expected_last=0) > seqs[3]


async def test_subjects_are_listed(bus: Bus) -> None:
    names = [f"mesh.v1.active.{number}.default.t{number}" for number in range(5)]
    for name in names:
        await bus.append(name, b"x")
    assert await subjects_of(bus, "ACTIVE", "mesh.v1.active.>") == names
    assert await subjects_of(bus, "ACTIVE", "mesh.v1.active.3.*.*") == [names[3]]
    assert await subjects_of(bus, "ACTIVE", "mesh.v1.active.9.>") == []


async def test_nobody_takes_it(bus: Bus) -> None:
    with pytest.raises(MeshError) as refused:
        await bus.append("mesh.v1.nowhere", b"x")
    assert refused.value.code == ErrorCode.BROKER_UNAVAILABLE
    with pytest.raises(MeshError):
        await bus.request("mesh.v1.rpc.default.nothing")
    with pytest.raises(MeshError):
        await bounds(bus, "NOTHING")


async def test_a_task_is_handed_out_until_it_is_acknowledged(bus: Bus) -> None:
    await ensure_consumer(bus, CONSUMER)
    await ensure_consumer(bus, CONSUMER)
    async with AsyncExitStack() as stack:
        taken = await pulling(stack, bus)
        seq = await bus.append(EXEC, b"task")
        await taken.until(1)
        # Nobody says a word: the broker hands it out again.
        await taken.until(2)
        taken.all[1].release(0.5)
        await taken.until(3)
        assert taken.told == [(b"task", 1), (b"task", 2), (b"task", 3)]
        assert {each.stream_seq for each in taken.all} == {seq}
        for _ in range(4):
            await asyncio.sleep(0.5)
            taken.all[2].in_progress()
        assert len(taken.all) == 3
        # An acknowledgement counts whichever delivery it is for.
        taken.all[0].ack()
        await bus.flush()
        assert await bus.at("EXEC", seq) is None
        await asyncio.sleep(1.5)
        assert len(taken.all) == 3


async def test_what_was_released_lets_others_pass(bus: Bus) -> None:
    await ensure_consumer(bus, CONSUMER)
    for body in (b"1", b"2"):
        await bus.append(EXEC, body)
    async with AsyncExitStack() as stack:
        taken = await pulling(stack, bus, capacity=1)
        await taken.until(1)
        taken.all[0].release()
        await taken.until(2)
        taken.all[1].ack()
        await taken.until(3)
        assert taken.told == [(b"1", 1), (b"2", 1), (b"1", 2)]


async def test_no_more_is_handed_out_than_was_asked_for(bus: Bus) -> None:
    await ensure_consumer(bus, CONSUMER)
    async with AsyncExitStack() as stack:
        first = await pulling(stack, bus, capacity=2)
        second = await pulling(stack, bus, capacity=2)
        await bus.flush()
        for number in range(6):
            await bus.append(EXEC, b"%d" % number)
        await first.until(2)
        await second.until(2)
        await bus.flush()
        got = sorted(each.body for each in first.all + second.all)
        assert got == [b"0", b"1", b"2", b"3"]


async def test_requests_outlast_their_time(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langmesh.bus.pull._EXPIRES_S", 1)
    monkeypatch.setattr("langmesh.bus.pull._HEARTBEAT_S", 0.4)
    await ensure_consumer(bus, CONSUMER)
    async with AsyncExitStack() as stack:
        taken = await pulling(stack, bus, capacity=2)
        await asyncio.sleep(3)
        for body in (b"1", b"2", b"3"):
            await bus.append(EXEC, body)
        await taken.until(2)
        assert taken.told == [(b"1", 1), (b"2", 1)]


async def test_a_tail_has_all_in_order(bus: Bus) -> None:
    seen: list[tuple[str, bytes, int]] = []
    await bus.append(LOG, b"before")
    filters = (LOG, "mesh.v1.log.8.>")
    tail = Tail(bus, "LOG", filters, lambda *each: seen.append(each), start_seq=None)
    async with tail.run():
        seqs = [await bus.append(LOG, b"1"), await bus.append("mesh.v1.log.8.default.t", b"2")]
        await bus.append("mesh.v1.log.9.default.t", b"unwanted")
        await bus.flush()
    assert seen == [(LOG, b"1", seqs[0]), ("mesh.v1.log.8.default.t", b"2", seqs[1])]
    again: list[bytes] = []
    for start, wanted in ((1, [b"before", b"1", b"2"]), (seqs[0], [b"1", b"2"]), (seqs[1], [b"2"])):
        again.clear()
        tail = Tail(bus, "LOG", filters, lambda _, body, __: again.append(body), start_seq=start)
        async with tail.run():
            await bus.flush()
        assert again == wanted


async def test_all_goes_on_when_the_server_is_killed(server: Server, bus: Bus) -> None:
    await ensure_consumer(bus, CONSUMER)
    seen: list[bytes] = []
    async with AsyncExitStack() as stack:
        taken = await pulling(stack, bus)
        tail = Tail(bus, "LOG", (LOG,), lambda _, body, __: seen.append(body), start_seq=None)
        await stack.enter_async_context(tail.run())
        first = await bus.append(LOG, b"1", expected_last=0)
        seq = await bus.append(EXEC, b"task")
        await taken.until(1)
        away = asyncio.Event()
        bus.on_reconnect(away.set)
        await server.kill()
        async with asyncio.timeout(10):
            await away.wait()
        with pytest.raises(Conflict):
            await bus.append(LOG, b"2", expected_last=0)
        await bus.append(LOG, b"2", expected_last=first)
        await taken.until(2)
        assert taken.told[1][0] == b"task"
        taken.all[1].ack()
        await bus.append(EXEC, b"next")
        await taken.until(3)
        assert taken.told[2][0] == b"next"
        async with asyncio.timeout(10):
            while seen != [b"1", b"2"]:
                await asyncio.sleep(0.05)
        assert await bus.at("EXEC", seq) is None


async def test_listeners_hear_what_streams_keep(server: Server, bus: Bus) -> None:
    heard: list[bytes] = []

    async def on_message(body: bytes) -> None:
        heard.append(body)

    async with server.connected() as other:
        end = await other.listen("mesh.v1.event.default.graph.t.*", on_message)
        await other.flush()
        await bus.append("mesh.v1.event.default.graph.t.r", b"1")
        bus.send("mesh.v1.event.default.graph.t.r", b"2")
        await bus.flush()
        await other.flush()
        assert heard == [b"1", b"2"]
        await end()
        await other.flush()
        await bus.append("mesh.v1.event.default.graph.t.r", b"3")
        await other.flush()
    assert heard == [b"1", b"2"]
    assert [message.body for message in (await read_page(bus, "EVENT", "mesh.v1.event.>"))[0]] == [
        b"1",
        b"2",
        b"3",
    ]
