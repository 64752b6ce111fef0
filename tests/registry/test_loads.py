import json

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys, loads
from langmesh.registry.etcd import Etcd
from langmesh.registry.lease import Registration
from langmesh.registry.loads import Load
from langmesh.registry.view import View

AGENT = keys.agent("t", "g", "n", "n-1")
LOAD = keys.load("t", "g", "n", "n-1")
REPORT = Load(
    agent_id="n-1",
    timestamp="2026-01-01T00:00:00.000000Z",
    interval_s=5.0,
    cpu_usage=0.25,
    memory_usage=0.5,
    memory_bytes=1000,
    request_rate=2.5,
    in_flight=1,
    capacity=16,
    queue_wait_ms=1.5,
)


def test_a_load_has_a_key_beside_its_registration():
    assert LOAD == "/langmesh/v1/load/t/g/n/n-1"
    assert keys.coordinator_load("t", "c-1") == "/langmesh/v1/load/t/c-1"
    assert LOAD.startswith(keys.loads("t", "g", "n"))
    assert not LOAD.startswith(keys.agents())


def test_a_load_is_json_with_all_its_fields_and_comes_back():
    document = json.loads(loads.encode(REPORT))
    assert document.keys() == set(Load.__struct_fields__)
    assert (document["agent_id"], document["execute_ms"]) == ("n-1", None)
    assert loads.decode(loads.encode(REPORT)) == REPORT


@pytest.mark.parametrize(
    ("change", "field"),
    [({"cpu_usage": 1.5}, "cpu_usage"), ({"in_flight": -1}, "in_flight"), ({"agent_id": 1}, "age")],
)
def test_a_wrong_field_of_a_load_is_named(change, field):
    with pytest.raises(MeshError) as caught:
        loads.decode(json.dumps(json.loads(loads.encode(REPORT)) | change).encode())
    assert caught.value.code is ErrorCode.INVALID_FIELD
    assert caught.value.message.startswith(field)


def text(_: str, value: bytes) -> str:
    return value.decode()


async def test_reports_wake_nobody_who_follows_registrations(etcd, server):
    async with (
        Etcd([server.endpoint]) as own,
        View(own, keys.loads(), text) as reports,
        View(own, keys.agents(), text) as agents,
        Registration(etcd, {AGENT: b"here"}) as registration,
    ):
        await registration.wait_up()
        await agents.wait_for(lambda items: "t/g/n/n-1" in items, timeout_s=3)
        first, seen = await etcd.get(AGENT), agents.revision
        for n in range(3):
            registration.offer(LOAD, b"%d" % n)
            await reports.wait_for(lambda i, n=n: i.get("t/g/n/n-1") == str(n), timeout_s=3)
        assert await etcd.get(AGENT) == first
        assert agents.revision == seen
        assert (await etcd.get(LOAD)).lease == first.lease
        await registration.update(b"moved", key=AGENT)
        assert (await etcd.get(AGENT)).value == b"moved"
    assert await etcd.get(AGENT) is None
    assert await etcd.get(LOAD) is None


async def test_a_lost_lease_comes_back_with_everything_that_hung_on_it(etcd, server):
    async with (
        Etcd([server.endpoint]) as own,
        View(own, keys.PREFIX, text) as view,
        Registration(etcd, {AGENT: b"here"}) as registration,
    ):
        await registration.wait_up()
        registration.offer(LOAD, b"busy")
        both = {"agents/t/g/n/n-1": "here", "load/t/g/n/n-1": "busy"}
        await view.wait_for(lambda items: items == both, timeout_s=3)
        before = await etcd.get(LOAD)
        await own.revoke(before.lease)
        await view.wait_for(lambda items: items == {}, timeout_s=3)
        await view.wait_for(lambda items: items == both, timeout_s=10)
        assert (await etcd.get(LOAD)).lease != before.lease
