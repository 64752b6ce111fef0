"""Where a graph's code is: ``module:attribute`` or ``path.py:attribute``, and what it is called."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from langmesh.errors import ErrorCode, MeshError

_REMEDY: Final = "Name it as MODULE:ATTRIBUTE or PATH.py:ATTRIBUTE, or NAME=… for another name."
_appended: set[str] = set()
"""Folders that were put on sys.path here; they take no part in naming, so that a module's name does
not depend on what was loaded before it."""


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A graph's name in the mesh and the reference to its code."""

    name: str
    ref: str

    def __str__(self) -> str:
        return f"{self.name}={self.ref}"

    @property
    def path(self) -> Path | None:
        """The file of a reference that names one."""
        module = self.ref.rpartition(":")[0]
        return Path(module) if module.endswith(".py") else None


def parse_source(text: str) -> GraphSource:
    """Read ``[NAME=]MODULE:ATTRIBUTE``, where a path to a ``.py`` file may stand for the module.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED if the text is not of that form.
    """
    name, equals, ref = text.partition("=")
    if not equals:
        name, ref = "", text
    module, colon, attribute = ref.rpartition(":")
    if not colon or not module or not attribute or (equals and not name):
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{text!r} is not of the form MODULE:ATTRIBUTE",
            remedy=_REMEDY,
        )
    return GraphSource(name or default_name(ref), ref)


def parse_sources(texts: Iterable[str]) -> list[GraphSource]:
    """Read the sources of graphs that are to be in one mesh.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED, or INVALID_NAME if two have the same name.
    """
    found: dict[str, GraphSource] = {}
    for source in map(parse_source, texts):
        if (other := found.setdefault(source.name, source)) != source:
            raise MeshError(
                ErrorCode.INVALID_NAME,
                f"{other.ref} and {source.ref} would both be called {source.name!r}",
                remedy=f"Name one of them, as in OTHER={source.ref}",
            )
    return list(found.values())


def default_name(ref: str) -> str:
    """The graph's name in the mesh when none is given."""
    module, _, attribute = ref.rpartition(":")
    last = Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]
    if last in {"graph", "app", "main"}:
        parent = Path(module).parent.name if module.endswith(".py") else module.split(".")[0]
        last = attribute if parent in {"", last} else parent
    return last


def find(ref: str) -> Any:
    """Import what a reference names.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED telling what is missing or what the import raised.
    """
    source = parse_source(ref)
    module_name, _, attribute = source.ref.rpartition(":")
    try:
        if source.path is not None:
            module = _module_of(source.path)
        else:
            module = importlib.import_module(module_name)
    except MeshError:
        raise
    except (Exception, SystemExit) as exc:
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{ref}: importing {module_name} failed: {reason(exc)}",
        ) from exc
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise MeshError(
                ErrorCode.GRAPH_IMPORT_FAILED, f"{ref}: {module_name} has no attribute {part!r}"
            )
        found = getattr(found, part)
    return found


def reason(exc: BaseException) -> str:
    """An exception as one line; of a syntax error also the file and the line."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{type(exc).__name__}: {exc.msg} ({exc.filename}, line {exc.lineno})"
    return f"{type(exc).__name__}: {exc}"


def _module_of(path: Path) -> ModuleType:
    """Import a file under a name that every process with the same path derives alike.

    A type's name begins with its module's, and values cross processes by those names. A file of a
    package gets the name that the package's own imports use; another one is named from the
    deepest folder of sys.path that holds it.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED if there is no such file or its name is taken.
    """
    file = path.resolve()
    if not file.is_file():
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{path}: there is no such file",
            remedy="Correct the path; a relative one begins at the working folder, or in"
            " langgraph.json at the file's own.",
        )
    packaged = (file.parent / "__init__.py").is_file()
    base = _package_base(file) if packaged else _root(file)
    name = ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
    for folder in {str(base), str(file.parent if not packaged else base)} - set(sys.path):
        _appended.add(folder)
        sys.path.append(folder)
    module = sys.modules.get(name)
    if module is None:
        module = importlib.import_module(name) if packaged else _execute(name, file)
    if (origin := getattr(module, "__file__", None)) is None or Path(origin).resolve() != file:
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{path}: a module called {name!r} exists already, at {origin or 'no file'}",
            remedy="Rename the file, or put it in a package (a folder with an __init__.py).",
        )
    return module


def _package_base(file: Path) -> Path:
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _root(file: Path) -> Path:
    roots = {Path(entry).resolve() for entry in sys.path if entry not in _appended}
    return max(roots & set(file.parents), key=lambda root: len(root.parts), default=file.parent)


def _execute(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
