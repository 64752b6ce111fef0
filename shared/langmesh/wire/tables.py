"""Tables for docs/protocol.md, read off the declarations: subjects, streams, messages, errors.

Nothing is listed by hand, so that what is added to the contract appears on the page. Meanings of
fields are the string literals below them in ``messages``, ``rpc`` and ``log``; msgspec keeps none
of those, so they are parsed from the source.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect as python_inspect
import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any

import msgspec
from msgspec import inspect

from langmesh.errors import CATALOGUE
from langmesh.wire import items, log, messages, rpc, streams, subjects

# Fields whose name says the same everywhere, and some that need a sentence but have none below
# them; ``Struct.field`` goes before ``field``, and a string literal below the field before both.
_COMMON = {
    "attempt": "Number of the attempt, from 1.",
    "caps": "Capabilities of the attempts to stop.",
    "checkpoint_id": "LangGraph's checkpoint that the task hangs on.",
    "chunks": "How many chunks the attempt published.",
    "code": "A code of the [error catalogue](#errors).",
    "command": "Answers an interrupt or redirects the run, instead of `input`.",
    "config": "The caller's part of LangGraph's RunnableConfig.",
    "configurable": 'What the graph\'s nodes read from `config["configurable"]`.',
    "context": "Where the task stands.",
    "coordinator": "Instance of the coordinator that drives the run.",
    "data": "The item itself, projected to JSON.",
    "delay_ms": "Milliseconds to wait before the next attempt.",
    "durability": "LangGraph's durability mode; governs which checkpoints history shows.",
    "error": "Why it failed.",
    "execute_ms": "Milliseconds from start to end of execution.",
    "executor": "The process that ran the attempt; absent when none did.",
    "fault": "The exception, for `error`, `retry` and `timeout`.",
    "first_attempt_at_ms": "When attempt 1 was sent, in milliseconds since the Unix epoch.",
    "goto": "Nodes to run next.",
    "graph": "Name of the graph.",
    "header": "Who, to whom, when, in which trace.",
    "host": "Name of its machine.",
    "input": "The graph's input.",
    "instance": "Instance of the agent.",
    "interrupts": "What the human is asked.",
    "max_concurrency": "Tasks of the run that may run at once.",
    "message": "One sentence for people.",
    "metadata": "Labels that LangGraph keeps with the checkpoints.",
    "mode": "The LangGraph stream mode.",
    "n": "Number of the chunk in its attempt: contiguous from 1.",
    "namespace": "Path of the nested graph that it comes from; empty for the run's own graph.",
    "next": "Nodes that run when the run goes on.",
    "node": "Name of the node.",
    "null_resume_consumed": "Whether the attempt took `null_resume` as its answer.",
    "output": "The graph's output, projected to JSON.",
    "payload": "What to do or what happened.",
    "pid": "Process id of the agent.",
    "queue_ms": "Milliseconds between sending and start, over two clocks.",
    "reason": "What the task waits for.",
    "recursion_limit": "Supersteps that the run may take.",
    "release": "Release of the node.",
    "remedy": "The way out, for people.",
    "resume": "The answer to the interrupt, or an object of answers by interrupt id.",
    "resumed": "Whether the run goes on after an interrupt.",
    "revision": "Hash of the pinned topology.",
    "run": "Id of the run.",
    "run_id": "Id of the run.",
    "seq": "Number of the event in its run: contiguous from 1.",
    "status": "How it ended.",
    "stream_seq": "The message's sequence in its stream.",
    "subject": "The message's subject.",
    "submit_seq": "The stream sequence that acknowledged the publish.",
    "superstep": "Number of the superstep.",
    "supersteps": "How many supersteps the run took.",
    "tags": "Labels that LangGraph hands to callbacks.",
    "task_id": "Id of the task; equal for all its attempts.",
    "tasks": "How many tasks the run executed.",
    "tenant": "Name of the tenant.",
    "thread": "Id of the thread.",
    "thread_id": "Id of the thread.",
    "time": "RFC 3339 in UTC; for people, never for order.",
    "trace_id": "Id of the run's trace; empty when it is not traced.",
    "traceback": "Where the node's code raised.",
    "triggers": "The channels whose updates made the task run.",
    "type": "Names the message and its version.",
    "update": "Values to write to the state.",
    "Submission.context": "The run's context, for a graph with a `context_schema`.",
    "Submission.run_id": "Id for the run; derived from the stream's sequence when absent.",
    "Submission.thread_id": "The conversation to continue; a new one when absent.",
    "Value.kind": "How to read `data`; see above.",
}

_PLAIN_TYPES: dict[type[inspect.Type], str] = {
    inspect.AnyType: "any",
    inspect.BoolType: "boolean",
    inspect.BytesType: "bytes",
    inspect.DateTimeType: "RFC 3339 text",
    inspect.FloatType: "number",
    inspect.IntType: "integer",
    inspect.NoneType: "null",
    inspect.StrType: "string",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; ``|`` in cells is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def anchor(heading: str) -> str:
    """The fragment under which Markdown renderers find a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def heading(kind: type[Any]) -> str:
    """A message's heading: its wire name where it has one."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return str(getattr(kind, "TYPE", None) or info.tag or kind.__name__)


def prose(text: str | None) -> str:
    """A docstring as Markdown paragraphs."""
    return python_inspect.cleandoc(text or "").replace("``", "`")


def structs(module: ModuleType = messages) -> list[type[Any]]:
    """Every struct that a module declares, in the order of its source, without abstract bases."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
        and not any(
            sub.__module__ == module.__name__ and not sub.__name__.startswith("_")
            for sub in kind.__subclasses__()
        )
    ]


