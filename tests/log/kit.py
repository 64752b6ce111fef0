"""Records to append, a look at the stream, and a network that loses acknowledgements."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from langmesh.bus import Bus
from langmesh.log import Chain, Logs, ThreadState
from langmesh.log.chain import empty, verify
from langmesh.log.scan import Known, messages, scan
from langmesh.wire import subjects
from langmesh.wire.log import ChannelWrite, CheckpointRecord, Entry, WritesRecord
from langmesh.wire.messages import Value
from langmesh.wire.names import partition

_ACKNOWLEDGED = re.compile(rb'{"stream":\s*"LOG",.*"seq":')
VALUE = Value("msgpack", b"\x01")


def chain_of(thread: str, namespace: str = "", tenant: str = "default") -> Chain:
    subject = subjects.log(partition(tenant, thread), tenant, thread, namespace)
    return Chain(subject, thread, namespace)


def logs_on(bus: Bus, *, writer: str = "w", patience_s: float = 30.0, **options) -> Logs:
    return Logs(bus, tenant="default", writer=writer, patience_s=patience_s, **options)


def checkpoint(name: str, parent: str = "") -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint_id=name, parent_id=parent, checkpoint=VALUE, metadata=VALUE, versions={"a": 1}
    )


def writes(task: str, *values: bytes, checkpoint_id: str = "c", index: int = 0) -> WritesRecord:
    return WritesRecord(
        checkpoint_id=checkpoint_id,
        task_id=task,
        writes=[
            ChannelWrite(index + place, "a", Value("bytes", value))
            for place, value in enumerate(values)
        ],
    )


async def bodies(bus: Bus, chain: Chain) -> list[tuple[int, bytes]]:
    """The messages of a chain as (stream sequence, body)."""
    return [one async for one in messages(bus, chain, after_seq=0, patience_s=5)]


async def entries(bus: Bus, chain: Chain) -> list[Entry]:
    """The entries of a whole chain, which must hold together from entry 1 on."""
    tail, found = empty(chain), []
    for seq, body in await bodies(bus, chain):
        link = verify(chain, tail, seq, body)
        tail = link.tail
        found.append(link.entry)
    return found


async def state_of(bus: Bus, chain: Chain) -> ThreadState:
    """The fold of a chain as somebody who knows nothing of it reads it."""
    values = logs_on(bus).values
    return (await scan(bus, values, chain, Known(empty(chain)), patience_s=5)).state


async def replace_chain(bus: Bus, chain: Chain, new: list[bytes]) -> None:
    """Write other messages in place of a chain's, as nobody may."""
    await bus.api("STREAM.PURGE.LOG", {"filter": chain.subject})
    for body in new:
        await bus.append(chain.subject, body)


@dataclass
class Proxy:
    """A network between client and server that can lose the server's acknowledgements.

    Attributes:
        url: Where clients connect.
        drop: How many acknowledgements of stores are still to be lost.
        dropped: Set when one was.
    """

    url: str = ""
    drop: int = 0
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def pass_on(self, data: bytes) -> bytes:
        """What the client gets of some whole frames from the server."""
        kept = bytearray()
        while data:
            frame, data = _frame(data)
            if self.drop and _ACKNOWLEDGED.search(frame):
                self.drop -= 1
                self.dropped.set()
            else:
                kept += frame
        return bytes(kept)


def _frame(data: bytes) -> tuple[bytes, bytes]:
    """The first protocol frame and the rest; an incomplete one is returned whole."""
    line, found, _ = data.partition(b"\r\n")
    size = len(line) + len(found)
    if line.startswith((b"MSG", b"HMSG")):
        size += int(re.findall(rb"\d+", line)[-1]) + 2
    return data[:size], data[size:]


def _is_whole(data: bytes) -> bool:
    while data:
        line, found, _ = data.partition(b"\r\n")
        size = len(line) + len(found)
        if line.startswith((b"MSG", b"HMSG")):
            size += int(re.findall(rb"\d+", line)[-1]) + 2
        if not found or len(data) < size:
            return False
        data = data[size:]
    return True


@asynccontextmanager
async def proxy_before(url: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a nats-server."""
    proxy, place = Proxy(), urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()

    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                rest += data
                if _is_whole(rest):
                    writer.write(proxy.pass_on(rest))
                    rest = b""
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(place.hostname, place.port)
        for work in (up(reader, other_writer), down(other_reader, writer)):
            task = asyncio.get_running_loop().create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"nats://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
