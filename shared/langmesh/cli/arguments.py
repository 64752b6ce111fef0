"""What the command line's options may hold, and how its commands are declared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


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
    head = "Example" if len(examples) == 1 else "Examples"
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="\n".join([f"{head}:", *(f"  langmesh {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser
