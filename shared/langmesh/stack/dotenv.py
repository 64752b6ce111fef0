"""Read the variables of a ``.env`` file, as far as shells and dotenv tools agree on its format."""

from __future__ import annotations

import re
from typing import Final

from langmesh.errors import ErrorCode, MeshError

_LINE: Final = re.compile(
    r"""
    \s* (?:export\s+)? (?P<name>[A-Za-z_][A-Za-z0-9_.]*) \s* = [^\S\n]*
    (?: '(?P<literal>[^']*)' | "(?P<quoted>(?:[^"\\]|\\.)*)" | (?P<plain>[^\n]*?) )
    [^\S\n]* (?:(?<=[\s'"])\#[^\n]*)? (?:\n|\Z)
    """,
    re.VERBOSE,
)
_BLANK: Final = re.compile(r"[^\S\n]*(?:\#[^\n]*)?(?:\n|\Z)")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str, *, name: str = ".env") -> dict[str, str]:
    r"""Read lines of ``[export] NAME=value``.

    Values in single quotes are taken as they are, in double quotes with ``\n``, ``\t``, ``\"``;
    quoted ones may span lines. Without quotes a value ends at `` #`` or at the end of the line.
    References to other variables are not replaced.

    Args:
        text: The file.
        name: What to call it in errors.

    Raises:
        MeshError: INVALID_PROJECT naming the line.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if blank := _BLANK.match(text, at):
            at = blank.end()
            continue
        line = _LINE.match(text, at)
        if line is None:
            number = text.count("\n", 0, at) + 1
            raise MeshError(
                ErrorCode.INVALID_PROJECT,
                f"{name}, line {number}: expected NAME=value",
                remedy="Correct the line, or make it a comment with a leading #.",
            )
        found[line["name"]] = _value(line)
        at = line.end()
    return found


def _value(line: re.Match[str]) -> str:
    if line["literal"] is not None:
        return line["literal"]
    if line["quoted"] is not None:
        return re.sub(r"\\(.)", lambda each: _ESCAPES.get(each[1], each[1]), line["quoted"])
    return line["plain"].strip()
