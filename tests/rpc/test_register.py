"""agent.register and agent.unregister: agents that have no etcd."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from langmesh.graphs import directory
from langmesh.registry import keys, loads, records
from langmesh.registry.model import Entry
from langmesh.registry.records import Binding, ServiceRecord
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from langmesh.wire import subjects
from langmesh.wire.messages import RunEnded, TaskWaiting
from tests.integration.kit import events_of, publish, stock_client
from tests.rpc.kit import GATES, Asker

ME = {"graph": "gated_loop", "node": "before", "instance": "before-elsewhere"}
KEY = keys.agent("default", "gated_loop", "before", "before-elsewhere")
LOAD = keys.load("default", "gated_loop", "before", "before-elsewhere")


async def registered(mesh: LocalMesh) -> tuple[Entry, ServiceRecord]:
    entry = await mesh.etcd.get(KEY)
    assert entry is not None
    return entry, records.decode_service(entry.value)


async def bind(mesh: LocalMesh, release: str = "plain") -> str:
    subject = subjects.execution("default", "gated_loop", "before", release)
    binding = Binding(subject=subject, release=release, encoding="json")
    names = {"tenant": "default", "graph": "gated_loop", "node": "before"}
    await directory.rebind(mesh.etcd, **names, binding=binding)
    return subject


async def served(ask: Asker, node: str, *, is_so: bool = True) -> None:
    """Wait until a coordinator knows whether a node is served."""
    async with asyncio.timeout(30):
        while True:
            routes = await ask("graph.routes", graph="gated_loop")
            if routes["bindings"][node]["served"] is is_so:
                return


async def bound(ask: Asker, release: str) -> None:
    """Wait until a coordinator knows to which release the node is bound."""
    async with asyncio.timeout(30):
        while True:
            routes = await ask("graph.routes", graph="gated_loop")
            if routes["bindings"]["before"]["release"] == release:
                return


async def test_a_registered_program_is_told_where_its_tasks_are(
    mesh: LocalMesh, ask: Asker
) -> None:
    await publish(mesh, GATES)
    subject = await bind(mesh)
    async with mesh.coordinator():
        place = await ask("agent.register", **ME, capabilities=["wait"], host="far", pid=7)
        assert place == {
            "instance": "before-elsewhere",
            "release": "plain",
            "subject": subject,
            "stream": "EXEC",
            "consumer": "default=gated_loop=before=plain",
            "encoding": "json",
            "bound": True,
            "ack_wait_s": 4.0,
            "ttl_s": 15,
            "renew_before_s": 5.0,
        }
        info = await mesh.bus.api(f"CONSUMER.INFO.EXEC.{place['consumer']}")
        assert info["config"]["filter_subject"] == subject
        entry, record = await registered(mesh)
        assert entry.lease
        assert (record.pid, record.host, record.state, record.capacity) == (7, "far", "ready", 1)
        assert (record.capabilities, record.ttl_s) == (["wait"], 15)
        await served(ask, "before")
        assert await ask("agent.unregister", **ME) == {"removed": True}
        assert await mesh.etcd.get(KEY) is None
        await served(ask, "before", is_so=False)
        assert await ask("agent.unregister", **ME) == {"removed": False}


async def test_another_release_waits_until_the_node_is_bound_to_it(
    mesh: LocalMesh, ask: Asker
) -> None:
    await publish(mesh, GATES)
    async with mesh.coordinator():
        place = await ask("agent.register", **ME, release="x")
        assert (place["bound"], place["encoding"], place["release"]) == (False, "json", "x")
        usual = await ask("agent.register", **ME)
        assert (usual["bound"], usual["encoding"], usual["release"]) == (True, "msgpack", "v1")
        await bind(mesh, "x")
        await bound(ask, "x")
        assert (await ask("agent.register", **ME))["encoding"] == "json"


async def test_asking_again_renews_and_changes_only_what_is_new(
    mesh: LocalMesh, ask: Asker
) -> None:
    await publish(mesh, GATES)
    async with mesh.coordinator():
        await ask("agent.register", **ME, load={"in_flight": 1, "cpu_usage": 0.5})
        first, _ = await registered(mesh)
        busy = await mesh.etcd.get(LOAD)
        assert busy is not None
        assert busy.lease == first.lease
        load = loads.decode(busy.value)
        assert (load.agent_id, load.in_flight, load.cpu_usage) == ("before-elsewhere", 1, 0.5)
        assert (load.capacity, load.interval_s) == (1, 15)
        await ask("agent.register", **ME)
        assert (await registered(mesh))[0] == first, "nothing changed"
        assert await mesh.etcd.get(LOAD) == busy
        await ask("agent.register", **ME, load={"in_flight": 0})
        assert (await registered(mesh))[0] == first, "only the load changed"
        changed = await mesh.etcd.get(LOAD)
        assert changed is not None
        assert loads.decode(changed.value).in_flight == 0
        await ask("agent.register", **ME, capacity=4)
        second, record = await registered(mesh)
        assert (second.lease, record.capacity) == (first.lease, 4)
        await ask("agent.register", **ME, ttl_s=60, load={})
        third, record = await registered(mesh)
        assert (third.lease != first.lease, record.ttl_s) == (True, 60)
        assert third.create_revision == first.create_revision, "it was never gone"


async def test_any_coordinator_renews_what_another_began(mesh: LocalMesh, ask: Asker) -> None:
    await publish(mesh, GATES)
    async with mesh.coordinator():
        await ask("agent.register", **ME)
        first, _ = await registered(mesh)
    async with mesh.coordinator():
        await ask("agent.register", **ME)
        assert (await registered(mesh))[0] == first
        assert await ask("agent.unregister", **ME) == {"removed": True}


async def test_who_does_not_ask_again_is_gone(mesh: LocalMesh, ask: Asker) -> None:
    await publish(mesh, GATES)
    async with (
        mesh.coordinator(),
        View(mesh.etcd, keys.PREFIX, lambda _, document: document) as view,
    ):
        await ask("agent.register", **ME, ttl_s=5, load={})
        mine = {key.removeprefix(keys.PREFIX) for key in (KEY, LOAD)}
        await view.wait_for(lambda items: mine <= items.keys(), timeout_s=10)
        # etcd's clock judges, which a busy machine slows for both.
        await mesh.etcd.put(keys.PREFIX + "bound", b"", await mesh.etcd.grant(8))
        await view.wait_for(lambda items: not mine & items.keys(), timeout_s=60)
        assert "bound" in view.items


async def test_what_another_process_registered_itself_is_left_alone(
    mesh: LocalMesh, ask: Asker
) -> None:
    await publish(mesh, GATES)
    async with mesh.coordinator(), mesh.agents("gated_loop", "before") as agent:
        key = keys.agent("default", "gated_loop", "before", agent.instance)
        before = await mesh.etcd.get(key)
        mine = {**ME, "instance": agent.instance}
        for verb in ("agent.register", "agent.unregister"):
            told = await ask(verb, **mine)
            assert told["error"]["code"] == "instance_taken"
            assert agent.instance in told["error"]["message"]
        assert await mesh.etcd.get(key) == before


async def test_a_run_does_not_wait_for_a_node_that_a_program_serves(
    mesh: LocalMesh, ask: Asker
) -> None:
    await publish(mesh, GATES)
    await bind(mesh)
    async with (
        mesh.coordinator(),
        mesh.agents("gated_loop", "after"),
        mesh.client("gated_loop") as client,
        stock_client(mesh) as nats,
    ):
        place = await ask("agent.register", **ME)
        await served(ask, "before")
        await served(ask, "after")
        pull = await nats.jetstream().pull_subscribe_bind(place["consumer"], place["stream"])
        handle = await client.submit({"n": 1})
        [delivery] = await pull.fetch(1, timeout=20)
        task = json.loads(delivery.data)
        asked = task["payload"]
        ids = {"task_id": asked["task_id"], "attempt": asked["attempt"]}
        outcome = {
            "header": task["header"] | {"type": "task.outcome.v1", "sender": place["instance"]},
            "payload": {"kind": "ok", **ids, "update": {"trail": ["elsewhere"]}},
            "context": task["context"],
        }
        await nats.jetstream().publish(asked["slot"], json.dumps(outcome).encode())
        await delivery.ack()
        events = await events_of(handle)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.output["trail"] == ["elsewhere", "after v1"]
    assert not [each for each in events if isinstance(each, TaskWaiting)]


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"graph": "pool"}, "unknown_graph", "graph: 'pool'"),
        ({"node": "nobody"}, "unknown_node", "node: graph 'gated_loop' has no node 'nobody'"),
        ({"instance": ""}, "invalid_name", "instance: the name is empty"),
        ({"instance": "x" * 101}, "invalid_name", "instance"),
        ({"instance": 7}, "invalid_field", "instance"),
        ({"release": ""}, "invalid_name", "release"),
        ({"ttl_s": 4}, "invalid_field", "ttl_s"),
        ({"ttl_s": 301}, "invalid_field", "ttl_s"),
        ({"ttl_s": "15"}, "invalid_field", "ttl_s"),
        ({"capacity": 0}, "invalid_field", "capacity"),
        ({"capabilities": ["x" * 101]}, "invalid_field", "capabilities"),
        ({"capabilities": ["x"] * 33}, "invalid_field", "capabilities"),
        ({"load": {"cpu_usage": 2}}, "invalid_field", "load.cpu_usage"),
        ({"load": {"cpu": 0.5}}, "invalid_field", "cpu"),
        ({"input_schema": {"x": "y" * 40_000}}, "payload_too_large", "input_schema"),
        ({"ttl": 15}, "invalid_field", "ttl"),
    ],
)
async def test_what_cannot_be_registered_is_refused_by_field(
    mesh: LocalMesh, ask: Asker, fields: dict[str, Any], code: str, says: str
) -> None:
    await publish(mesh, GATES)
    async with mesh.coordinator():
        told = await ask("agent.register", **{**ME, **fields})
        assert told["error"]["code"] == code, told
        assert says in told["error"]["message"]
        assert (await mesh.etcd.list(keys.agents())).entries == {}
