"""LangGraph's in-memory store beside ours, and what of it is no contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langgraph.store.base import Item, Op, PutOp, SearchItem
from langgraph.store.memory import InMemoryStore

EVERYTHING = 1_000_000


def shown(item: Item | None) -> Any:
    """An item without its times, which no two stores share."""
    if item is None:
        return None
    assert item.created_at <= item.updated_at
    return (item.namespace, item.key, item.value)


class Oracle:
    """An in-memory store without the traces that its reads and deletions leave.

    It keeps namespaces that were only looked at, that are empty again, or from which was deleted
    what was never there, and lists them. Without
    those its order is ours: namespaces by their oldest item, unless that was deleted, when it
    still remembers the place and we do not.
    """

    def __init__(self, **index: Any) -> None:
        self.store = InMemoryStore(**index)
        self.born: dict[tuple[tuple[str, ...], str], int] = {}
        self.deletions = 0
        self._clock = 0

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        ops = list(ops)
        last = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        known = [op for name, op in last.items() if op.value is not None or name in self.born]
        results = [None] * len(ops) if last else self.store.batch(ops)
        self.store.batch(known)
        for op in known:
            name = (op.namespace, op.key)
            if op.value is not None:
                self._clock += 1
                self.born.setdefault(name, self._clock)
            else:
                del self.born[name]
                self.deletions += 1
        self.tidy()
        return results

    def tidy(self) -> None:
        data = self.store._data
        for namespace in [each for each, items in data.items() if not items]:
            del data[namespace]

    def search(
        self, prefix: tuple[str, ...], *, limit: int, offset: int, **how: Any
    ) -> list[SearchItem]:
        if not self.deletions:
            return self.store.search(prefix, limit=limit, offset=offset, **how)
        oldest: dict[tuple[str, ...], int] = {}
        for (namespace, _), born in self.born.items():
            oldest[namespace] = min(born, oldest.get(namespace, born))
        found = self.store.search(prefix, limit=EVERYTHING, **how)
        found.sort(key=lambda i: (oldest[i.namespace], self.born[i.namespace, i.key]))
        return found[offset : offset + limit]
