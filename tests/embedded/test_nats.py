from __future__ import annotations

import asyncio
import json
import os
import signal
import socket

import nats
import pytest

from langmesh.embedded.nats import SERVER_NAME, EmbeddedNats
from langmesh.embedded.process import Guard
from langmesh.errors import ErrorCode, MeshError
from tests.embedded.conftest import alive


@pytest.fixture
async def server(guard, tmp_path):
    server = EmbeddedNats(tmp_path / "nats", tmp_path / "nats.log", guard=guard)
    await server.start()
    return server


async def monitor(server, page):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.monitor_port)
    writer.write(f"GET {page} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def test_is_ready_with_jetstream_on_kernel_picked_loopback_ports(server):
    client = await nats.connect(server.url, allow_reconnect=False)
    assert await client.jetstream().account_info()
    await client.close()
    about = await monitor(server, "/varz")
    assert about["server_name"] == SERVER_NAME
    assert about["host"] == about["http_host"] == "127.0.0.1"
    assert about["port"] == server.port
    assert about["jetstream"]["config"]["store_dir"].startswith(str(server.data_dir))
    assert server.monitor_url == f"http://127.0.0.1:{server.monitor_port}"
    assert 0 not in {server.port, server.monitor_port}


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_restart_keeps_ports_and_streams(server, orderly):
    client = await nats.connect(server.url, allow_reconnect=False)
    stream = client.jetstream()
    await stream.add_stream(name="S", subjects=["s.>"])
    for n in range(100):
        await stream.publish("s.x", b"%d" % n)
    await client.close()
    before = server.pid, server.url, server.monitor_url

    await (server.stop() if orderly else server.kill())
    assert not server.running
    assert not alive(before[0])
    await server.start()

    assert (server.url, server.monitor_url) == before[1:]
    assert server.pid != before[0]
    client = await nats.connect(server.url, allow_reconnect=False)
    kept = await client.jetstream().get_msg("S", seq=100)
    assert kept.data == b"99"
    await client.close()


@pytest.mark.parametrize("always", [True, False])
async def test_the_power_loss_profile_syncs_every_message(guard, tmp_path, always):
    server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard, sync_always=always)
    await server.start()
    config = (await monitor(server, "/jsz"))["config"]
    assert config.get("sync_always", False) is always


async def test_a_given_port_is_used(guard, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard, port=port)
    await server.start()
    assert server.url == f"nats://127.0.0.1:{port}"


async def test_a_taken_port_is_named(guard, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard, port=port)
        with pytest.raises(MeshError, match=rf"port {port}\b") as caught:
            await server.start()
    assert caught.value.code is ErrorCode.PORT_IN_USE
    assert not server.running
    await server.start()
    assert server.port == port


async def test_a_failed_start_shows_the_log(guard, tmp_path):
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("in the way")
    server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard)
    with pytest.raises(MeshError, match=r"(?s)ended with status.*not a directory") as caught:
        await server.start()
    assert caught.value.code is ErrorCode.SERVER_START_FAILED
    assert str(tmp_path / "log") in caught.value.remedy
    assert guard.children == []


async def test_a_server_that_never_gets_ready_is_given_up(guard, tmp_path, monkeypatch):
    monkeypatch.setattr("langmesh.embedded.server.READY_WITHIN_S", 0.05)
    server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard)
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    (child,) = guard.children
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(MeshError, match=r"was not ready in 0\.05 s") as caught:
        await start
    assert caught.value.code is ErrorCode.SERVER_START_FAILED
    assert child.returncode == -signal.SIGKILL


class _NeverReady(EmbeddedNats):
    """The server, whose start can be cancelled however soon it serves."""

    async def _until_ready(self, child):
        await asyncio.Event().wait()


async def test_a_cancelled_start_leaves_no_process(tmp_path):
    async with Guard() as guard:
        server = _NeverReady(tmp_path / "nats", tmp_path / "log", guard=guard)
        start = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        (child,) = guard.children
        start.cancel()
        await asyncio.wait({start})
        assert start.cancelled()
        assert await child.wait() == -signal.SIGKILL


async def test_misuse_is_refused(server):
    with pytest.raises(MeshError) as caught:
        await server.start()
    assert caught.value.code is ErrorCode.ALREADY_RUNNING
    await server.stop()
    await server.stop()
    await server.kill()
    for use in (server.pause, server.resume, lambda: server.pid):
        with pytest.raises(MeshError) as caught:
            use()
        assert caught.value.code is ErrorCode.NOT_RUNNING


async def test_a_paused_server_answers_when_it_is_resumed(server):
    server.pause()
    # A signal is sent, not delivered, when the call returns.
    await asyncio.to_thread(os.waitid, os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    greeting = asyncio.create_task(reader.readline())
    done, _ = await asyncio.wait({greeting}, timeout=0.1)
    assert not done
    server.resume()
    assert (await greeting).startswith(b"INFO ")
    writer.close()


async def test_folders_with_unusual_names(guard, tmp_path):
    home = tmp_path / 'a "quoted" naïve\\path'
    server = EmbeddedNats(home, tmp_path / "log", guard=guard)
    await server.start()
    assert (home / "jetstream").is_dir()
    assert os.listdir(home / "ports")
