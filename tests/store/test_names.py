"""Names may be any text: nothing collides, nothing is lost."""

from __future__ import annotations

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp

from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore
from langmesh.testing import LocalMesh

LONG = "long " * 3000
DIGEST = "h--" + "0" * 48
KEYS = [
    "", " ", ".", "..", "a.b", "*", ">", "a*", "x--", "x--c4", "h--", DIGEST, "n--" + "0" * 48,
    "\x00", "\n", "\r\nPUB x 0\r\n", "é", "e\u0301", "键", "🙂", "A", "a", "-", "_", "$", "%2e",
    "a" * 63, "a" * 64, "ü" * 50, "ü" * 51, LONG, LONG + "!", "12", "null",
]  # fmt: skip
LABELS = [key for key in KEYS if key and "." not in key and "\x00" not in key]
DEEP = tuple(f"level {n}" for n in range(60))


async def test_keys_and_labels_of_every_kind_are_kept_apart(mesh: LocalMesh, store: NatsStore):
    names = [
        *((("odd",), key) for key in KEYS),
        *((("odd", label), "key") for label in LABELS),
        *(((label, "odd"), "key") for label in LABELS),
        *((DEEP[:depth], f"key {depth}") for depth in (1, 14, 15, 16, 17, 30, 60)),
        (("odd", *DEEP), "key"),
        ((*DEEP[:16], DEEP[16] + DEEP[17]), "key"),
    ]
    ops = [PutOp(namespace, key, {"n": n}) for n, (namespace, key) in enumerate(names)]
    await store.abatch(ops)
    found = await store.abatch([GetOp(*name) for name in names])
    assert [item.value["n"] for item in found] == list(range(len(names)))
    assert [(item.namespace, item.key) for item in found] == names
    async with NatsStore.connect(mesh.nats_url) as fresh:
        for prefix in {namespace[:n] for namespace, _ in names for n in range(62)}:
            items = await fresh.asearch(prefix, limit=1000)
            expected = {(ns, key) for ns, key in names if ns[: len(prefix)] == prefix}
            assert {(item.namespace, item.key) for item in items} == expected
            async with NatsStore.connect(mesh.nats_url) as narrow:
                assert len(await narrow.asearch(prefix, limit=1000)) == len(expected)
            if len(prefix) == 20:
                break
        listed = await fresh.alist_namespaces(limit=1000)
        assert listed == sorted({namespace for namespace, _ in names})
    await store.abatch([PutOp(*name, None) for name in names])
    assert await store.asearch((), limit=1000) == []


@pytest.mark.parametrize(
    ("namespace", "wrong"),
    [
        ((), "empty"),
        (("",), "empty"),
        (("a.b",), "periods"),
        (("a\x00",), "NUL"),
        ((1,), "must be strings"),
        (("langgraph", "a"), "langgraph"),
    ],
)
async def test_namespaces_that_langgraph_refuses(store: NatsStore, namespace, wrong: str):
    with pytest.raises(InvalidNamespaceError, match=wrong):
        await store.aput(namespace, "k", {})
    if wrong != "langgraph" and namespace:
        for op in (PutOp(namespace, "k", {}), GetOp(namespace, "k"), SearchOp(namespace)):
            with pytest.raises(InvalidNamespaceError, match=wrong):
                await store.abatch([op])
        with pytest.raises(InvalidNamespaceError, match=wrong):
            store.watch(namespace)
        with pytest.raises(InvalidNamespaceError, match=wrong):
            await store.aput_if(namespace, "k", {}, revision=0)
    assert await store.asearch(()) == []


async def test_half_a_surrogate_pair_is_refused_by_name(store: NatsStore):
    for namespace, key, field in (
        (("a", "\ud800"), "k", r"namespace\[1\]"),
        (("a",), "k\udfff", "key"),
    ):
        with pytest.raises(MeshError, match=rf"^{field}: half of a surrogate") as refused:
            await store.aput(namespace, key, {})
        assert refused.value.code is ErrorCode.INVALID_NAME


async def test_keys_are_text_whatever_is_given(store: NatsStore):
    await store.aput(("a",), 7, {"n": 7})  # type: ignore[arg-type]
    assert (await store.aget(("a",), "7")).value == {"n": 7}
    assert await store.abatch([GetOp(("a",), 7)]) == [await store.aget(("a",), "7")]


@pytest.mark.parametrize("tenant", ["", "t" * 101])
async def test_a_tenant_that_cannot_be_a_token(mesh: LocalMesh, tenant: str):
    with pytest.raises(MeshError, match=r"^tenant: "):
        async with NatsStore.connect(mesh.nats_url, tenant=tenant):
            pass
