"""What may be stored: JSON and nothing else, copied so that nobody else holds what is kept.

Accepted is what ``json.dumps`` writes and ``json.loads`` reads back as an equal value, apart from
tuples, which become lists. Whatever else would come back as something different is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.codec import DEPTH_MAX

_INT_BITS_MAX: Final = 1024
_REMEDY: Final = "Store plain data: str, int, float, bool, None, and lists and dicts of them."


class _Unfit(Exception):
    """A problem deep in a value; the path is completed on the way up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""


def plain_value(value: Any) -> dict[str, Any]:
    """A copy of an item's value, of nothing but dict, list, str, int, float, bool and None.

    Raises:
        MeshError: VALUE_NOT_SERIALIZABLE naming the field and its problem.
    """
    if not isinstance(value, Mapping):
        raise MeshError(
            ErrorCode.VALUE_NOT_SERIALIZABLE,
            f"value: expected a mapping with string keys, got a {type(value).__name__}",
            remedy='Wrap it: {"value": …}.',
        )
    try:
        return _plain_dict(dict(value), 1)
    except _Unfit as exc:
        raise MeshError(
            ErrorCode.VALUE_NOT_SERIALIZABLE, f"value{exc.path}: {exc.problem}", remedy=_REMEDY
        ) from None


def plain_name(name: Any, *, field: str) -> str:
    """A label or a key as a plain string.

    Raises:
        MeshError: INVALID_NAME if it is no text that UTF-8 can write.
    """
    try:
        return _plain_text(name if isinstance(name, str) else str(name))
    except _Unfit as exc:
        raise MeshError(
            ErrorCode.INVALID_NAME,
            f"{field}: {exc.problem}",
            remedy="Use text that UTF-8 can encode.",
        ) from None


def _plain(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise _Unfit(f"nested deeper than {DEPTH_MAX} levels, or inside itself")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int | float):
        return _plain_number(value)
    if isinstance(value, dict):
        return _plain_dict(value, depth)
    if isinstance(value, list | tuple):
        return _plain_list(value, depth)
    raise _Unfit(f"a value of type {type(value).__name__} is not JSON")


def _plain_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    copy: dict[str, Any] = {}
    for key, item in dict.items(value):
        if not isinstance(key, str):
            raise _Unfit(f"the key {key!r} is of type {type(key).__name__}, not a string")
        try:
            copy[_plain_text(key)] = _plain(item, depth + 1)
        except _Unfit as exc:
            exc.path = f"[{key!r}]{exc.path}"
            raise
    return copy


def _plain_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    copy = []
    for index, item in enumerate(value):
        try:
            copy.append(_plain(item, depth + 1))
        except _Unfit as exc:
            exc.path = f"[{index}]{exc.path}"
            raise
    return copy


def _plain_number(value: float) -> int | float:
    if isinstance(value, int):
        if value.bit_length() > _INT_BITS_MAX:
            raise _Unfit(f"an int of {value.bit_length()} bits, more than {_INT_BITS_MAX}")
        return int.__index__(value)
    if not math.isfinite(value):
        raise _Unfit(f"JSON has no {value!r}")
    return float.__pos__(value)


def _plain_text(value: str) -> str:
    # Of a subclass, its content and not what its own __str__ says.
    text = str.__str__(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Unfit("half of a surrogate pair is no text") from None
    return text
