import asyncio
import sys
from pathlib import Path

import grpc
import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import etcd as etcd_module
from langmesh.registry.etcd import Etcd, delete_op, get_op, mod_is, put_op
from langmesh.registry.transport import HistoryLost


async def test_put_get_and_delete(etcd):
    assert await etcd.get("/a") is None
    revision = await etcd.put("/a", b"\x00one")
    entry = await etcd.get("/a")
    assert (entry.key, entry.value, entry.lease) == ("/a", b"\x00one", 0)
    assert entry.mod_revision == entry.create_revision == revision
    assert await etcd.put("/a", b"two") == revision + 1
    entry = await etcd.get("/a")
    assert (entry.create_revision, entry.mod_revision) == (revision, revision + 1)
    assert (await etcd.get("/a", revision=revision)).value == b"\x00one"
    assert await etcd.delete("/a") is True
    assert await etcd.delete("/a") is False
    assert await etcd.get("/a") is None


async def test_delete_prefix_spares_the_neighbours(etcd):
    for key in ("/p/1", "/p/2", "/p", "/q/1", "/p0"):
        await etcd.put(key, b"")
    assert await etcd.delete_prefix("/p/") == 2
    assert sorted((await etcd.list("/")).entries) == ["/p", "/p0", "/q/1"]
    with pytest.raises(ValueError, match="empty"):
        await etcd.delete_prefix("")


async def test_list_reads_all_pages_at_one_revision(etcd, monkeypatch):
    monkeypatch.setattr(etcd_module, "PAGE_KEYS", 7)
    keys = [f"/many/{n:03}" for n in range(60)]
    for key in keys:
        revision = await etcd.put(key, key.encode())
    await etcd.put("/other", b"")

    call, pages = etcd.transport.call, 0

    async def call_and_write(method, request, what, **options):
        nonlocal pages
        answer = await call(method, request, what, **options)
        if what.startswith("list"):
            pages += 1
            await etcd.put(f"/many/{pages:03}", b"written between two pages")
        return answer

    monkeypatch.setattr(etcd.transport, "call", call_and_write)
    snapshot = await etcd.list("/many/")
    assert pages == 9
    assert snapshot.revision == revision + 1
    assert {key: entry.value.decode() for key, entry in snapshot.entries.items()} == {
        key: key for key in keys
    }


async def test_list_starts_again_when_its_revision_is_compacted(etcd, server, monkeypatch):
    monkeypatch.setattr(etcd_module, "PAGE_KEYS", 5)
    for n in range(12):
        await etcd.put(f"/many/{n:03}", b"old")
    call, compacted = etcd.transport.call, False

    async def call_and_compact(method, request, what, **options):
        nonlocal compacted
        answer = await call(method, request, what, **options)
        if what.startswith("list") and not compacted:
            compacted = True
            latest = await etcd.put("/many/000", b"new")
            await server.ctl("compact", str(latest))
        return answer

    monkeypatch.setattr(etcd.transport, "call", call_and_compact)
    snapshot = await etcd.list("/many/")
    assert len(snapshot.entries) == 12
    assert snapshot.entries["/many/000"].value == b"new"


async def test_list_of_more_than_a_message_holds(etcd):
    for n in range(70):
        await etcd.put(f"/big/{n:03}", b"x" * 1_000_000)
    snapshot = await etcd.list("/big/")
    assert sum(len(entry.value) for entry in snapshot.entries.values()) == 70_000_000


async def test_compare_and_put_lets_one_of_two_through(etcd):
    assert await etcd.compare_and_put("/c", b"first", 0) == (
        True,
        (await etcd.get("/c")).mod_revision,
    )
    revision = (await etcd.get("/c")).mod_revision
    results = await asyncio.gather(
        etcd.compare_and_put("/c", b"left", revision),
        etcd.compare_and_put("/c", b"right", revision),
    )
    assert sorted(won for won, _ in results) == [False, True]
    # Both learn the revision to try again with.
    assert {now for _, now in results} == {(await etcd.get("/c")).mod_revision}
    assert await etcd.compare_and_put("/c", b"other", 0) == (False, results[0][1])
    assert await etcd.compare_and_put("/absent", b"x", 12345) == (False, 0)
    assert await etcd.get("/absent") is None


async def test_equal_value_of_someone_else_is_a_conflict(etcd):
    assert (await etcd.compare_and_put("/c", b"same", 0))[0] is True
    assert (await etcd.compare_and_put("/c", b"same", 0))[0] is False


async def test_compare_and_put_answers_across_a_restart(etcd, server):
    revision = await etcd.put("/c", b"0")
    restart = asyncio.create_task(server.restart())
    for n in range(200):
        won, revision = await etcd.compare_and_put("/c", b"%d" % (n + 1), revision)
        assert won
    await restart
    assert (await etcd.get("/c")).value == b"200"


