import asyncio

import msgspec
import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd
from langmesh.registry.view import View
from langmesh.wire.codec import decode_json

PREFIX = "/v/"


class Document(msgspec.Struct, frozen=True):
    n: int


def decode(key: str, value: bytes) -> int:
    return decode_json(Document, value).n


async def test_a_view_follows_its_prefix(etcd):
    await etcd.put("/v/a", b'{"n": 1}')
    await etcd.put("/other", b'{"n": 1}')
    view = View(etcd, PREFIX, decode)
    assert (view.ready, view.revision, dict(view.items)) == (False, 0, {})
    async with view:
        await view.wait_ready()
        assert view.items == {"a": 1}
        assert view.revision == (await etcd.list(PREFIX)).revision
        revision = await etcd.put("/v/b/c", b'{"n": 2}')
        await view.wait_for(lambda items: "b/c" in items, timeout_s=30)
        assert view.items == {"a": 1, "b/c": 2}
        assert view.revision == revision
        await etcd.delete("/v/a")
        await view.wait_for(lambda items: items == {"b/c": 2}, timeout_s=30)
        with pytest.raises(TypeError):
            view.items["x"] = 1
        with pytest.raises(MeshError) as caught:
            await view.wait_for(lambda items: "never" in items, timeout_s=0.1)
        assert caught.value.code is ErrorCode.TIMED_OUT


async def test_a_bad_document_is_rejected_and_the_old_value_kept(etcd, caplog):
    await etcd.put("/v/bad-from-the-start", b"{")
    async with View(etcd, PREFIX, decode) as view:
        await etcd.put("/v/a", b'{"n": 1}')
        await view.wait_for(lambda items: "a" in items, timeout_s=30)
        await etcd.put("/v/a", b'{"n": "many"}')
        await etcd.put("/v/b", b'{"n": 2}')
        await view.wait_for(lambda items: "b" in items, timeout_s=30)
        assert view.items == {"a": 1, "b": 2}
        assert set(view.rejected) == {"bad-from-the-start", "a"}
        assert view.rejected["a"].startswith("n: Expected `int`")
        assert "/v/a" in caplog.text
        assert "its value from before stays" in caplog.text
        await etcd.put("/v/a", b'{"n": 3}')
        await etcd.delete("/v/bad-from-the-start")
        await view.wait_for(lambda items: items["a"] == 3 and not view.rejected, timeout_s=30)


async def test_faults_of_decoders_and_subscribers_do_not_stop_a_view(etcd, caplog):
    def faulty(key: str, value: bytes) -> int:
        return int({"a": 1}[key])

    calls = []

    def subscriber() -> None:
        calls.append(view.revision)
        raise RuntimeError("subscriber's fault")

    async with View(etcd, PREFIX, faulty) as view:
        await view.wait_ready()
        unsubscribe = view.subscribe(subscriber)
        await etcd.put("/v/x", b"")
        revision = await etcd.put("/v/a", b"")
        await view.wait_for(lambda items: items == {"a": 1}, timeout_s=30)
        assert calls[-1] == revision
        assert view.rejected == {"x": "KeyError: 'x'"}
        assert "subscriber's fault" in caplog.text
        unsubscribe()
        unsubscribe()
        calls.clear()
        await etcd.delete("/v/a")
        await view.wait_for(lambda items: not items, timeout_s=30)
        assert calls == []


async def test_a_view_keeps_its_contents_while_etcd_is_away(etcd, server):
    await etcd.put("/v/a", b'{"n": 1}')
    async with View(etcd, PREFIX, decode) as view:
        await view.wait_ready()
        server.kill()
        with pytest.raises(MeshError):
            await etcd.put("/v/a", b'{"n": 2}')
        assert view.items == {"a": 1}
        await server.start()
        await etcd.put("/v/a", b'{"n": 2}')
        await view.wait_for(lambda items: items == {"a": 2}, timeout_s=30)


async def test_a_view_forgets_what_a_wiped_store_lost(etcd, server):
    await etcd.put("/v/a", b'{"n": 1}')
    await etcd.put("/v/b", b'{"n": 1}')
    async with View(etcd, PREFIX, decode) as view:
        await view.wait_ready()
        await server.wipe()
        await etcd.put("/v/b", b'{"n": 2}')
        await view.wait_for(lambda items: items == {"b": 2}, timeout_s=30)


async def test_a_key_that_comes_back_within_its_grace_never_goes(etcd):
    await etcd.put("/v/a", b'{"n": 1}')
    seen = []
    async with View(etcd, PREFIX, decode, grace_s=2.0) as view:
        await view.wait_ready()
        view.subscribe(lambda: seen.append(dict(view.items)))
        await etcd.delete("/v/a")
        await etcd.put("/v/a", b'{"n": 2}')
        await view.wait_for(lambda items: items == {"a": 2}, timeout_s=30)
        assert {} not in seen
        revision = await etcd.put("/v/b", b'{"n": 3}')
        await etcd.delete("/v/a")
        await view.wait_for(lambda items: view.revision > revision, timeout_s=30)
        assert view.items == {"a": 2, "b": 3}
        await view.wait_for(lambda items: items == {"b": 3}, timeout_s=30)


async def test_a_view_waits_for_etcd_to_start(server):
    server.kill()
    async with Etcd([server.endpoint]) as etcd, View(etcd, PREFIX, decode) as view:
        with pytest.raises(MeshError) as caught:
            await view.wait_ready(0.2)
        assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE
        assert server.endpoint in caught.value.message
        await server.start()
        await view.wait_ready(30)


async def test_many_views_in_one_client(etcd):
    views = [View(etcd, f"/v/{n}/", decode) for n in range(20)]
    async with asyncio.TaskGroup() as group:
        for view in views:
            group.create_task(view.__aenter__())
    try:
        for n, view in enumerate(views):
            await etcd.put(f"/v/{n}/x", b'{"n": %d}' % n)
            await view.wait_for(bool, timeout_s=30)
            assert view.items == {"x": n}
    finally:
        for view in views:
            await view.__aexit__(None, None, None)
