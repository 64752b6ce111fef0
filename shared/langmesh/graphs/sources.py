"""Where graphs come from and what they are called; without LangGraph, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from langmesh.errors import ErrorCode, MeshError


def named(source: str) -> tuple[str, str]:
    """Name and source of ``name=module:attribute``, or of a source without a name.

    Its name is then the module's last part, or where that is ``graph``, ``app`` or ``main``, the
    package, and without a package the attribute.
    """
    name, equals, rest = source.partition("=")
    if equals and not set(name) & set("./:"):
        return name, rest
    module, _, attribute = source.partition(":")
    last = Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]
    if last in {"graph", "app", "main"}:
        parent = Path(module).parent.name if module.endswith(".py") else module.split(".")[0]
        last = attribute if parent in {"", last} else parent
    return last, source


def each_named(sources: Sequence[str]) -> list[tuple[str, str]]:
    """Names and sources of graphs that are to be in one mesh.

    Raises:
        MeshError: INVALID_NAME if two have the same name.
    """
    found: dict[str, str] = {}
    for name, source in map(named, sources):
        if found.setdefault(name, source) != source:
            raise MeshError(
                ErrorCode.INVALID_NAME,
                f"{found[name]} and {source} would both be called {name!r}",
                remedy=f"Name one of them: NAME={source}",
            )
    return list(found.items())
