"""Exceptions across the wire and back, never by pickle."""

from __future__ import annotations

import builtins
import sys
import traceback
from typing import Any

from langgraph import errors as langgraph_errors

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.serde import Serde
from langmesh.wire.messages import ErrorInfo, Fault

_TRACEBACK_CHARS_MAX = 16_000
_MESSAGE_CHARS_MAX = 4_000


class RemoteNodeError(Exception):
    """A node raised an exception whose class is not known to this process."""


def to_fault(exc: BaseException, *, node: str, code: ErrorCode, serde: Serde) -> Fault:
    """Describe an exception; its arguments go along where they are plain data."""
    if isinstance(exc, MeshError):
        code = exc.code
    try:
        args = serde.encode(list(exc.args), what="exception arguments")
    except MeshError:
        args = None
    if args is not None and len(args.data) > _MESSAGE_CHARS_MAX:
        args = None
    kind = type(exc)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return Fault(
        code=code,
        type=name,
        message=text_of(exc),
        node=node,
        traceback=_traceback_of(exc),
        args=args,
    )


def fault_of(exc: BaseException, *, node: str, serde: Serde) -> Fault:
    """The fault that an exception was rebuilt of, or its description."""
    fault: Fault | None = getattr(exc, "__langmesh_fault__", None)
    if fault is not None:
        return fault
    return to_fault(exc, node=node, code=ErrorCode.NODE_RAISED, serde=serde)


def text_of(exc: BaseException) -> str:
    """An exception's text, bounded and encodable, whatever its own ``__str__`` does."""
    try:
        text = str(exc)
    except Exception as failure:  # noqa: BLE001  user code may raise anything
        text = f"<unprintable {type(exc).__name__}: {type(failure).__name__}>"
    return _encodable(text[:_MESSAGE_CHARS_MAX])


def _traceback_of(exc: BaseException) -> str:
    # The end of a traceback names the failure.
    return _encodable("".join(traceback.format_exception(exc))[-_TRACEBACK_CHARS_MAX:])


def _encodable(text: str) -> str:
    """A lone surrogate cannot be written as UTF-8; its escape can."""
    return text.encode("utf-8", "backslashreplace").decode()


def from_fault(fault: Fault, serde: Serde, *, imported: bool = False) -> Exception:
    """Rebuild an exception: its own class if that is built in or LangGraph's, else RemoteNodeError.

    The fault stays attached, so that the run's error event shows the agent's traceback.

    Args:
        fault: What was raised.
        serde: Of the graph.
        imported: Whether to know also the exceptions of the modules that this process has imported,
            as where user code may catch them.
    """
    exc = _known(fault, serde, imported=imported)
    if exc is None:
        exc = RemoteNodeError(f"{fault.type}: {fault.message}")
    exc.__langmesh_fault__ = fault  # type: ignore[attr-defined]
    return exc


def _known(fault: Fault, serde: Serde, *, imported: bool) -> Exception | None:
    if fault.type == "langmesh.errors.MeshError":
        message = fault.message.removesuffix(".").split(f" ({fault.code})", 1)[0]
        return MeshError(ErrorCode(fault.code), message)
    module, _, name = fault.type.rpartition(".")
    home: Any = {"": builtins, "langgraph.errors": langgraph_errors}.get(module)
    if home is None and imported:
        home = sys.modules.get(module)
    kind = getattr(home, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    args = serde.decode(fault.args, what="exception arguments") if fault.args is not None else None
    try:
        return kind(*(args if isinstance(args, list) else [fault.message]))
    except Exception:  # noqa: BLE001  constructors may demand anything
        return None


def error_info(exc: BaseException) -> ErrorInfo:
    """What a run's last event says of the exception that ended it."""
    fault: Fault | None = getattr(exc, "__langmesh_fault__", None)
    if fault is not None:
        remedy = exc.remedy if isinstance(exc, MeshError) else ""
        return ErrorInfo(
            type=fault.type,
            code=fault.code,
            message=fault.message,
            node=fault.node,
            traceback=fault.traceback,
            remedy=remedy,
        )
    if isinstance(exc, MeshError):
        return ErrorInfo(type="MeshError", code=exc.code, message=exc.message, remedy=exc.remedy)
    code = ErrorCode.INTERNAL
    if isinstance(exc, langgraph_errors.GraphRecursionError):
        code = ErrorCode.RECURSION_LIMIT
    elif isinstance(exc, langgraph_errors.InvalidUpdateError | langgraph_errors.EmptyInputError):
        code = ErrorCode.INVALID_INPUT
    return ErrorInfo(
        type=type(exc).__name__,
        code=code,
        message=text_of(exc),
        traceback=_traceback_of(exc),
    )
