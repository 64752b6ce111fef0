import asyncio
import sys
import threading
import time
from pathlib import Path

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd, mod_is, put_op
from langmesh.registry.lease import Lease, Registration
from langmesh.registry.view import View

PREFIX = "/r/"
KEY = "/r/one"


def text(key: str, value: bytes) -> str:
    return value.decode()


@pytest.fixture
async def view(server):
    async with Etcd([server.endpoint]) as own, View(own, PREFIX, text) as view:
        await view.wait_ready()
        yield view


async def test_registration_is_seen_and_gone_at_once(etcd, view):
    async with Registration(etcd, {KEY: b"1", "/r/two": b"2"}) as registration:
        await view.wait_for(lambda items: items == {"one": "1", "two": "2"}, timeout_s=30)
        await registration.wait_up()
        assert registration.up
        first = await etcd.get(KEY)
        await registration.update(b"1b", key=KEY)
        await view.wait_for(lambda items: items["one"] == "1b", timeout_s=30)
        entry = await etcd.get(KEY)
        assert (entry.create_revision, entry.lease) == (first.create_revision, first.lease)
        for wrong in (None, "/r/three"):
            with pytest.raises(KeyError):
                await registration.update(b"", key=wrong)
    # Leaving returns after the keys are gone, so this needs no waiting.
    assert (await etcd.list(PREFIX)).entries == {}
    await view.wait_for(lambda items: not items, timeout_s=30)


async def stays(view, seconds: float) -> bool:
    """Whether a registration stays for so long, looked at up to five times.

    A machine that stands still for longer than a lease ends it, whoever renews it.
    """
    for _ in range(5):
        await view.wait_for(lambda items: "one" in items, timeout_s=30)
        try:
            await view.wait_for(lambda items: not items, timeout_s=seconds)
        except MeshError:
            return True
    return False


async def test_a_killed_process_is_gone_within_five_seconds(etcd, server, view):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        Path(__file__).with_name("registrant.py"),
        *(server.endpoint, KEY),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await process.stdout.readline() == b"registered\n"
        # Beyond the lifetime of an unrenewed lease, so that it is renewal that ends now.
        assert await stays(view, 6)
        process.kill()
        # etcd's clock judges, which a busy machine slows for both: what nobody renews for five
        # seconds from now on outlives what the process registered.
        await etcd.put("/r/five", b"", await etcd.grant(5))
        await view.wait_for(lambda items: "one" not in items, timeout_s=30)
        assert "five" in view.items
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_registration_lives_through_an_etcd_restart(etcd, server, view):
    async with Registration(etcd, {KEY: b"1"}) as registration:
        await registration.wait_up()
        await server.restart()
        await registration.update(b"2", timeout_s=30)
        await view.wait_for(lambda items: items == {"one": "2"}, timeout_s=30)
    assert await etcd.get(KEY) is None


async def test_registration_returns_after_a_long_outage(etcd, server, view):
    async with Registration(etcd, {KEY: b"1"}) as registration:
        await registration.wait_up()
        before = await etcd.get(KEY)
        server.kill()
        async with asyncio.timeout(30):
            while registration.up:
                await asyncio.sleep(0.05)
        with pytest.raises(MeshError) as caught:
            await registration.update(b"2", timeout_s=0.2)
        assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE
        assert server.endpoint in caught.value.message
        assert view.items == {"one": "1"}
        await server.start()
        await registration.wait_up(30)
        entry = await etcd.get(KEY)
        assert entry.value == b"2"
        assert entry.lease != before.lease
        await view.wait_for(lambda items: items == {"one": "2"}, timeout_s=30)


async def test_registration_returns_to_a_wiped_store(etcd, server, view):
    async with Registration(etcd, {KEY: b"1"}) as registration:
        await registration.wait_up()
        await server.wipe()
        async with asyncio.timeout(30):
            while await etcd.get(KEY) is None:
                await asyncio.sleep(0.05)
        await view.wait_for(lambda items: items == {"one": "1"}, timeout_s=30)


async def test_registration_starts_before_etcd(server):
    server.kill()
    async with Etcd([server.endpoint]) as etcd, Registration(etcd, {KEY: b"1"}) as registration:
        with pytest.raises(MeshError) as caught:
            await registration.wait_up(0.5)
        assert caught.value.code is ErrorCode.REGISTRY_UNAVAILABLE
        await server.start()
        await registration.wait_up(30)
        assert (await etcd.get(KEY)).value == b"1"


async def test_a_revoked_lease_is_noticed_and_replaced(etcd, view):
    async with Registration(etcd, {KEY: b"1"}) as registration:
        await registration.wait_up()
        lease = (await etcd.get(KEY)).lease
        await etcd.revoke(lease)
        assert await etcd.get(KEY) is None
        async with asyncio.timeout(30):
            while (entry := await etcd.get(KEY)) is None:
                await asyncio.sleep(0.05)
        assert entry.lease not in {0, lease}


async def test_a_refused_registration_says_why_and_goes_on(etcd):
    async with Registration(etcd, {KEY: b"x" * 2_000_000}) as registration:
        with pytest.raises(MeshError, match="too large") as caught:
            await registration.wait_up(1)
        assert caught.value.code is ErrorCode.REGISTRY_REJECTED
        await registration.update(b"small", timeout_s=30)
    assert await etcd.get(KEY) is None


async def test_lease_is_lost_while_etcd_still_honours_it(etcd, server):
    """A duty that stops when `lost` is set has stopped before another can take it over."""
    async with Lease(etcd, ttl_s=4) as lease:
        done = await etcd.txn([mod_is(KEY, 0)], [put_op(KEY, b"mine", lease.id)])
        assert done.succeeded
        server.pause()
        started = time.monotonic()
        await asyncio.wait_for(lease.lost.wait(), 10)
        assert time.monotonic() - started < 4
        server.resume()


async def test_lease_ends_with_its_context(etcd):
    async with Lease(etcd) as lease:
        await etcd.put(KEY, b"", lease.id)
        assert not lease.lost.is_set()
    assert lease.lost.is_set()
    assert await etcd.get(KEY) is None
    assert await etcd.keep_alive(lease.id, timeout_s=3) == 0


async def test_a_thread_keeps_the_registration_of_a_blocked_event_loop(etcd, server, view, caplog):
    stop = threading.Event()
    up = threading.Event()

    async def register() -> None:
        async with Etcd([server.endpoint]) as own, Registration(own, {KEY: b"1"}) as registration:
            await registration.wait_up()
            up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(register()))
    thread.start()
    try:
        await asyncio.to_thread(up.wait, 30)
        before = await etcd.get(KEY)
        time.sleep(7)  # the user's code, on this loop
        assert await etcd.get(KEY) == before
        assert view.items == {"one": "1"}
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
    assert await etcd.get(KEY) is None
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
