from __future__ import annotations

import asyncio
import base64
import json
import socket

import pytest

from langmesh.embedded import etcd
from langmesh.embedded.etcd import EmbeddedEtcd
from langmesh.errors import ErrorCode, MeshError
from tests.embedded.conftest import alive


@pytest.fixture
async def server(guard, tmp_path):
    server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "etcd.log", guard=guard)
    await server.start()
    return server


async def call(server, path, body):
    """Ask etcd over its JSON gateway."""
    host, _, port = server.endpoint.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode()
    writer.write(
        b"POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data
    )
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b" 200 " in head.splitlines()[0], head
    return json.loads(answer)


def b64(text):
    return base64.b64encode(text.encode()).decode()


async def test_is_ready_on_a_kernel_picked_port(server):
    await call(server, "/v3/kv/put", {"key": b64("k"), "value": b64("v")})
    answer = await call(server, "/v3/kv/range", {"key": b64("k")})
    assert answer["kvs"][0]["value"] == b64("v")
    assert server.endpoint == f"127.0.0.1:{server.port}"
    assert server.port


async def test_the_pid_is_that_of_the_server_itself(server):
    server.pause()
    server.resume()
    pid = server.pid
    await server.kill()
    assert not alive(pid)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_restart_keeps_port_and_data(server, orderly):
    await call(server, "/v3/kv/put", {"key": b64("k"), "value": b64("v")})
    before = server.pid, server.endpoint
    await (server.stop() if orderly else server.kill())
    assert not server.running
    await server.start()
    assert server.endpoint == before[1]
    assert server.pid != before[0]
    answer = await call(server, "/v3/kv/range", {"key": b64("k")})
    assert answer["kvs"][0]["value"] == b64("v")


async def test_a_taken_port_is_named(guard, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "log", guard=guard, port=port)
        with pytest.raises(MeshError, match=rf"port {port}\b") as caught:
            await server.start()
    assert caught.value.code is ErrorCode.PORT_IN_USE
    await server.start()
    assert server.endpoint == f"127.0.0.1:{port}"


async def test_a_failed_start_shows_the_log(guard, tmp_path):
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd" / "member.etcd").write_text("in the way")
    server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "log", guard=guard)
    with pytest.raises(MeshError, match=r"(?s)ended with status.*not a directory") as caught:
        await server.start()
    assert caught.value.code is ErrorCode.SERVER_START_FAILED


async def test_members_advertise_the_port_they_serve(server):
    (member,) = (await call(server, "/v3/cluster/member/list", {}))["members"]
    assert member["clientURLs"] == [f"http://{server.endpoint}"]


async def test_a_port_that_is_snatched_away_is_chosen_anew(guard, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        choices = iter([taken.getsockname()[1], etcd._free_port()])
        monkeypatch.setattr(etcd, "_free_port", lambda: next(choices))
        server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "log", guard=guard)
        await server.start()
        assert server.port != taken.getsockname()[1]
    assert next(choices, None) is None


async def test_the_power_loss_profile_syncs(guard, tmp_path):
    server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "log", guard=guard, sync_always=True)
    await server.start()
    assert "--unsafe-no-fsync=false" in server._prepare()


async def test_options_in_the_environment_do_not_matter(guard, tmp_path, monkeypatch):
    monkeypatch.setenv("ETCD_NAME", "other")
    monkeypatch.setenv("ETCD_ENDPOINTS", "127.0.0.1:1")
    server = EmbeddedEtcd(tmp_path / "etcd", tmp_path / "log", guard=guard)
    await server.start()
    assert "ETCD_NAME" not in (tmp_path / "log").read_text()
