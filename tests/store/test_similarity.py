"""Search by similarity: what is embedded, when, and how it is kept."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore

from langmesh.errors import ErrorCode, MeshError
from langmesh.store import NatsStore, ranking
from langmesh.store.indexing import pack, unpack, whole
from langmesh.testing import LocalMesh

FINITE = st.floats(allow_nan=False, allow_infinity=False)


class Counted(Embeddings):
    """Embeds by the letters a, b and c, and remembers what it was asked."""

    def __init__(self) -> None:
        self.documents: list[list[str]] = []
        self.queries: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents.append(texts)
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return [float(text.count(letter)) for letter in "abc"]


async def test_each_text_is_embedded_once_when_it_is_put(mesh: LocalMesh):
    embed = Counted()
    index: Any = {"dims": 3, "embed": embed, "fields": ["text"]}
    async with NatsStore.connect(mesh.nats_url, index=index) as store:
        await store.abatch(
            [PutOp(("a",), f"k{n}", {"text": text}) for n, text in enumerate(["aab", "bc", "aab"])]
        )
        await store.aput(("a",), "none", {"other": "aaa"})
        await store.aput(("a",), "not", {"text": "aaa"}, index=False)
        await store.aput(("a",), "own", {"text": "x", "title": "cc"}, index=["title"])
        assert embed.documents == [["aab", "bc"], ["cc"]]
    async with NatsStore.connect(mesh.nats_url, index=index) as other:
        for _ in range(2):
            found = await other.asearch(("a",), query="a")
            assert [(item.key, item.score) for item in found] == [
                ("k0", pytest.approx(2 / math.sqrt(5))),
                ("k2", pytest.approx(2 / math.sqrt(5))),
                ("k1", 0.0),
                ("own", 0.0),
                ("none", None),
                ("not", None),
            ]
        await other.aput(("a",), "k0", {"text": "c"})
        assert (await other.asearch(("a",), query="a", limit=1))[0].key == "k2"
    assert embed.documents == [["aab", "bc"], ["cc"], ["c"]]
    async with NatsStore.connect(mesh.nats_url) as plain:
        found = await plain.asearch(("a",), query="a")
        assert [item.score for item in found] == [None] * 6


async def test_async_functions_and_other_models(mesh: LocalMesh):
    async def two(texts: list[str]) -> list[list[float]]:
        return [[0.1, float(len(text))] for text in texts]

    async def three(texts: list[str]) -> list[list[float]]:
        return [[0.1, float(len(text)), 0.3] for text in texts]

    async with (
        NatsStore.connect(mesh.nats_url, index={"dims": 2, "embed": two}) as a,
        NatsStore.connect(mesh.nats_url, index={"dims": 3, "embed": three}) as b,
    ):
        await a.aput(("x",), "two", {"n": 1})
        await b.aput(("x",), "three", {"n": 1})
        for store, own, foreign in ((a, "two", "three"), (b, "three", "two")):
            first, second = await store.asearch(("x",), query="q")
            assert (first.key, second.key, second.score) == (own, foreign, None)
            assert first.score is not None


@pytest.mark.parametrize(
    ("embed", "wrong"),
    [
        (lambda texts: [], "1 texts gave 0 vectors"),
        (lambda texts: [[1.0] for _ in texts], "a vector of 1 numbers, index.dims is 2"),
        (lambda texts: [["a", "b"] for _ in texts], "not a vector"),
        (lambda texts: [None for _ in texts], "not a vector"),
        (lambda texts: [[1.0, math.nan] for _ in texts], "not finite"),
    ],
)
async def test_what_is_no_vector(mesh: LocalMesh, embed: Any, wrong: str):
    async with NatsStore.connect(mesh.nats_url, index={"dims": 2, "embed": embed}) as store:
        with pytest.raises(MeshError, match=wrong) as refused:
            await store.aput(("a",), "k", {"n": 1})
        assert refused.value.code is ErrorCode.INVALID_FIELD
        assert "index.embed" in refused.value.message
        assert await store.aget(("a",), "k") is None


@pytest.mark.parametrize("index", [True, "title", ["a", 1], {"a": 1}, 3])
async def test_an_index_that_names_no_fields(store: NatsStore, index: Any):
    with pytest.raises(MeshError, match=r"^index: "):
        await store.aput(("a",), "k", {}, index=index)


async def test_many_vectors_are_compared_beside_the_event_loop(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ranking, "_BIG", 1000)

    def embed(texts: list[str]) -> list[list[float]]:
        return [[math.sin(len(text) * (n + 1)) for n in range(32)] for text in texts]

    index: Any = {"dims": 32, "embed": embed, "fields": ["text"]}
    oracle = InMemoryStore(index=index)
    async with NatsStore.connect(mesh.nats_url, index=index) as store:
        puts = [PutOp(("a",), f"k{n}", {"text": "x" * n}) for n in range(1, 200)]
        await store.abatch(puts)
        oracle.batch(puts)
        found, expected = await asyncio.gather(
            store.asearch(("a",), query="xxxx", limit=50),
            oracle.asearch(("a",), query="xxxx", limit=50),
        )
    assert [item.key for item in found] == [item.key for item in expected]
    scores = [item.score for item in expected]
    assert [item.score for item in found] == pytest.approx(scores, abs=1e-6)


@given(st.integers(1, 4).flatmap(
    lambda dims: st.lists(st.lists(FINITE, min_size=dims, max_size=dims), min_size=1, max_size=3)
))  # fmt: skip
def test_vectors_are_kept_without_loss(vectors: list[list[float]]):
    packed = pack(vectors)
    assert packed is not None
    assert unpack(packed) == vectors
    assert whole(packed)


def test_short_numbers_take_four_bytes():
    short, long = pack([[0.5, 1.0]]), pack([[0.1, 1.0]])
    assert short is not None
    assert long is not None
    assert (short.format, len(short.data)) == ("f32", 8)
    assert (long.format, len(long.data)) == ("f64", 16)


SMALL = st.floats(-10, 10, width=32)
VECTOR = st.lists(SMALL, min_size=3, max_size=3)


@given(VECTOR, st.lists(st.lists(VECTOR, max_size=2), max_size=5))
def test_with_numpy_and_without_the_scores_are_the_same(query, items):
    blocks = [pack(vectors) for vectors in items]
    present = [block for block in blocks if block is not None]
    with_numpy = ranking._with_numpy(query, present)
    in_python = ranking._in_python(query, present)
    assert [len(each) for each in with_numpy] == [len(each) for each in in_python]
    for one, other in zip(with_numpy, in_python, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
        assert all(-1.000001 <= score <= 1.000001 for score in other)
    scores = ranking.similarities(query, blocks)
    assert [len(each) for each in scores] == [len(vectors) for vectors in items]
