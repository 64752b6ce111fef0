"""``langmesh completion``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse

from langmesh.cli.terminal import say, say_json
from langmesh.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell that is to complete")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Print the script."""
    del settings
    # Loaded by this command, and by no other: like the arguments of all commands.
    import shtab

    from langmesh.cli.main import parser

    script = shtab.complete(parser(), shell=args.shell)
    if args.json:
        say_json({"shell": args.shell, "script": script})
    else:
        say(script)
    return 0
