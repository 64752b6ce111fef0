"""Which items and namespaces a search is for; the same answers as LangGraph's ``InMemoryStore``.

Apart from one: an item that lacks the field, or has no number there, does not meet ``$gt``,
``$gte``, ``$lt`` and ``$lte``, where the in-memory store raises ``TypeError``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from langgraph.store.base import MatchCondition

from langmesh.errors import ErrorCode, MeshError

_NUMERIC: Final[dict[str, Callable[[float, float], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS: Final = ("$eq", "$ne", *_NUMERIC)


def check_filter(wanted: Any, *, field: str = "filter") -> None:
    """Refuse a filter that no item could be compared with.

    Raises:
        MeshError: INVALID_FIELD naming the part and its problem.
    """
    if not isinstance(wanted, dict):
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"{field}: expected a dict, got a {type(wanted).__name__}",
            remedy='Write {"field": value} or {"field": {"$gt": number}}.',
        )
    for key, value in wanted.items():
        if isinstance(value, dict):
            _check_condition(value, f"{field}[{key!r}]")


def _check_condition(condition: dict[Any, Any], field: str) -> None:
    if not any(str(key).startswith("$") for key in condition):
        check_filter(condition, field=field)
        return
    for name, operand in condition.items():
        if name not in _OPERATORS:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"{field}: unknown operator {name!r}",
                remedy=f"Use one of {', '.join(_OPERATORS)}.",
            )
        if name in _NUMERIC and _number(operand) is None:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"{field}[{name!r}]: {operand!r} is not a number",
                remedy="Compare with a number; use $eq and $ne for anything else.",
            )


def matches(value: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether an item's value meets every condition of a checked filter."""
    return all(_meets(value.get(key), condition) for key, condition in wanted.items())


def _meets(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict):
        if any(str(key).startswith("$") for key in condition):
            return all(_compares(value, name, operand) for name, operand in condition.items())
        return isinstance(value, dict) and all(
            _meets(value.get(key), part) for key, part in condition.items()
        )
    if isinstance(condition, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(condition)
            and all(map(_meets, value, condition))
        )
    return bool(value == condition)


def _compares(value: Any, name: str, operand: Any) -> bool:
    if name == "$eq":
        return bool(value == operand)
    if name == "$ne":
        return bool(value != operand)
    left, right = _number(value), _number(operand)
    return left is not None and right is not None and _NUMERIC[name](left, right)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def select_namespaces(
    namespaces: Iterable[tuple[str, ...]],
    conditions: Sequence[MatchCondition],
    *,
    max_depth: int | None,
    limit: int,
    offset: int,
) -> list[tuple[str, ...]]:
    """The namespaces that meet all conditions, cut to a depth, sorted, without repetition."""
    found = {
        namespace[:max_depth]
        for namespace in namespaces
        if all(_namespace_meets(namespace, condition) for condition in conditions)
    }
    return sorted(found)[offset : offset + limit]


def _namespace_meets(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    if condition.match_type == "prefix":
        part = namespace[: len(path)]
    elif condition.match_type == "suffix":
        part = namespace[len(namespace) - len(path) :]
    else:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"match_conditions: unknown match_type {condition.match_type!r}",
            remedy="Use prefix or suffix.",
        )
    return all(want in ("*", have) for want, have in zip(path, part, strict=True))


def literal_prefix(conditions: Iterable[MatchCondition]) -> tuple[str, ...]:
    """The longest prefix without wildcards that every namespace which meets them has."""
    longest: tuple[str, ...] = ()
    for condition in conditions:
        if condition.match_type == "prefix":
            path = tuple(condition.path)
            literal = path[: path.index("*")] if "*" in path else path
            longest = max(longest, literal, key=len)
    return longest
