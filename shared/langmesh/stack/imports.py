"""Which module imports which, noted as the statements run."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from langmesh.graphs.reimport import own_files


class Imports:
    """The import statements that were run while :meth:`noted` was entered, anywhere."""

    def __init__(self) -> None:
        self._by: defaultdict[str, set[str]] = defaultdict(set)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note every import statement while the block runs, also of what is imported already."""
        original = builtins.__import__

        def noting(
            name: str,
            globals: Any = None,  # noqa: A002  the parameters' names are Python's
            locals: Any = None,  # noqa: A002
            fromlist: Any = (),
            level: int = 0,
        ) -> Any:
            self._note(name, globals or {}, fromlist or (), level)
            return original(name, globals, locals, fromlist, level)

        builtins.__import__ = noting
        try:
            yield
        finally:
            builtins.__import__ = original

    def files(self, module: str) -> set[Path]:
        """The files of a module and of all that it imports, directly or not."""
        seen: set[str] = set()
        waiting = [module]
        while waiting:
            if (name := waiting.pop()) and name not in seen:
                seen.add(name)
                # A module's package is imported before it.
                waiting += [name.rpartition(".")[0], *self._by[name]]
        return files_of(seen)

    def _note(self, name: str, where: Any, fromlist: Iterable[str], level: int) -> None:
        importer = where.get("__name__")
        if not isinstance(importer, str):
            return
        if level:
            package = where.get("__package__") or importer.rpartition(".")[0]
            try:
                name = importlib.util.resolve_name("." * level + name, package)
            except ImportError:
                return
        # Of names that are taken from a module some are modules themselves; the rest have no file.
        self._by[importer] |= {name, *(f"{name}.{each}" for each in fromlist)}


def files_of(modules: Iterable[str]) -> set[Path]:
    """The files of those modules that are imported and have one, but for what is installed."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    return own_files(file for file in files if file)
