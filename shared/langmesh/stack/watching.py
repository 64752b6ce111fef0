"""Tell which Python files below some folders change, as the system announces it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NEVER: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
_DEBOUNCE_MS: Final = 400
_FOLDERS_MAX: Final = 5_000
"""A project has fewer; more are somebody's home, which takes long to look at."""
_STEP_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The Python files below some folders at one moment."""

    folders: frozenset[Path]
    files: dict[Path, tuple[int, int]]

    def changed(self, later: Snapshot) -> frozenset[Path]:
        """The files that were written, made or deleted until another moment."""
        both = self.files.items() ^ later.files.items()
        return frozenset(path for path, _ in both)


def snapshot(roots: Iterable[Path], *, without: Sequence[Path] = ()) -> Snapshot:
    """Look at all Python files below the roots.

    Hidden folders, virtual environments and the folders in ``without`` are left out.

    Raises:
        OSError: There are too many folders.
    """
    folders: set[Path] = set()
    files: dict[Path, tuple[int, int]] = {}
    for root in roots:
        for folder, names in _walk(root, frozenset(without)):
            folders.add(folder)
            if len(folders) > _FOLDERS_MAX:
                raise OSError(errno.ENOSPC, f"more than {_FOLDERS_MAX} folders below {root}")
            for name in names:
                path = folder / name
                try:
                    status = path.stat()
                except OSError:
                    continue
                files[path] = (status.st_mtime_ns, status.st_size)
    return Snapshot(frozenset(folders), files)


def _walk(root: Path, without: frozenset[Path]) -> Iterator[tuple[Path, list[str]]]:
    for name, folders, files in os.walk(root):
        folder = Path(name)
        if "pyvenv.cfg" in files or folder in without:
            folders.clear()
            continue
        folders[:] = [each for each in folders if not each.startswith(".") and each not in _NEVER]
        yield folder, [each for each in files if each.endswith(".py")]


async def changes(
    roots: Sequence[Path], before: Snapshot, *, without: Sequence[Path] = ()
) -> AsyncIterator[frozenset[Path]]:
    """Yield the files that changed, beginning with those that differ from ``before``.

    What the system announces is only a reason to look: what changed between two looks is what
    differs, so that nothing is missed and nothing is told twice.

    Raises:
        OSError: There are too many folders, for us or for the system.
    """
    # Loaded by a supervisor that watches, and by nothing else.
    from watchfiles import awatch

    while True:
        watched = before.folders
        notices = awatch(
            *watched, watch_filter=_matters, recursive=False, debounce=_DEBOUNCE_MS, step=_STEP_MS
        )
        async with contextlib.aclosing(notices):
            notice = asyncio.ensure_future(anext(notices))
            try:
                # It listens from its first step on; a look after that misses nothing.
                await asyncio.sleep(0)
                while True:
                    now = await asyncio.to_thread(snapshot, roots, without=without)
                    changed, before = before.changed(now), now
                    if changed:
                        yield changed
                    if before.folders != watched:
                        break
                    await notice
                    notice = asyncio.ensure_future(anext(notices))
            finally:
                notice.cancel()
                await asyncio.gather(notice, return_exceptions=True)


def _matters(_: object, path: str) -> bool:
    """Whether a notice may be about Python: of its files, or of a folder that came or went."""
    return path.endswith(".py") or "." not in Path(path).name
