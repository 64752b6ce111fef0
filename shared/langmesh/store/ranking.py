"""Order by similarity: the same order and scores as LangGraph's ``InMemoryStore``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from langmesh.store.indexing import unpack
from langmesh.wire.items import ItemVectors

_T = TypeVar("_T")
_BIG: Final = 200_000


def is_big(vectors: Sequence[ItemVectors]) -> bool:
    """Whether comparing takes so long that it belongs in a thread: some milliseconds."""
    return sum(len(block.data) for block in vectors) > _BIG


def similarities(query: list[float], vectors: Sequence[ItemVectors | None]) -> list[list[float]]:
    """Cosine similarities of the query to each item's vectors.

    Args:
        query: Numbers of the query's vector.
        vectors: The vectors of each item; those of another length than the query have none, as
            another embedding function made them.

    Returns:
        For each item one number per vector, from -1 to 1; 0 where a vector is all zeros.
    """
    fitting = [each for each in vectors if each is not None and each.dims == len(query)]
    flat = iter((_with_numpy if _has_numpy() else _in_python)(query, fitting))
    return [next(flat) if each is not None and each.dims == len(query) else [] for each in vectors]


def rank(
    items: Sequence[_T], scores: Sequence[Sequence[float]], *, offset: int, limit: int
) -> list[tuple[float | None, _T]]:
    """The best items with the best of their scores, best first; equal ones in the given order.

    Items without a score fill the rest of the page, whatever the offset, as they do in the
    in-memory store.
    """
    best = [(max(each), item) for each, item in zip(scores, items, strict=True) if each]
    best.sort(key=lambda pair: pair[0], reverse=True)
    page: list[tuple[float | None, _T]] = [*best[: offset + limit][offset:]]
    if len(page) < limit:
        scoreless = [item for each, item in zip(scores, items, strict=True) if not each]
        page.extend((None, item) for item in scoreless[: limit - len(page)])
    return page


@functools.cache
def _has_numpy() -> bool:
    return find_spec("numpy") is not None


def _with_numpy(query: list[float], blocks: Sequence[ItemVectors]) -> list[list[float]]:
    # Only for those who search by similarity: numpy takes 30 MB and 100 ms to import.
    import numpy as np

    if not blocks:
        return []
    kinds = {"f32": "<f4", "f64": "<f8"}
    parts = [np.frombuffer(block.data, dtype=kinds[block.format]) for block in blocks]
    matrix: Any = np.concatenate(parts).astype(np.float64).reshape(-1, len(query))
    wanted = np.array(query)
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(wanted)
    products = matrix @ wanted
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).tolist()
    scores = []
    at = 0
    for part in parts:
        count = len(part) // len(query)
        scores.append(found[at : at + count])
        at += count
    return scores


def _in_python(query: list[float], blocks: Sequence[ItemVectors]) -> list[list[float]]:
    length = math.sqrt(sum(number * number for number in query))
    return [[_cosine(query, length, vector) for vector in unpack(block)] for block in blocks]


def _cosine(query: list[float], length: float, vector: list[float]) -> float:
    lengths = length * math.sqrt(sum(number * number for number in vector))
    product = sum(map(float.__mul__, query, vector))
    return product / lengths if lengths > 0 else 0.0