def verb_table() -> str:
    """The verbs of requests."""
    rows = [
        [f"`{name}`", _link(verb.request), _link(verb.reply), verb.meaning]
        for name, verb in rpc.VERBS.items()
    ]
    return table(["verb", "request", "reply", "meaning"], rows)


def subject_rows() -> Iterator[tuple[str, str, str]]:
    """The shape, the stream and the purpose of each subject that ``subjects`` can build."""
    for name, build in vars(subjects).items():
        if name.startswith("_") or getattr(build, "__module__", "") != subjects.__name__:
            continue
        shape = _shape(build) if python_inspect.isfunction(build) else None
        if shape is not None:
            yield shape, _stream_of(shape), prose(build.__doc__).split("\n\n")[0]


def stream_table() -> str:
    """All settings of all streams."""
    columns = [f.name for f in dataclasses.fields(streams.StreamSpec) if f.name != "purpose"]
    rows = [
        [_setting(column, getattr(spec, column)) for column in columns] for spec in streams.STREAMS
    ]
    return table([c.removesuffix("_s").replace("_", " ") for c in columns], rows)


def stream_purposes() -> str:
    """What each stream is for."""
    return "\n".join(f"- **{spec.name}**: {spec.purpose}" for spec in streams.STREAMS)


def field_table(kind: type[Any]) -> str:
    """Name, type, default and meaning of each field of a struct."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    rows: list[list[str]] = []
    if info.tag_field is not None:
        rows.append([f"`{info.tag_field}`", f'`"{info.tag}"`', "required", _COMMON["type"]])
    rows.extend(
        [
            f"`{field.encode_name}`",
            type_name(field.type),
            _default(field),
            _meaning(kind, field.name),
        ]
        for field in info.fields
    )
    return table(["field", "type", "default", "meaning"], rows)


def error_table() -> str:
    """The error catalogue."""
    return table(
        ["code", "meaning", "retry may succeed", "way out"],
        [
            [f"`{code}`", spec.meaning, "yes" if spec.retryable else "no", spec.remedy]
            for code, spec in CATALOGUE.items()
        ],
    )


def type_name(kind: inspect.Type) -> str:
    """A type in words that do not depend on a language."""
    match kind:
        case inspect.UnionType(types=types):
            name = " or ".join(type_name(option) for option in types)
        case inspect.LiteralType(values=values):
            name = "one of " + ", ".join(f'`"{value}"`' for value in values)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            name = f"array of {type_name(item)}"
        case inspect.TupleType(item_types=items):
            name = f"[{', '.join(type_name(item) for item in items)}]"
        case inspect.DictType(value_type=inspect.AnyType()):
            name = "object"
        case inspect.DictType(value_type=value):
            name = f"object of {type_name(value)}"
        case inspect.StructType(cls=cls):
            name = f"[{cls.__name__}](#{anchor(heading(cls))})"
        case _:
            name = _PLAIN_TYPES.get(type(kind), type(kind).__name__.removesuffix("Type").lower())
    return name


def nested(kind: type[Any]) -> list[type[Any]]:
    """The structs that a struct's fields hold, directly or deeper, each once."""
    found: dict[type[Any], None] = {}
    pending: list[Any] = [inspect.type_info(kind)]
    while pending:
        info = pending.pop(0)
        match info:
            case inspect.StructType(cls=cls, fields=fields) if cls not in found:
                found[cls] = None
                pending.extend(field.type for field in fields)
            case inspect.UnionType(types=parts) | inspect.TupleType(item_types=parts):
                pending.extend(parts)
            case inspect.ListType(item_type=part) | inspect.DictType(value_type=part):
                pending.append(part)
            case _:
                pass
    del found[kind]
    return list(found)


