"""Texts of items to vectors, by the embedding function that the store was given."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final, Literal

from langgraph.store.base import (
    IndexConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.items import ItemVectors

Wanted = Literal[False] | list[str] | None
"""The ``index`` argument of a put: not at all, these fields, or the store's own."""
_WHOLE: Final = "$"
_REMEDY: Final = "The function takes a list of texts and returns one list of numbers for each."


class Index:
    """Embeds what is put and what is searched for.

    Args:
        config: ``embed``, ``dims`` and ``fields``, as ``InMemoryStore`` takes them.
    """

    def __init__(self, config: IndexConfig) -> None:
        self.config = config
        self.embeddings = ensure_embeddings(config.get("embed"))
        self._dims = config.get("dims")
        self._paths = [_tokens(path) for path in config.get("fields") or [_WHOLE]]

    async def embed_items(
        self, items: Sequence[tuple[dict[str, Any], Wanted]]
    ) -> list[ItemVectors | None]:
        """The vectors of each (value, wanted fields); every text is embedded once.

        Raises:
            MeshError: INVALID_FIELD if the function returns something else than vectors.
        """
        texts = [self._texts(value, wanted) for value, wanted in items]
        known = list(dict.fromkeys(text for each in texts for text in each))
        if not known:
            return [None] * len(items)
        vectors = await self.embeddings.aembed_documents(known)
        if len(vectors) != len(known):
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"index.embed: {len(known)} texts gave {len(vectors)} vectors",
                remedy=_REMEDY,
            )
        by_text = {text: self._checked(vector) for text, vector in zip(known, vectors, strict=True)}
        return [pack([by_text[text] for text in each]) for each in texts]

    async def embed_query(self, query: str) -> list[float]:
        """The vector of a query.

        Raises:
            MeshError: INVALID_FIELD if the function returns something else than a vector.
        """
        return self._checked(await self.embeddings.aembed_query(query))

    def _texts(self, value: dict[str, Any], wanted: Wanted) -> list[str]:
        if wanted is False:
            return []
        paths = self._paths if wanted is None else [tokenize_path(path) for path in wanted]
        return [text for path in paths for text in get_text_at_path(value, path)]

    def _checked(self, vector: Any) -> list[float]:
        try:
            numbers = array("d", vector).tolist()
        except TypeError as exc:
            raise MeshError(
                ErrorCode.INVALID_FIELD, f"index.embed: not a vector: {exc}", remedy=_REMEDY
            ) from exc
        if not numbers or (self._dims and len(numbers) != self._dims):
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"index.embed: a vector of {len(numbers)} numbers, index.dims is {self._dims}",
                remedy="Set index.dims to what the embedding function returns.",
            )
        if not all(map(math.isfinite, numbers)):
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                "index.embed: a vector holds a number that is not finite",
                remedy=_REMEDY,
            )
        return numbers


def check_wanted(wanted: Any) -> None:
    """Refuse what cannot name fields.

    Raises:
        MeshError: INVALID_FIELD.
    """
    paths = wanted if isinstance(wanted, list | tuple) else []
    if wanted in (None, False) or (paths and all(isinstance(path, str) for path in paths)):
        return
    if wanted == []:
        return
    raise MeshError(
        ErrorCode.INVALID_FIELD,
        f"index: expected None, False or a list of field paths, got {wanted!r}",
        remedy='Write index=["title", "chapters[*].text"].',
    )


def pack(vectors: Sequence[list[float]]) -> ItemVectors | None:
    """Vectors of one length as they are stored: in 4 bytes per number where that loses nothing."""
    if not vectors:
        return None
    numbers = [number for vector in vectors for number in vector]
    short = array("f", numbers)
    exact = short.tolist() == numbers
    packed = short if exact else array("d", numbers)
    _little_endian(packed)
    return ItemVectors(
        format="f32" if exact else "f64", dims=len(vectors[0]), data=packed.tobytes()
    )


def unpack(vectors: ItemVectors) -> list[list[float]]:
    """The inverse of :func:`pack`."""
    numbers = array("f" if vectors.format == "f32" else "d")
    numbers.frombytes(vectors.data)
    _little_endian(numbers)
    return [
        numbers[start : start + vectors.dims].tolist()
        for start in range(0, len(numbers), vectors.dims)
    ]


def whole(vectors: ItemVectors) -> bool:
    """Whether the bytes are as many as whole vectors take."""
    size = vectors.dims * (4 if vectors.format == "f32" else 8)
    return size > 0 and len(vectors.data) > 0 and len(vectors.data) % size == 0


def _tokens(path: str) -> str | list[str]:
    return path if path == _WHOLE else tokenize_path(path)


def _little_endian(numbers: array[float]) -> None:
    if sys.byteorder == "big":
        numbers.byteswap()
