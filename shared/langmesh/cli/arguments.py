"""What the command line's options may hold, and how its commands are declared."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def port(text: str) -> int:
    """A TCP port, or 0 for a free one."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text}")
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Since:
    """A beginning: a sequence of a stream, or some seconds ago."""

    seq: int | None = None
    seconds: float = 0.0


def since(text: str) -> Since:
    """A sequence of a stream, or a duration such as 90s, 10m, 2h or 1d."""
    if text.isascii() and text.isdigit():
        return Since(seq=int(text))
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text, re.ASCII)
    seconds = float(found[1]) * _UNITS[found[2]] if found is not None else math.inf
    # Nothing is kept for so long, and dates end somewhere.
    if seconds > 10_000 * _UNITS["d"]:
        raise argparse.ArgumentTypeError(
            f"expected a sequence or a duration such as 90s, 10m, 2h, 1d, got {text!r}"
        )
    return Since(seconds=seconds)


def completing(action: argparse.Action, what: str) -> None:
    """Let shells complete an argument with a ``file`` or ``directory``."""
    kind: Any = action
    # Where shtab looks; it knows both words.
    kind.complete = what


Commands = argparse._SubParsersAction  # noqa: SLF001  what add_subparsers returns has no public name


def subcommands(parser: argparse.ArgumentParser) -> Commands[argparse.ArgumentParser]:
    """Give a command commands of its own; ``args.action`` tells which one was called."""
    return parser.add_subparsers(dest="action", required=True, metavar="ACTION")


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Add a command that takes ``--json`` and shows examples in its help.

    Args:
        commands: Of the command line, or of a command with subcommands.
        name: What is typed.
        summary: One line.
        examples: Command lines without the leading ``langmesh``.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n".join(["Examples:", *(f"  langmesh {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser
