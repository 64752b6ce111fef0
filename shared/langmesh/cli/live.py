"""A picture on the terminal that is drawn again and again, and leaves no trace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

REDRAW_S: Final = 0.5
"""Least time between two pictures."""
STALE_S: Final = 5.0
"""Longest time between two pictures: ages grow though nothing changes."""

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"


@dataclass(frozen=True, slots=True)
class Size:
    """Room for a picture, in characters."""

    width: int
    height: int


async def repeat(draw: Callable[[], Awaitable[None]], changed: asyncio.Event) -> None:
    """Draw now and after every change until SIGINT or SIGTERM.

    Args:
        draw: Makes and shows one picture.
        changed: Set by whatever changes the picture.
    """
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        while not over.is_set():
            changed.clear()
            await _until(over, draw())
            await _until(over, asyncio.sleep(REDRAW_S))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STALE_S - REDRAW_S):
                    await _until(over, changed.wait())
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def screen() -> Iterator[Callable[[list[str]], None]]:
    """Take the terminal while the block runs, and give what shows a picture on it.

    What is logged meanwhile must not run through the picture: its last line stands below it. Where
    standard output is no terminal, the pictures come one after the other.
    """
    if not sys.stdout.isatty():
        yield lambda lines: print("\n".join([*lines, ""]), flush=True)
        return
    log = _LastLine()
    root = logging.getLogger()
    root.addHandler(log)

    def show(lines: list[str]) -> None:
        size = room()
        below = [log.text[: size.width]] if log.text else []
        picture = [*lines[: size.height - len(below)], *below]
        text = "\n".join(line + _CLEAR_LINE for line in picture)
        sys.stdout.write(_HOME + text + _CLEAR_BELOW)
        sys.stdout.flush()

    sys.stdout.write(_ENTER)
    try:
        yield show
    finally:
        root.removeHandler(log)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def room() -> Size:
    """The terminal's size; 100 × 30 where there is none."""
    columns, lines = shutil.get_terminal_size((100, 30))
    return Size(columns, lines)


class _LastLine(logging.Handler):
    """Keeps the last warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


async def _until(over: asyncio.Event, work: Awaitable[object]) -> None:
    """Do some work unless it is over before."""
    task = asyncio.ensure_future(work)
    end = asyncio.create_task(over.wait())
    try:
        await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
    finally:
        end.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()
