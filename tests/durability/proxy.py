"""A TCP proxy before nats-server that loses what goes back, and cuts frames."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Proxy:
    """Hands bytes on, until it is told to harm.

    Args:
        target: ``nats://HOST:PORT`` of the server.
        chance: Where frames are cut.
    """

    def __init__(self, target: str, chance: random.Random) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._chance = chance
        self._writers: set[asyncio.StreamWriter] = set()
        self._deaf = False
        self._cutting = False
        self._server: asyncio.Server | None = None
        self.harmed = 0
        """How many connections it has ended."""

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Proxy]:
        """Hand on while the block runs."""
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            self._end_all()

    async def lose_answers(self, seconds: float) -> None:
        """Let what clients send arrive and nothing come back, then end all connections."""
        self._deaf = True
        try:
            await asyncio.sleep(seconds)
        finally:
            # Also where it is called off: a connection that lost bytes is of no use any more.
            self._end_all()
            self._deaf = False

    async def cut(self) -> None:
        """End each connection in the middle of what goes by next."""
        self._cutting = True
        try:
            await asyncio.sleep(0.2)
        finally:
            self._cutting = False

    def _end_all(self) -> None:
        self.harmed += len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()

    async def _on_client(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
        except OSError:
            to_client.transport.abort()
            return
        self._writers |= {to_client, to_server}
        ways = [
            asyncio.create_task(self._hand_on(from_client, to_server, back=False)),
            asyncio.create_task(self._hand_on(from_server, to_client, back=True)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for writer in (to_client, to_server):
            self._writers.discard(writer)
            writer.transport.abort()

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(64 * 1024):
                if self._cutting and len(chunk) > 1:
                    writer.write(chunk[: self._chance.randrange(1, len(chunk))])
                    await writer.drain()
                    self.harmed += 1
                    return
                if not (back and self._deaf):
                    writer.write(chunk)
                    await writer.drain()
