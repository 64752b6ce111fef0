"""What people see: tables, colours where there is a terminal, JSON where it was asked for."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from langmesh.errors import MeshError
from langmesh.wire import codec

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STYLE_CODE = re.compile(r"(\x1b\[[0-9;]*m)")
_CELL_MIN = 8


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


def columns() -> int | None:
    """How wide the terminal is, or None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit(text: str, width: int | None = None) -> str:
    """Text on one line, cut with an ellipsis where it is wider than the terminal.

    Args:
        text: What to show; it may have styles.
        width: Columns that it may take; those of the terminal if not given. Where standard output
            is no terminal, nothing is cut.
    """
    text = " ".join(text.splitlines()) if "\n" in text or "\r" in text else text
    width = columns() if width is None else width
    if width is None or (len(text) <= width and text.isascii()):
        return text
    shown: list[str] = []
    used = 0
    full = False
    for part in _STYLE_CODE.split(text):
        if part.startswith("\x1b"):
            shown.append(part)
            continue
        for char in part:
            used += _columns_of(char)
            if used > width and not full:
                full = True
                _make_room(shown, width)
            if not full:
                shown.append(char)
    return "".join(shown)


def _make_room(shown: list[str], width: int) -> None:
    """Take off what an ellipsis needs."""
    used = sum(_columns_of(each) for each in shown if not each.startswith("\x1b"))
    while used >= width and shown:
        used -= 0 if shown[-1].startswith("\x1b") else _columns_of(shown[-1])
        shown.pop()
    shown.append("…")


def _columns_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, shrink: Sequence[str] = ()
) -> list[str]:
    """Rows as aligned lines under a dim head.

    Args:
        head: Names of the columns.
        rows: Their cells.
        shrink: Columns whose cells are cut where the lines are wider than the terminal, the first
            to be cut first; without any, nothing is cut.
    """
    cells = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    excess = sum(widths) + 2 * (len(widths) - 1) - (columns() or sys.maxsize)
    for name in shrink:
        i = list(head).index(name)
        cut = min(max(excess, 0), max(widths[i] - max(_CELL_MIN, len(name)), 0))
        widths[i] -= cut
        excess -= cut

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            fit(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()

    lines = [styled(line(head), "dim"), *map(line, cells)]
    return [fit(each) for each in lines] if shrink else lines
