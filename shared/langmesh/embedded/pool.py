"""A private pair of servers for one test."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from langmesh.embedded.servers import Servers, embedded_servers


@asynccontextmanager
async def lease_servers() -> AsyncIterator[Servers]:
    """Lend a nats-server and an etcd that nobody else uses, with no state.

    Each lease starts its own pair, which takes some 100 ms: nothing that a test before has broken
    is handed on, and nothing is bound to an event loop.
    The servers and their folder are gone after the context, also when this process is killed.

    Raises:
        MeshError: As :func:`~langmesh.embedded.servers.embedded_servers`.
    """
    home = Path(tempfile.mkdtemp(prefix="langmesh-"))
    async with embedded_servers(home, temporary=True) as servers:
        yield servers
