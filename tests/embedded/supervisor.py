"""A supervisor to be interrupted or killed: ``python supervisor.py HOME [temporary]``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from langmesh.embedded.servers import embedded_servers


async def main(home: Path, temporary: bool) -> None:
    async with embedded_servers(home, temporary=temporary) as servers:
        service = servers.guard.spawn(
            "service",
            [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"],
            log=home / "logs" / "service.log",
        )
        pids = [servers.nats.pid, servers.etcd.pid, service.pid, servers.guard.pid]
        print(json.dumps({"pids": pids, "nats_url": servers.nats_url}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:] == ["temporary"]))
