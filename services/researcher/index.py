"""The BM25 index over the corpus. The only module of the sample that needs bm25s and numpy."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any

from research.text import content_words
from services.researcher.corpus import Passage, read_corpus

_LENGTH_NORMALISATION = 0.4
"""BM25's b, below the usual 0.75: an explanation of 120 words is worth more than a remark of 20."""

_CANDIDATES_PER_RESULT = 10

_loading = Lock()


class Index:
    """Passages, searchable by the words that they and their titles hold.

    Args:
        passages: At least one.
    """

    def __init__(self, passages: list[Passage]) -> None:
        self._passages = passages
        self._bm25 = _bm25()
        self._bm25.index(
            [content_words(f"{p.title} {p.text}") or [""] for p in passages],
            show_progress=False,
        )
        self._vocabulary: dict[str, int] = self._bm25.vocab_dict

    def __len__(self) -> int:
        return len(self._passages)

    def search(self, query: str, limit: int) -> list[tuple[Passage, float]]:
        """The best passages for the query's words, best first, with their scores (above 0)."""
        asked = dict.fromkeys(content_words(query, beginnings=True))
        words = [known for word in asked for known in self._known(word)]
        if not words:
            return []
        documents, scores = self._bm25.retrieve(
            [words],
            k=min(_CANDIDATES_PER_RESULT * limit, len(self._passages)),
            show_progress=False,
            backend_selection="numpy",
        )
        found = (
            (self._passages[i], score * _weight(self._passages[i], words))
            for i, score in zip(documents[0].tolist(), scores[0].tolist(), strict=True)
            if score > 0
        )
        # The position breaks ties: the same question finds the same passages on every machine.
        return sorted(found, key=lambda f: (-f[1], f[0].source, f[0].line))[:limit]

    def _known(self, word: str) -> list[str]:
        if not word.endswith("*"):
            return [word] if word in self._vocabulary else []
        return sorted(w for w in self._vocabulary if w.startswith(word[:-1]))


def _weight(passage: Passage, words: list[str]) -> float:
    # BM25 is content with one of the words if it is rare or comes often. Here a passage that holds
    # all of them tells how they hang together, and one that is named after them defines them.
    asked, named = set(words), set(content_words(passage.title))
    held = asked & (named | set(content_words(passage.text)))
    return len(held) / len(asked) * (1 + 0.5 * len(named & asked) / len(named | asked))


def load_index(folder: str) -> Index:
    """The index of a folder, or of the text that ships with Python if ``folder`` is empty.

    Built by the first call of the process (about a second), then kept: a changed folder shows after
    a restart. An error is not kept.

    Raises:
        MeshError: CORPUS_MISSING naming the folder.
    """
    with _loading:  # several researchers start at once; one builds, the others wait
        return _load(folder)


@lru_cache(maxsize=1)
def _load(folder: str) -> Index:
    return Index(read_corpus(folder))


def _bm25() -> Any:
    with _hidden("jax", "numba", "scipy", "tqdm"):
        import bm25s
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s.BM25(b=_LENGTH_NORMALISATION, backend="numpy")


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    # bm25s imports accelerators wherever they are installed, whether used or not: hundreds of
    # megabytes for an index of a few.
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