def _link(kind: type[Any]) -> str:
    return f"[`{kind.__name__}`](#{anchor(kind.__name__)})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _shape(build: Callable[..., str]) -> str | None:
    """Build a subject of marks and put the parameters' names in their places."""
    marks: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    parameters = python_inspect.signature(build).parameters
    for name, parameter in parameters.items():
        if name == "subject":
            return None  # takes subjects apart instead of building one
        arguments[name] = marks[name] = f"mark-{name}"
        if name == "verb":
            arguments[name] = marks[name] = "mark.verb"  # the one part that is not a token
        elif parameter.annotation == "int":
            arguments[name] = 10**9 + len(marks)
            marks[name] = str(arguments[name])
        elif parameter.annotation.startswith("tuple"):
            arguments[name] = (marks[name],)
    shape = build(**arguments)
    for name, mark in marks.items():
        several = "…" if isinstance(arguments[name], tuple) else ""
        shape = shape.replace(mark, f"<{name}{several}>")
        if parameters[name].default is None:
            shape = shape.replace(f"<{name}>", f"<{name} or *>")
        elif parameters[name].default is not parameters[name].empty:
            shape = shape.replace(f".<{name}>", f"[.<{name}>]")
    return shape


def _stream_of(shape: str) -> str:
    parts = shape.split(".")
    for spec in streams.STREAMS:
        for wildcard in spec.subjects:
            pattern = wildcard.split(".")
            if pattern[-1] == ">":
                pattern, candidate = pattern[:-1], parts[: len(pattern) - 1]
            else:
                candidate = parts
            if len(pattern) == len(candidate) and all(
                want in ("*", part) for want, part in zip(pattern, candidate, strict=True)
            ):
                return spec.name
    return "–"


def _setting(name: str, value: Any) -> str:
    if name == "subjects":
        return "<br>".join(f"`{subject}`" for subject in value)
    if name == "marker_ttl_s" and not value:
        return "–"
    if name.endswith("_s"):
        return "unlimited" if not value else _duration(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Enum):
        return str(value.value)
    return "unlimited" if value == -1 else str(value)


def _duration(seconds: float) -> str:
    for unit, size in (("d", streams.DAY), ("h", streams.HOUR)):
        if seconds % size == 0:
            return f"{seconds // size:g} {unit}"
    return f"{seconds:g} s"


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    return f"`{msgspec.json.encode(value).decode()}`"


def _meaning(kind: type[Any], field: str) -> str:
    common = _COMMON.get(f"{kind.__name__}.{field}", _COMMON.get(field, ""))
    return _written_meanings(kind).get(field, common)


def _written_meanings(kind: type[Any]) -> dict[str, str]:
    """The string literals below the fields of a struct and of its bases."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        for module in (messages, rpc, log, items):
            if cls.__module__ == module.__name__:
                found.update(_source_meanings(module).get(cls.__name__, {}))
    return found


@cache
def _source_meanings(module: ModuleType) -> dict[str, dict[str, str]]:
    tree = ast.parse(python_inspect.getsource(module))
    return {
        cls.name: {
            field.target.id: prose(text.value.value)
            for field, text in zip(cls.body, cls.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        }
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
    }
