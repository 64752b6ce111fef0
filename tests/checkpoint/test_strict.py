"""Nothing that is stored runs code, and nobody can ask for that by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langmesh.bus import connect
from langmesh.checkpoint import NatsSaver, strict
from langmesh.embedded.nats import EmbeddedNats
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Logs
from langmesh.wire.log import ChannelValue, ChannelWrite, CheckpointRecord, WritesRecord
from langmesh.wire.messages import Value
from tests.checkpoint.graphs import Person, Point, typed
from tests.checkpoint.kit import at, put, stored, values_of

sung: list[str] = []


def sing(*args: Any) -> str:
    """What a forged value would have run; an importable function of this process."""
    sung.append(repr(args))
    return "sung"


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    sung.clear()
    yield
    assert sung == [], "code ran that a stored value named"


def ext(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(parts)))


FORGED = {
    "constructor with an argument": Value("msgpack", ext(0, __name__, "sing", "la")),
    "constructor with arguments": Value("msgpack", ext(1, __name__, "sing", ["la", "la"])),
    "constructor with names": Value("msgpack", ext(2, __name__, "sing", {})),
    "method": Value("msgpack", ext(3, __name__, "sing", "la", "__call__")),
    "pydantic 1": Value("msgpack", ext(4, __name__, "sing", {}, "construct")),
    "pydantic 2": Value("msgpack", ext(5, __name__, "sing", {}, "model_construct")),
    "inside of a list": Value(
        "msgpack", ormsgpack.packb([1, ormsgpack.Ext(0, ormsgpack.packb((__name__, "sing", "la")))])
    ),
    "pickle": Value("pickle", f"c{__name__}\nsing\n(S'la'\ntR.".encode()),
    "json, LangGraph's": Value(
        "json", f'{{"lc":2,"type":"constructor","id":["{__name__}","sing"],"args":["la"]}}'.encode()
    ),
    "json, LangChain's": Value(
        "json",
        b'{"lc":1,"type":"constructor","id":["langchain_core","messages","ai","AIMessage"],'
        b'"kwargs":{"content":"la"}}',
    ),
    "an unknown kind": Value("marshal", b"la"),
}
SOUND = Value("msgpack", ormsgpack.packb({"v": 1, "id": "c1", "ts": "", "versions_seen": {}}))


PLACES = ("checkpoint", "metadata", "value", "large value", "write")


@pytest.mark.parametrize("forged", FORGED)
async def test_a_canary_does_not_sing(server: EmbeddedNats, saver: NatsSaver, forged: str):
    async with connect(server.url, name="attacker") as bus:
        logs = Logs(bus, tenant="default", writer="attacker")
        for place in PLACES:
            value = FORGED[forged]
            if place == "large value":
                value = await logs.values.stow(value, limit=1)
                assert value.kind == "blob"
            record = CheckpointRecord(
                checkpoint_id="c1",
                checkpoint=value if place == "checkpoint" else SOUND,
                metadata=value if place == "metadata" else SOUND,
                versions={"a": 1},
                values=[ChannelValue("a", 1, value)] if "value" in place else [],
            )
            writes = [ChannelWrite(0, "a", value)] if place == "write" else []
            await logs.own(place).append(
                [record, WritesRecord(checkpoint_id="c1", task_id="task", writes=writes)]
            )
    for place in PLACES:
        for read in (saver.aget_tuple(at(place)), saver.alist(at(place)).__anext__()):
            with pytest.raises(MeshError, match=f"thread {place!r}") as refusal:
                await read
            assert refusal.value.code is ErrorCode.VALUE_NOT_SERIALIZABLE


class Untyped:
    """A serializer like the module `pickle`, which LangGraph takes as it is."""

    def dumps(self, value: Any) -> bytes:
        import pickle

        return pickle.dumps(value)

    def loads(self, data: bytes) -> Any:
        import pickle

        return pickle.loads(data)


class Cipher:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(byte ^ 0x55 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return self.encrypt(ciphertext)[1]


PERMISSIVE = {
    "pickle": JsonPlusSerializer(pickle_fallback=True, allowed_msgpack_modules=None),
    "all types": JsonPlusSerializer(allowed_msgpack_modules=True),
    "LangGraph's default": JsonPlusSerializer(),
    "all of JSON": JsonPlusSerializer(allowed_json_modules=True, allowed_msgpack_modules=None),
    "a hook": JsonPlusSerializer(
        allowed_msgpack_modules=None,
        __unpack_ext_hook__=lambda code, data: strict.Canary(),
    ),
    "encrypted": EncryptedSerializer(Cipher(), JsonPlusSerializer()),
    "encrypted pickle": EncryptedSerializer(
        Cipher(), JsonPlusSerializer(pickle_fallback=True, allowed_msgpack_modules=None)
    ),
    "the module pickle": Untyped(),
}


@pytest.mark.parametrize("name", PERMISSIVE)
async def test_a_serializer_that_runs_code_is_refused(server: EmbeddedNats, name: str):
    with pytest.raises(MeshError, match=r"^serde: .* runs whatever code") as refusal:
        async with NatsSaver.connect(server.url, serde=PERMISSIVE[name]):
            pass
    assert refusal.value.code is ErrorCode.INVALID_SETTING
    assert "allowed_msgpack_modules" in refusal.value.remedy


async def test_it_is_refused_later_too(saver: NatsSaver):
    with pytest.raises(MeshError, match="serde"):
        saver.serde = JsonPlusSerializer(pickle_fallback=True)
    with pytest.raises(MeshError, match="allow"):
        NatsSaver(saver._bus, serde=strict.strict_serializer(), allow=[Point])


async def test_an_encrypting_serializer_keeps_values_secret(server: EmbeddedNats):
    serde = EncryptedSerializer(Cipher(), strict.strict_serializer())
    async with NatsSaver.connect(server.url, serde=serde) as saver:
        config = await put(saver, at("t"), {"a": "plain text"})
        assert values_of(await saver.aget_tuple(config)) == {"a": "plain text"}
        async with connect(server.url, name="look") as bus:
            (body,) = await stored(bus, "t")
        assert b"msgpack+xor" in body
        assert b"plain text" not in body


async def test_a_type_that_is_not_allowed_is_named_and_its_value_is_not_lost(
    server: EmbeddedNats, saver: NatsSaver
):
    config = await put(saver, at("t"), {"point": Point(1, 2)})
    with pytest.raises(MeshError, match=r"channel 'point': type tests\.\S+\.Point is not") as told:
        await saver.aget_tuple(config)
    assert "allow" in told.value.remedy
    async with NatsSaver.connect(server.url, allow=[Point]) as other:
        assert values_of(await other.aget_tuple(config)) == {"point": Point(1, 2)}
    wider = saver.with_allowlist({(Point.__module__, "Point")})
    assert values_of(await wider.aget_tuple(config)) == {"point": Point(1, 2)}
    with pytest.raises(MeshError):
        await saver.aget_tuple(config)


async def test_a_graph_with_types_of_its_own(server: EmbeddedNats):
    config = {"configurable": {"thread_id": "t"}}
    async with NatsSaver.connect(server.url, allow=[Point, Person]) as saver:
        graph = typed().compile(checkpointer=saver)
        for _ in range(2):
            state = await graph.aget_state(config)
            point = state.values.get("point", Point(0, 0))
            await graph.ainvoke({"point": point}, config)
        assert (await graph.aget_state(config)).values == {
            "point": Point(2, 0),
            "person": Person(name="Ada"),
        }


def test_compile_allows_the_types_of_a_graphs_schemas(tmp_path: Path):
    """With LangGraph's own switch, which it reads when it is imported."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import asyncio, sys
from pathlib import Path
from langmesh.checkpoint import NatsSaver
from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard
from tests.checkpoint.graphs import Point, typed

async def main():
    async with Guard() as guard:
        server = EmbeddedNats(Path(sys.argv[1]) / "nats", Path(sys.argv[1]) / "log", guard=guard)
        await server.start()
        config = {"configurable": {"thread_id": "t"}}
        async with NatsSaver.connect(server.url) as saver:
            graph = typed().compile(checkpointer=saver)
            await graph.ainvoke({"point": Point(0, 0)}, config)
            print((await graph.aget_state(config)).values)

asyncio.run(main())
"""
    )
    told = subprocess.run(
        [sys.executable, program, tmp_path],
        env={
            **os.environ,
            "LANGGRAPH_STRICT_MSGPACK": "true",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stdout.strip() == "{'point': Point(x=1, y=0), 'person': Person(name='Ada')}", told
