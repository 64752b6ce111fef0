"""``langmesh logs``: the logs of the local mesh's processes, merged by time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
from pathlib import Path

from langmesh.cli.terminal import say, say_json, styled
from langmesh.settings import Settings
from langmesh.stack.logline import LogLine
from langmesh.stack.logs import Logs, Wanted

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_COLOURS = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_SERVICE_COLUMNS = 14
_AT_ONCE = 1_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "services",
        nargs="*",
        metavar="SERVICE",
        help="services whose logs to show, such as coordinator or nats-server; all if none",
    )
    parser.add_argument("--run", metavar="ID", default="", help="only lines that name this run")
    parser.add_argument("--level", choices=_LEVELS, help="lowest level to show")
    parser.add_argument("--follow", action="store_true", help="go on with what is written next")
    parser.add_argument(
        "--tail",
        type=_tail,
        default=100,
        metavar="N",
        help="begin with the last N lines, or with `all`; 100 if not given",
    )


def _tail(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a number or all, got {text!r}")
    return int(text)


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Print log lines, with ``--follow`` until Ctrl-C."""
    level = getattr(logging, args.level) if args.level else 0
    wanted = Wanted(tuple(args.services), level, args.run)
    logs = await asyncio.to_thread(Logs, Path(settings.home), wanted, follow=args.follow)
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, logs)
        stored = await asyncio.to_thread(logs.stored, args.tail)
        # In parts, so that Ctrl-C need not wait for the end of all files.
        while lines := await asyncio.to_thread(list, itertools.islice(stored, _AT_ONCE)):
            for line in lines:
                _show(line, as_json=args.json)
        if args.follow:
            async with contextlib.aclosing(logs.follow()) as following:
                async for lines in following:
                    for line in lines:
                        _show(line, as_json=args.json)
    return 0


def _show(line: LogLine, *, as_json: bool) -> None:
    if as_json:
        say_json(line.document())
        return
    time = styled(f"{line.time[11:23].rstrip('Z'):<12}", "dim")
    level = f"{line.level:<8}"
    level = styled(level, _COLOURS[line.level]) if line.level in _COLOURS else level
    say(f"{time} {level} {styled(f'{line.service:<{_SERVICE_COLUMNS}}', 'bold')} {line.message}")
    for name in ("exception", "stack"):
        for each in str(line.fields.get(name) or "").splitlines():
            say(f"    {each}")
