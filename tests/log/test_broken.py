"""Damage to a chain is noticed, named, and never built upon."""

from __future__ import annotations

import msgspec
import pytest

from langmesh.bus import Bus, connect
from langmesh.embedded.nats import EmbeddedNats
from langmesh.errors import ErrorCode
from langmesh.log import BrokenChain
from langmesh.wire.log import BaseRecord
from tests.log.kit import bodies, chain_of, checkpoint, logs_on, replace_chain, state_of

CHAIN = chain_of("t")
ENTRIES = 5


@pytest.fixture
async def stored(bus: Bus) -> list[bytes]:
    """The bodies of a sound chain."""
    log = logs_on(bus).own("t")
    for n in range(ENTRIES):
        await log.append([checkpoint(f"c{n}")])
    return [body for _, body in await bodies(bus, CHAIN)]


async def broken_at(bus: Bus, thread: str = "t") -> int:
    """The number of the entry where a chain is broken, as everybody is told."""
    with pytest.raises(BrokenChain) as refusal:
        await logs_on(bus).shared(thread).load()
    problem = refusal.value
    assert problem.code is ErrorCode.BROKEN_CHAIN
    assert f"thread {thread!r}" in problem.message
    assert f"entry {problem.number} at sequence {problem.seq}" in problem.message
    return problem.number


@pytest.mark.parametrize("place", [1, 30, 90, 150, -1])
async def test_a_flipped_byte(bus: Bus, stored: list[bytes], place: int):
    changed = bytearray(stored[2])
    changed[place] ^= 0x40
    await replace_chain(bus, CHAIN, [*stored[:2], bytes(changed), *stored[3:]])
    assert await broken_at(bus) in (3, 4), "itself unreadable, or not what its successor names"


@pytest.mark.parametrize("missing", range(ENTRIES - 1))
async def test_a_message_that_is_gone(bus: Bus, stored: list[bytes], missing: int):
    seqs = [seq for seq, _ in await bodies(bus, CHAIN)]
    await bus.delete("LOG", seqs[missing])
    assert await broken_at(bus) == missing + 1


async def test_messages_in_another_order(bus: Bus, stored: list[bytes]):
    await replace_chain(bus, CHAIN, [stored[0], stored[2], stored[1], *stored[3:]])
    assert await broken_at(bus) == 2


async def test_a_message_twice(bus: Bus, stored: list[bytes]):
    await replace_chain(bus, CHAIN, [*stored[:3], stored[2], *stored[3:]])
    assert await broken_at(bus) == 4


async def test_a_message_of_another_history(bus: Bus, stored: list[bytes]):
    log = logs_on(bus).own("u")
    await log.append([checkpoint("c0")])
    await log.append([checkpoint("forged")])
    other = [body for _, body in await bodies(bus, chain_of("u"))]
    named = msgspec.msgpack.encode({**msgspec.msgpack.decode(other[1]), "thread": "t"})
    await replace_chain(bus, CHAIN, [stored[0], named, *stored[2:]])
    assert await broken_at(bus) == 2


async def test_a_chain_that_was_carried_to_another_thread(bus: Bus, stored: list[bytes]):
    await replace_chain(bus, chain_of("u"), stored)
    assert await broken_at(bus, "u") == 1
    renamed = [
        msgspec.msgpack.encode({**msgspec.msgpack.decode(body), "thread": "u"}) for body in stored
    ]
    await replace_chain(bus, chain_of("u"), renamed[:1])
    assert await broken_at(bus, "u") == 1, "the first digest is of the subject"


async def test_a_chain_that_does_not_begin(bus: Bus, stored: list[bytes]):
    await replace_chain(bus, CHAIN, stored[1:])
    assert await broken_at(bus) == 1


async def test_a_base_in_the_middle_does_not_mend_a_gap(bus: Bus, stored: list[bytes]):
    log = logs_on(bus).own("t")
    await log.load()
    await log.append_nowait([BaseRecord(pruned=ENTRIES)], after=log.tail)
    seqs = [seq for seq, _ in await bodies(bus, CHAIN)]
    await bus.delete("LOG", seqs[3])
    assert await broken_at(bus) == 4
    for seq in seqs[:-1]:
        await bus.delete("LOG", seq)
    assert not (await state_of(bus, CHAIN)).checkpoints, "it may begin a chain"


async def test_foreign_bodies(bus: Bus):
    for number, body in enumerate((b"", b"{}", b"\x80", b"\xc1", bytes(100)), start=1):
        thread = f"t{number}"
        await bus.append(chain_of(thread).subject, body)
        assert await broken_at(bus, thread) == 1


async def test_a_server_that_forgot_acknowledged_entries(
    server: EmbeddedNats, bus: Bus, stored: list[bytes]
):
    log = logs_on(bus).shared("t")
    await log.load()
    seqs = [seq for seq, _ in await bodies(bus, CHAIN)]
    await bus.delete("LOG", seqs[-1])
    with pytest.raises(BrokenChain, match="acknowledged, and is gone") as refusal:
        await log.refresh()
    assert refusal.value.number == ENTRIES


async def test_a_server_that_forgot_entries_and_took_others(
    server: EmbeddedNats, bus: Bus, stored: list[bytes]
):
    async with connect(server.url, name="other") as elsewhere:
        log = logs_on(bus).shared("t")
        await log.load()
        seqs = [seq for seq, _ in await bodies(bus, CHAIN)]
        for seq in seqs[-2:]:
            await bus.delete("LOG", seq)
        await logs_on(elsewhere).shared("t").append([checkpoint("other")])
        with pytest.raises(BrokenChain, match="acknowledged, and is gone"):
            await log.append([checkpoint("c5")])
