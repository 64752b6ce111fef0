"""Whatever is done to it, the store answers as LangGraph's in-memory store does.

The operations run without ``await``, from another thread than the store's event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langgraph.store.base import MatchCondition, PutOp, SearchOp

from langmesh.bus import Bus
from langmesh.store import NatsStore
from langmesh.testing import local_mesh
from tests.store.oracle import EVERYTHING, Oracle, shown

LABEL = st.sampled_from(["a", "b", "a b", "ü", "*", ">", "h--a", "x--"])
NAMESPACE = st.lists(LABEL, min_size=1, max_size=3).map(tuple)
PREFIX = st.lists(LABEL, max_size=3).map(tuple)
KEY = st.sampled_from(["k", "K", "k.1", "", "*", "a", "\x00", "ключ"])
NUMBER = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, -0.0, 2**70, 1e300]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, st.sampled_from(["", "x", "7", "é\u2028"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=5,
)
VALUE = st.fixed_dictionaries({"n": NUMBER}, optional={"t": JSON, "": JSON})
COMPARISON = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), NUMBER, min_size=1, max_size=2
)
EQUALITY = st.dictionaries(st.sampled_from(["$eq", "$ne"]), JSON, min_size=1, max_size=2)
FILTER = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"n": st.one_of(NUMBER, COMPARISON), "t": st.one_of(JSON, EQUALITY)}
    ),
)
PATH = st.lists(st.one_of(LABEL, st.just("*")), min_size=1, max_size=3).map(tuple)
CONDITION = st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATH)
PAGE = {"limit": st.integers(0, 5), "offset": st.integers(0, 3)}

PUT = st.tuples(st.just("put"), NAMESPACE, KEY, VALUE)
DELETE = st.tuples(st.just("delete"), NAMESPACE, KEY)
BATCH = st.tuples(
    st.just("batch"),
    st.lists(st.tuples(NAMESPACE, KEY, st.one_of(st.none(), VALUE)), max_size=4),
)
STEP = st.one_of(
    PUT,
    PUT,
    DELETE,
    BATCH,
    st.tuples(st.just("get"), NAMESPACE, KEY),
    st.tuples(st.just("search"), PREFIX, st.fixed_dictionaries({"filter": FILTER, **PAGE})),
    st.tuples(
        st.just("list"),
        st.fixed_dictionaries(
            {
                "prefix": st.one_of(st.none(), PATH),
                "suffix": st.one_of(st.none(), PATH),
                "max_depth": st.one_of(st.none(), st.integers(1, 3)),
                **PAGE,
            }
        ),
    ),
)


# A step takes milliseconds, so that shrinking would take minutes.
CHECKED = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Elsewhere:
    """A mesh in the event loop of another thread."""

    loop: asyncio.AbstractEventLoop
    bus: Bus
    tenants: Iterator[str]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            made = function(*args, **kwargs)
            return await made if asyncio.iscoroutine(made) else made

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(timeout=60)

    def store(self, **how: Any) -> NatsStore:
        """An empty store."""
        return self.call(NatsStore, self.bus, tenant=next(self.tenants), **how)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    ready = threading.Event()
    made: list[Elsewhere] = []
    over: list[asyncio.Event] = []

    async def main() -> None:
        async with local_mesh() as mesh:
            loop = asyncio.get_running_loop()
            over.append(asyncio.Event())
            made.append(Elsewhere(loop, mesh.bus, (f"tenant {each}" for each in itertools.count())))
            ready.set()
            await over[0].wait()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert ready.wait(60)
    yield made[0]
    made[0].loop.call_soon_threadsafe(over[0].set)
    thread.join(60)


def take(step: tuple[Any, ...], store: NatsStore, oracle: Oracle) -> None:
    """Do the same to both, and compare what they answer."""
    match step:
        case ("put", namespace, key, value):
            store.put(namespace, key, value)
            oracle.batch([PutOp(namespace, key, value)])
            assert shown(store.get(namespace, key)) == (namespace, key, value)
        case ("delete", namespace, key):
            store.delete(namespace, key)
            oracle.batch([PutOp(namespace, key, None)])
            assert store.get(namespace, key) is None
        case ("batch", puts):
            ops = [PutOp(*put) for put in puts]
            assert store.batch(ops) == oracle.batch(ops)
        case ("get", namespace, key):
            assert shown(store.get(namespace, key)) == shown(oracle.store.get(namespace, key))
            oracle.tidy()
        case ("search", prefix, how):
            found = [shown(item) for item in store.search(prefix, **how)]
            expected = oracle.search(prefix, **how)
            assert found == [shown(item) for item in expected]
        case ("list", how):
            assert store.list_namespaces(**how) == oracle.store.list_namespaces(**how)


@given(steps=st.lists(STEP, min_size=1, max_size=25))
@CHECKED
def test_the_same_answers_after_every_step(elsewhere: Elsewhere, steps: list[Any]):
    store, oracle = elsewhere.store(), Oracle()
    try:
        for step in steps:
            take(step, store, oracle)
            found = store.search((), limit=EVERYTHING)
            everything = oracle.search((), limit=EVERYTHING, offset=0)
            assert list(map(shown, found)) == list(map(shown, everything))
        namespaces = {"limit": EVERYTHING}
        assert store.list_namespaces(**namespaces) == oracle.store.list_namespaces(**namespaces)
        fresh = elsewhere.call(NatsStore, elsewhere.bus, tenant=store.tenant)
        again = fresh.search((), limit=EVERYTHING)
        assert list(map(shown, again)) == list(map(shown, everything)), "as filled anew"
        elsewhere.call(fresh.aclose)
    finally:
        elsewhere.call(store.aclose)


WORD = st.sampled_from(["apple", "apple pie", "pear", "plum", "a", "zebra", "apple and pear"])
PART = st.sampled_from(["lapel", "zeal", "pleat", "e e e"])
# The in-memory store fails when one put has one text twice.
DOCUMENT = st.fixed_dictionaries(
    {"title": WORD, "n": st.integers(0, 2)},
    optional={
        "parts": st.lists(PART, unique=True, max_size=3).map(
            lambda words: [{"text": word} for word in words]
        )
    },
)
FIELDS = st.one_of(
    st.none(), st.just(False), st.just(["title"]), st.just(["parts[*].text", "title"])
)


def embed(texts: list[str]) -> list[list[float]]:
    """Frequencies of some letters."""
    return [[text.count(letter) / 7 for letter in "aeplz "] for text in texts]


@given(
    documents=st.lists(st.tuples(NAMESPACE, DOCUMENT, FIELDS), min_size=1, max_size=12),
    fields=st.sampled_from([None, ["$"], ["title"], ["title", "parts[*].text"], ["missing"]]),
    searches=st.lists(
        st.builds(
            SearchOp,
            PREFIX,
            st.one_of(st.none(), st.just({"n": 1})),
            limit=st.integers(1, 15),
            offset=st.integers(0, 3),
            query=st.one_of(WORD, st.just(""), st.none()),
            refresh_ttl=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
)
@CHECKED
def test_the_same_order_and_scores(
    elsewhere: Elsewhere, documents: list[Any], fields: Any, searches: list[SearchOp]
):
    index = {"dims": 6, "embed": embed, "fields": fields}
    store, oracle = elsewhere.store(index=index), Oracle(index=index)
    try:
        for number, (namespace, document, wanted) in enumerate(documents):
            op = PutOp(namespace, f"key {number}", document, wanted)
            store.batch([op])
            oracle.batch([op])
        for search in searches:
            (found,) = store.batch([search])
            (expected,) = oracle.batch([search])
            scores = [item.score for item in expected]
            assert [item.score for item in found] == pytest.approx(scores, abs=1e-6)
            assert clustered(found) == clustered(expected)
    finally:
        elsewhere.call(store.aclose)


def clustered(items: list[Any]) -> list[Any]:
    """Items in order; among scores that differ by rounding alone the order is free."""
    groups: list[tuple[float | None, list[Any]]] = []
    for item in items:
        last = groups[-1][0] if groups else None
        if not groups or (item.score is None) != (last is None) or differ(item.score, last):
            groups.append((item.score, []))
        groups[-1][1].append(shown(item))
    return [sorted(map(repr, group)) if score else group for score, group in groups]


def differ(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) > 1e-9
