"""Graphs with a memory: in one process, and over the mesh."""

from __future__ import annotations

import asyncio

from langgraph.store.memory import InMemoryStore

from langmesh.graphs.stores import Stores
from langmesh.store import NatsStore
from langmesh.testing import LocalMesh
from tests.graphs.memories import memories
from tests.integration.kit import publish

SOURCE = "tests.graphs.memories"
ADA = {"user": "ada", "fact": "likes tea"}


async def test_plain_langgraph_with_the_store(store: NatsStore):
    graph = memories.compile(store=store)
    assert (await graph.ainvoke(ADA))["facts"] == ["likes tea"]
    assert (await graph.ainvoke({**ADA, "fact": "plays chess"}))["facts"] == [
        "likes tea",
        "plays chess",
    ]


async def test_one_agent_puts_and_another_process_searches(mesh: LocalMesh, store: NatsStore):
    await publish(mesh, f"{SOURCE}:memories")
    async with mesh.coordinator(), mesh.agents("memories", "learn"):
        child = mesh.spawn("recall", "langmesh.agent", f"{SOURCE}:memories", "recall")
        for number in range(3):
            fact = f"fact {number}"
            ended = await mesh.run("memories", {"user": "ada", "fact": fact})
            assert ended.status == "success", (ended, child.output())
            assert ended.output["facts"] == [f"fact {n}" for n in range(number + 1)]
        ended = await mesh.run("memories", {"user": "bob", "fact": "another"})
        assert ended.output["facts"] == ["another"]
        found = await store.asearch(("facts", "ada"))
        assert [item.key for item in found] == ["fact 0", "fact 1", "fact 2"]
        assert len(await store.alist_namespaces()) == 2


async def test_a_declared_index_counts_in_the_mesh(mesh: LocalMesh, store: NatsStore):
    await publish(mesh, f"{SOURCE}:similar")
    async with mesh.coordinator(), mesh.agents("similar"):
        for fact in ("bbb", "aab", "b"):
            ended = await mesh.run("similar", {"user": "ada", "fact": fact})
        assert ended.output["nearest"] == "aab"
    assert len(await store.asearch(("facts",))) == 3


async def test_what_is_not_json_fails_the_node(mesh: LocalMesh):
    await publish(mesh, f"{SOURCE}:carelessly")
    async with mesh.coordinator(), mesh.agents("carelessly"):
        ended = await mesh.run("carelessly", {"user": "ada"})
    assert ended.status == "error"
    assert "value['when']: a value of type object is not JSON" in ended.error.message


async def test_agents_whose_nodes_use_no_store_ask_the_broker_nothing(mesh: LocalMesh):
    asked: list[str] = []

    async def note(message) -> None:
        asked.append(message.subject)

    await publish(mesh, "tests.graphs.shapes:loop")
    await mesh.bus.subscribe("$JS.API.>", note)
    async with mesh.coordinator(), mesh.agents("loop"):
        assert (await mesh.run("loop", {"n": 2})).status == "success"
    assert [subject for subject in asked if "STORE" in subject] == ["$JS.API.STREAM.CREATE.STORE"]


async def test_one_store_per_declaration(mesh: LocalMesh):
    stores = Stores(mesh.bus, "default")
    declared, own = InMemoryStore(), NatsStore(mesh.bus)
    assert stores.of(None) is stores.of(None)
    assert stores.of(declared) is stores.of(declared) is not stores.of(None)
    assert isinstance(stores.of(declared), NatsStore)
    assert stores.of(own) is own
    await stores.of(None).aput(("a",), "k", {"n": 1})
    await asyncio.gather(*(each.asearch(()) for each in (stores.of(None), stores.of(declared))))
    await stores.aclose()
