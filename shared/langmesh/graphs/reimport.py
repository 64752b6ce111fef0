"""Load a graph at a given revision in a process that may have imported its code at another.

What the source's file imports of the project's own code, directly or not, is imported anew as a
whole: a revision never mixes modules of two states of the files. What was imported before stays
alive in whoever holds it, so that runs of the old revision go on with the old code. Installed
packages and ``__main__`` are left alone.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.lazy import lazy_body
from langmesh.graphs.loading import LoadedGraph, load
from langmesh.graphs.sources import parse_source

_INSTALLED: Final = frozenset(
    Path(folder).resolve()
    for folder in (
        *(sysconfig.get_path(scheme) for scheme in ("stdlib", "purelib", "platlib")),
        str(Path(__file__).parents[1]),
    )
)
_importing = threading.Lock()


def load_revision(source: str, *, tenant: str, name: str, revision: str) -> LoadedGraph:
    """Load a graph, with its code imported anew if what is in memory has another revision.

    Blocks for as long as the imports take; may be called from any thread.

    Raises:
        MeshError: GRAPH_CHANGED if the code on disk has another revision; as ``load``.
    """
    with _importing:
        found = load(source, tenant=tenant, name=name)
        if found.topology.revision == revision:
            return found
        with _without_own_modules(source):
            found = load(source, tenant=tenant, name=name)
            if found.topology.revision != revision:
                raise MeshError(
                    ErrorCode.GRAPH_CHANGED,
                    f"graph {name!r}: the code at {source} has revision"
                    f" {found.topology.revision}, wanted is {revision}",
                )
        # The bodies of lazy nodes are imported when they first run; then from disk.
        bodies = (lazy_body(node.runnable) for node in found.compiled.builder.nodes.values())
        for body in bodies:
            if body is not None:
                _take_out(_own_imports(body.ref.partition(":")[0]))
        return found


@contextlib.contextmanager
def _without_own_modules(source: str) -> Iterator[None]:
    """Let the block import a source's own modules anew; if it fails, the old ones are back."""
    importlib.invalidate_caches()
    names = _own_imports(_module_name(source))
    before = set(sys.modules)
    taken = _take_out(names)
    try:
        yield
    except BaseException:
        for name in (set(sys.modules) - before) | (names & sys.modules.keys()):
            del sys.modules[name]
        sys.modules.update(taken)
        for name, module in taken.items():
            # An import also makes a module its package's attribute.
            package, _, last = name.rpartition(".")
            if package in sys.modules:
                setattr(sys.modules[package], last, module)
        raise


def _take_out(names: Iterable[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in names if name in sys.modules}


def _module_name(source: str) -> str:
    """The name under which a source's module is imported here; empty if it is not."""
    parsed = parse_source(source)
    if parsed.path is None:
        return parsed.ref.rpartition(":")[0]
    file = parsed.path.resolve()
    found = (name for name, each in list(sys.modules.items()) if _own_file(each) == file)
    return next((name for name in found if name != "__main__"), "")


def _own_imports(module: str) -> set[str]:
    """A module and what it imports of the project's own code, as far as both are imported."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _own_file(sys.modules.get(name))
        if name == "__main__" or name in seen or file is None:
            continue
        seen.add(name)
        # A module's package is imported before it.
        waiting += [name.rpartition(".")[0], *_imported_by(name, file)]
    return seen


def _imported_by(module: str, file: Path) -> Iterator[str]:
    """Names that a file's import statements may import, also those inside functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            target = statement.module or ""
            if statement.level:
                try:
                    target = importlib.util.resolve_name("." * statement.level + target, package)
                except ImportError:
                    continue
            yield target
            yield from (f"{target}.{alias.name}" for alias in statement.names)


def _own_file(module: ModuleType | None) -> Path | None:
    """The file of a module of the project's own."""
    file = getattr(module, "__file__", None)
    return next(iter(own_files([file])), None) if file else None


def own_files(files: Iterable[str]) -> set[Path]:
    """Files as absolute paths, but for those of Python itself and of what is installed."""
    found = {Path(file).resolve() for file in files if not file.startswith("<")}
    return {file for file in found if not _INSTALLED & set(file.parents)}
