from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from langmesh.embedded.servers import embedded_servers
from langmesh.errors import ErrorCode, MeshError
from tests.embedded.conftest import alive, eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def supervisor(tmp_path):
    """Start supervisors of `tmp_path`; each is the process and the pids that it started."""
    processes = []

    async def start(*args):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("supervisor.py")),
            str(tmp_path),
            *args,
            env={**os.environ, "PYTHONPATH": str(ROOT / "shared")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        processes.append(process)
        started = json.loads(await process.stdout.readline())
        assert all(alive(pid) for pid in started["pids"])
        return process, started["pids"]

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_both_start_in_the_home_folder(tmp_path):
    home = tmp_path / "deep" / "home"
    began = time.perf_counter()
    async with embedded_servers(home) as servers:
        print(f"both ready after {1e3 * (time.perf_counter() - began):.0f} ms")
        assert servers.nats_url == servers.nats.url
        assert servers.etcd_endpoints == (servers.etcd.endpoint,)
        pids = [servers.nats.pid, servers.etcd.pid, servers.guard.pid]
        assert (home / "lock").read_text() == f"{os.getpid()}\n"
    assert not any(map(alive, pids))
    assert sorted(p.name for p in home.iterdir()) == ["etcd", "lock", "logs", "nats"]
    assert sorted(p.name for p in (home / "logs").iterdir()) == ["etcd.log", "nats-server.log"]


async def test_existing_servers_are_used(tmp_path):
    async with (
        embedded_servers(tmp_path / "a") as first,
        embedded_servers(
            tmp_path / "b", nats_url=first.nats_url, etcd_endpoints=list(first.etcd_endpoints)
        ) as second,
    ):
        assert (second.nats, second.etcd) == (None, None)
        assert (second.nats_url, second.etcd_endpoints) == (first.nats_url, first.etcd_endpoints)
        assert second.guard.children == []
    async with embedded_servers(tmp_path / "b", nats_url="nats://elsewhere:4222") as servers:
        assert servers.nats is None
        assert servers.nats_url == "nats://elsewhere:4222"
        assert servers.etcd.running


async def test_one_that_fails_stops_the_other(tmp_path):
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd" / "member.etcd").write_text("in the way")
    with pytest.raises(MeshError) as caught:
        async with embedded_servers(tmp_path):
            pytest.fail("started without etcd")
    assert caught.value.code is ErrorCode.SERVER_START_FAILED
    (tmp_path / "etcd" / "member.etcd").unlink()
    async with embedded_servers(tmp_path):
        pass


async def test_a_home_in_use_is_refused(tmp_path, supervisor):
    process, _ = await supervisor()
    with pytest.raises(MeshError, match=str(process.pid)) as caught:
        async with embedded_servers(tmp_path):
            pytest.fail("two supervisors in one home")
    assert caught.value.code is ErrorCode.ALREADY_RUNNING


async def test_a_killed_supervisor_leaves_no_orphan(supervisor):
    process, pids = await supervisor()
    process.kill()
    await process.wait()
    await eventually(lambda: not any(map(alive, pids)))


async def test_a_killed_supervisor_can_be_replaced_at_once(tmp_path, supervisor):
    process, pids = await supervisor()
    process.kill()
    await process.wait()
    async with embedded_servers(tmp_path):
        assert not any(map(alive, pids))


async def test_a_killed_supervisor_leaves_no_temporary_home(tmp_path, supervisor):
    process, pids = await supervisor("temporary")
    process.kill()
    await eventually(lambda: not any(map(alive, pids)))
    assert not tmp_path.exists()
    tmp_path.mkdir()


async def test_ctrl_c_stops_everything_orderly(tmp_path, supervisor):
    process, pids = await supervisor()
    # As a terminal does it: to the whole foreground group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode != 0
    assert errors.rstrip().endswith(b"KeyboardInterrupt")
    assert not any(map(alive, pids))
    assert "Server Exiting" in (tmp_path / "logs" / "nats-server.log").read_text()
