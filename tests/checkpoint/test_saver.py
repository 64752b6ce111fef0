"""The saver's own promises, beside LangGraph's conformance suite."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint

from langmesh.bus import connect
from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.streams import LOG
from tests.checkpoint.kit import at, listed, put, stored, values_of

ODD = ["a.b", "*", ">", "h--1", "x--1", "ü" * 300, "two words\n", "🙂", "t" * 4096]


@pytest.mark.parametrize("name", ODD)
async def test_odd_names_are_kept_apart(saver: NatsSaver, name: str):
    for thread, namespace in ((name, ""), ("plain", name), (name, name)):
        await put(saver, at(thread, namespace=namespace), {"a": thread + namespace})
    for thread, namespace in ((name, ""), ("plain", name), (name, name)):
        found = await saver.aget_tuple(at(thread, namespace=namespace))
        assert values_of(found) == {"a": thread + namespace}
    assert len(await listed(saver, None)) == 3
    assert len(await listed(saver, {"configurable": {"thread_id": name}})) == 2
    await saver.adelete_thread(name)
    assert len(await listed(saver, None)) == 1


async def test_a_thread_id_may_be_a_number(saver: NatsSaver):
    await put(saver, {"configurable": {"thread_id": 7, "checkpoint_ns": ""}}, {"a": 1})
    assert values_of(await saver.aget_tuple(at("7"))) == {"a": 1}


async def test_tenants_do_not_see_each_other(server: EmbeddedNats, saver: NatsSaver):
    async with NatsSaver.connect(server.url, tenant="other") as other:
        await put(saver, at("t"), {"a": 1})
        assert await other.aget_tuple(at("t")) is None
        await put(other, at("t"), {"a": 2})
        await other.adelete_for_runs(["none"])
        await other.adelete_thread("t")
        assert await listed(other, None) == []
        assert values_of(await saver.aget_tuple(at("t"))) == {"a": 1}


async def test_all_threads_are_listed_newest_first(saver: NatsSaver):
    puts = []
    for n in range(9):
        config = at(f"t{n % 3}", namespace="ns" if n % 2 else "")
        puts.append(await put(saver, config, {"n": n}, parity=n % 2, run_id=f"r{n}"))
    newest = list(reversed(puts))
    assert [one.config for one in await listed(saver, None)] == newest
    assert [one.config for one in await listed(saver, None, limit=4)] == newest[:4]
    assert await listed(saver, None, limit=0) == []
    assert [one.config for one in await listed(saver, None, before=newest[6])] == newest[7:]
    even = await listed(saver, None, filter={"parity": 0, "source": "loop"})
    assert [one.config for one in even] == newest[::2]
    of_thread = await listed(saver, {"configurable": {"thread_id": "t0"}})
    assert [values_of(one)["n"] for one in of_thread] == [6, 3, 0]
    assert [one.config for one in await listed(saver, newest[3])] == [newest[3]]


@pytest.mark.parametrize("config", [{}, {"configurable": {}}, {"configurable": {"thread_id": ""}}])
async def test_a_config_without_a_thread_is_refused(saver: NatsSaver, config):
    with pytest.raises(MeshError, match="thread_id") as refusal:
        await saver.aget_tuple(config)
    assert refusal.value.code in {ErrorCode.INVALID_FIELD, ErrorCode.INVALID_NAME}


async def test_a_strategy_that_does_not_exist_is_refused(saver: NatsSaver):
    with pytest.raises(MeshError, match="strategy: 'keep_all'"):
        await saver.aprune(["t"], strategy="keep_all")


async def test_savers_of_many_processes_write_one_thread(server: EmbeddedNats):
    """No checkpoint and no write is lost, and every process reads all of them at the end."""
    writers, each = 5, 8
    ids: set[str] = set()

    async def write(writer: int) -> None:
        async with NatsSaver.connect(server.url) as saver:
            for n in range(each):
                config = await put(saver, at("t"), {f"w{writer}": n})
                ids.add(config["configurable"]["checkpoint_id"])
                tasks = [
                    saver.aput_writes(config, [("a", n), ("b", writer)], f"task {task}")
                    for task in range(3)
                ]
                await asyncio.gather(*tasks)

    await asyncio.gather(*map(write, range(writers)))
    async with NatsSaver.connect(server.url) as reader:
        found = await listed(reader, at("t"))
    assert {one.checkpoint["id"] for one in found} == ids
    assert len(found) == writers * each
    assert all(len(one.pending_writes or ()) == 6 for one in found)


async def test_the_first_of_two_processes_that_write_a_task_holds(server: EmbeddedNats):
    async with NatsSaver.connect(server.url) as one, NatsSaver.connect(server.url) as two:
        config = await put(one, at("t"), {})
        await two.aget_tuple(config)
        await one.aput_writes(config, [("a", 1), ("__interrupt__", "first")], "task", "~path")
        await two.aput_writes(config, [("a", 2), ("__interrupt__", "last")], "task", "~path")
        for saver in (one, two):
            found = await saver.aget_tuple(config)
            assert found is not None
            assert found.pending_writes == [("task", "__interrupt__", "last"), ("task", "a", 1)]


async def test_what_is_there_is_not_written_again(server: EmbeddedNats, saver: NatsSaver):
    checkpoint = empty_checkpoint()
    checkpoint["channel_versions"] = {"a": 1}
    checkpoint["channel_values"] = {"a": "value"}
    metadata: CheckpointMetadata = {"source": "loop", "step": 1}
    async with NatsSaver.connect(server.url) as other, connect(server.url, name="look") as bus:
        for one in (saver, saver, other):
            config = await one.aput(at("t"), checkpoint, metadata, {"a": 1})
            await one.aput_writes(config, [("a", 1)], "task")
        assert len(await stored(bus, "t")) == 2


async def test_a_thread_that_was_deleted_elsewhere_is_whole_again_after_the_next_put(
    server: EmbeddedNats, saver: NatsSaver
):
    """The chain lacks what LangGraph stored before, so the next checkpoint brings it along."""
    async with NatsSaver.connect(server.url) as other:
        first = await put(saver, at("t"), {"a": "old", "b": "old"})
        found = await saver.aget_tuple(first)
        assert found is not None
        await other.adelete_thread("t")
        checkpoint = {**found.checkpoint, "id": "2"}
        version = saver.get_next_version(found.checkpoint["channel_versions"]["b"], None)
        checkpoint["channel_versions"] = {**checkpoint["channel_versions"], "b": version}
        checkpoint["channel_values"] = {"a": "old", "b": "new"}
        config = await saver.aput(first, checkpoint, found.metadata, {"b": version})
        for reader in (saver, other):
            assert values_of(await reader.aget_tuple(config)) == {"a": "old", "b": "new"}


async def test_versions_grow_and_tell_branches_apart(saver: NatsSaver):
    version, seen = None, []
    for _ in range(1100):
        version = saver.get_next_version(version, None)
        seen.append(version)
    assert seen == sorted(seen)
    assert len({saver.get_next_version("0000000000000005.0", None) for _ in range(100)}) == 100
    assert saver.get_next_version(4, None).startswith("0000000000000005.")


async def test_waiting_in_the_loop_of_the_saver_is_refused(saver: NatsSaver):
    for call in (
        lambda: saver.get_tuple(at("t")),
        lambda: list(saver.list(at("t"))),
        lambda: saver.put(at("t"), empty_checkpoint(), {}, {}),
        lambda: saver.delete_thread("t"),
    ):
        with pytest.raises(MeshError, match="would wait for itself") as refusal:
            call()
        assert refusal.value.code is ErrorCode.NOT_RUNNING
        assert "await" in refusal.value.remedy


async def test_every_method_has_a_twin_for_other_threads(saver: NatsSaver):
    def use() -> None:
        config = saver.put(at("t"), {**empty_checkpoint(), "id": "1"}, {"run_id": "r"}, {})
        saver.put_writes(config, [("a", 1)], "task")
        found = saver.get_tuple(config)
        assert found is not None
        assert found.pending_writes == [("task", "a", 1)]
        assert [one.config for one in saver.list(None)] == [config]
        assert saver.get_delta_channel_history(config=config, channels=["a"]) == {
            "a": {"writes": []}
        }
        saver.copy_thread("t", "copy")
        saver.prune(["copy"])
        assert saver.get_tuple(at("copy")) is not None
        saver.delete_for_runs(["r"])
        assert list(saver.list(None)) == []
        saver.delete_thread("t")

    await asyncio.to_thread(use)


def test_a_saver_whose_loop_has_ended_does_not_hang(tmp_path):
    kept: list[NatsSaver] = []

    async def make() -> None:
        from langmesh.embedded.process import Guard

        async with Guard() as guard:
            server = EmbeddedNats(tmp_path / "nats", tmp_path / "log", guard=guard)
            await server.start()
            async with NatsSaver.connect(server.url) as saver:
                kept.append(saver)

    asyncio.run(make())
    with pytest.raises(MeshError, match="has ended"):
        kept[0].get_tuple(at("t"))


def test_a_saver_is_made_in_an_event_loop():
    with pytest.raises(MeshError, match="outside of an event loop"):
        NatsSaver(None)  # type: ignore[arg-type]


async def test_a_saver_on_an_open_connection_makes_its_stream(server: EmbeddedNats):
    async with connect(server.url, name="mine") as bus:
        saver = NatsSaver(bus)
        await put(saver, at("t"), {"a": 1})
        assert "error" not in await bus.api(f"STREAM.INFO.{LOG.name}")
        assert await bus.api("STREAM.NAMES") is not None


async def test_a_broker_that_is_not_there_is_named():
    with pytest.raises(MeshError, match=r"127\.0\.0\.1:9 ") as refusal:
        async with NatsSaver.connect("nats://127.0.0.1:9"):
            pass
    assert refusal.value.code is ErrorCode.BROKER_UNAVAILABLE


def test_importing_the_saver_takes_neither_etcd_nor_grpc():
    code = (
        "import sys; from langmesh.checkpoint import NatsSaver;"
        "print([name for name in ('etcd3', 'grpc', 'langgraph.pregel') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"
