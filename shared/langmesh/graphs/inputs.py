"""A graph's input schema: shown to clients, and checked before a run is accepted.

LangGraph itself checks little of its input. Here a field of a plain channel must have its declared
type, and the fields of an *explicit* input schema must all be there. Unknown fields are ignored, as
LangGraph does; a channel with a reducer takes whatever its reducer takes (``add_messages`` accepts
far more than its type says), so it is left to the reducer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from langgraph.channels.last_value import LastValue
from langgraph.graph.state import StateGraph
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic import ValidationError as PydanticValidationError

from langmesh.errors import ErrorCode, MeshError

Builder = StateGraph[Any, Any, Any, Any]


def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    """A validator for a type, or None for types that only their own code understands."""
    try:
        return TypeAdapter(kind)
    except (PydanticUserError, PydanticSchemaGenerationError, TypeError, NameError):
        return None


def _hints(schema: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(schema)
    except (NameError, TypeError):
        return {}


def json_schema(builder: Builder, schema: type[Any]) -> dict[str, Any]:
    """The JSON Schema of an input or output type, field by field where the whole has none."""
    if issubclass(schema, BaseModel) or dataclasses.is_dataclass(schema):
        whole = _adapter(schema)
        return dict(whole.json_schema()) if whole is not None else {}
    fields: dict[str, Any] = {}
    for name, kind in _hints(schema).items():
        adapter = _adapter(kind)
        try:
            fields[name] = adapter.json_schema() if adapter is not None else {}
        except PydanticUserError:
            fields[name] = {}
    result: dict[str, Any] = {"type": "object", "properties": fields}
    if required := _required(builder, schema):
        result["required"] = sorted(required)
    return result


def node_schemas(builder: Builder, node: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON Schemas of a node's input and of the state update that it returns.

    As far as LangGraph knows them: the input is what the node reads of the state, the update is any
    part of the state. A type without a schema has an empty one.
    """
    update = dict(_schema_of(builder, builder.state_schema))
    update.pop("required", None)  # nobody need return the whole state
    return _schema_of(builder, builder.nodes[node].input_schema), update


def _schema_of(builder: Builder, kind: Any) -> dict[str, Any]:
    return json_schema(builder, kind) if isinstance(kind, type) else {}


def _required(builder: Builder, schema: type[Any]) -> frozenset[str]:
    """Fields that must be there: those of an explicit schema, since a state is always partial."""
    if schema is builder.state_schema:
        return frozenset()
    return frozenset(getattr(schema, "__required_keys__", frozenset()))


class InputCheck:
    """Checks a run's input against a graph's input schema; made once per graph."""

    def __init__(self, builder: Builder) -> None:
        schema = builder.input_schema
        self._known = frozenset(builder.schemas[schema])
        self._plain = "__root__" in self._known
        self._required = _required(builder, schema)
        self._adapters: dict[str, TypeAdapter[Any]] = {}
        for name, kind in _hints(schema).items():
            if isinstance(builder.channels.get(name), LastValue):
                adapter = _adapter(kind)
                if adapter is not None:
                    self._adapters[name] = adapter

    def check(self, value: Any) -> None:
        """Accept an input or say what is wrong with it.

        Raises:
            MeshError: INVALID_INPUT naming the field.
        """
        if self._plain:
            return
        if not isinstance(value, dict):
            raise MeshError(
                ErrorCode.INVALID_INPUT,
                f"input: expected an object with {self._names()}, got {type(value).__name__}",
            )
        for name in sorted(self._required - value.keys()):
            raise MeshError(ErrorCode.INVALID_INPUT, f"input.{name}: is missing")
        if not (value.keys() & self._known):
            raise MeshError(
                ErrorCode.INVALID_INPUT,
                f"input: has none of the graph's fields; expected {self._names()}",
            )
        for name, adapter in self._adapters.items():
            if name in value:
                self._check_field(name, adapter, value[name])

    def _check_field(self, name: str, adapter: TypeAdapter[Any], value: Any) -> None:
        try:
            adapter.validate_python(value)
        except PydanticValidationError as exc:
            first = exc.errors(include_url=False)[0]
            path = ".".join(str(part) for part in (name, *first["loc"]))
            raise MeshError(
                ErrorCode.INVALID_INPUT,
                f"input.{path}: {first['msg']}, got {type(first['input']).__name__}",
            ) from exc

    def _names(self) -> str:
        return ", ".join(sorted(self._known))