async def test_transaction(etcd):
    await etcd.put("/t/a", b"1")
    missed = await etcd.txn(
        [mod_is("/t/b", 7)], [put_op("/t/c", b"")], [get_op("/t/a"), get_op("/t/b")]
    )
    assert not missed.succeeded
    assert [entry and entry.value for entry in missed.reads] == [b"1", None]
    done = await etcd.txn([mod_is("/t/b", 0)], [put_op("/t/b", b"2"), delete_op("/t/a")])
    assert done.succeeded
    snapshot = await etcd.list("/t/")
    assert list(snapshot.entries) == ["/t/b"]
    assert snapshot.entries["/t/b"].mod_revision == done.revision


async def test_past_and_future_that_etcd_does_not_have(etcd, server):
    first = await etcd.put("/h", b"1")
    latest = await etcd.put("/h", b"2")
    await server.ctl("compact", str(latest))
    for revision in (first, latest + 1000):
        with pytest.raises(HistoryLost) as caught:
            await etcd.get("/h", revision=revision)
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED


async def test_refusals_carry_etcds_reason_and_the_endpoint(etcd, server):
    with pytest.raises(MeshError, match="requested lease not found") as caught:
        await etcd.put("/x", b"", lease=12345)
    assert caught.value.code is ErrorCode.REGISTRY_REJECTED
    assert server.endpoint in caught.value.message
    assert "put /x" in caught.value.message
    with pytest.raises(MeshError, match="too large") as caught:
        await etcd.put("/x", b"x" * 2_000_000)
    assert caught.value.code is ErrorCode.REGISTRY_REJECTED


async def test_nobody_listens(server):
    server.kill()
    async with Etcd([server.endpoint], timeout_s=0.3) as etcd:
        for request in (etcd.put("/x", b""), etcd.get("/x"), etcd.grant(4)):
            with pytest.raises(MeshError) as caught:
                await request
            assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE
            assert caught.value.retryable
            assert server.endpoint in caught.value.message


async def test_a_hung_server_does_not_hang_the_caller(etcd, server):
    await etcd.put("/x", b"")
    server.pause()
    with pytest.raises(MeshError) as caught:
        await etcd.get("/x")
    assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE
    server.resume()
    assert await etcd.get("/x") is not None


async def test_a_client_that_is_not_open(server):
    etcd = Etcd([server.endpoint])
    with pytest.raises(MeshError, match="not open"):
        await etcd.get("/x")
    async with etcd:
        assert await etcd.get("/x") is None
    with pytest.raises(MeshError, match="not open"):
        await etcd.get("/x")


async def test_names_and_several_endpoints(server, launch):
    gone = await launch()
    gone.kill()
    for endpoints in (
        [f"localhost:{server.port}"],
        [gone.endpoint, server.endpoint],
        [gone.endpoint, f"localhost:{server.port}"],
    ):
        async with Etcd(endpoints) as etcd:
            await etcd.put("/x", b"")
    with pytest.raises(MeshError, match="does not resolve") as caught:
        await Etcd([server.endpoint, "no-such-host.invalid:2379"]).__aenter__()
    assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE


async def test_login_survives_a_restart_that_forgets_tokens(server):
    for command in ("user add root:secret", "user grant-role root root", "auth enable"):
        await server.ctl(*command.split())
    async with Etcd([server.endpoint], user="root", password="secret") as etcd:
        await etcd.put("/x", b"1")
        await server.restart()
        lease = await etcd.grant(10)
        assert await etcd.keep_alive(lease, timeout_s=3) == 10
        assert (await etcd.get("/x")).value == b"1"
    async with Etcd([server.endpoint], user="root", password="wrong") as etcd:
        with pytest.raises(MeshError, match="authentication failed") as caught:
            await etcd.get("/x")
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED
    async with Etcd([server.endpoint]) as etcd:
        with pytest.raises(MeshError) as caught:
            await etcd.get("/x")
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED


async def test_tls(launch):
    server = await launch("--auto-tls", scheme="https")
    certificate = (server.folder / "data/fixtures/client/cert.pem").read_bytes()
    async with Etcd([server.endpoint], tls=grpc.ssl_channel_credentials(certificate)) as etcd:
        await etcd.put("/x", b"1")
        assert (await etcd.get("/x")).value == b"1"


async def test_programs_can_be_started_beside_an_open_client(server):
    spawner = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "faulthandler", Path(__file__).with_name("spawner.py")),
        server.endpoint,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await spawner.communicate()
    assert (spawner.returncode, out, err) == (0, b"{0: 200}\n", b"")
