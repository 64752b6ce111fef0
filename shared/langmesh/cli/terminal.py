"""What people see: tables, colours where there is a terminal, JSON where it was asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from langmesh.errors import MeshError
from langmesh.wire import codec

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def styled(text: str, style: str) -> str:
    """Text in a style, where standard output is a terminal and NO_COLOR is unset."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def say(text: str = "") -> None:
    """Print one line at once."""
    print(text, flush=True)


def say_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(codec.encode_json(value).decode(), flush=True)


def say_error(exc: MeshError, *, as_json: bool) -> None:
    """Print a failure: what is wrong and the way out, never a traceback."""
    if as_json:
        say_json({"error": {"code": str(exc.code), "message": exc.message, "remedy": exc.remedy}})
    print(f"langmesh: {exc.message} ({exc.code})\n  {exc.remedy}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as aligned lines under a dim head."""
    cells = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()

    return [styled(line(head), "dim"), *map(line, cells)]
