"""What `langmesh up` serves: graphs named on the command line, or those of a langgraph.json."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.sources import GraphSource, parse_source, parse_sources
from langmesh.stack import dotenv

FILE: Final = "langgraph.json"
_KNOWN: Final = {"$schema", "dependencies", "graphs", "env"}
_FOR_IMAGES: Final = {
    "api_version",
    "base_image",
    "dockerfile_lines",
    "image_distro",
    "keep_pkg_tools",
    "node_version",
    "pip_config_file",
    "pip_installer",
    "python_version",
}
"""Keys that describe the container image which LangGraph's own platform builds."""
_SHAPE_REMEDY: Final = (
    'Write it as {"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}, "env": ".env"}.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Graphs with what their code needs to be imported."""

    root: Path
    """The folder that holds the code."""
    sources: tuple[GraphSource, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """What the project adds to the environment; what is set already wins."""
    paths: tuple[Path, ...] = ()
    """Folders to import from, the root among them."""
    notes: tuple[str, ...] = ()
    """What of the project has no effect here."""

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of the project's services."""
        before = environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = dict.fromkeys([*map(str, self.paths), *filter(None, before)])
        return {**self.env, **environ, "PYTHONPATH": os.pathsep.join(paths)}


def of_arguments(sources: Sequence[str], folder: Path) -> Project:
    """The graphs of a command line: ``[NAME=]MODULE:ATTRIBUTE``, ``[NAME=]PATH.py:ATTRIBUTE``.

    A single path to a ``.json`` file stands for the graphs of that file.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED, INVALID_NAME, INVALID_PROJECT.
    """
    if len(sources) == 1 and sources[0].endswith(".json"):
        return of_file(folder / sources[0])
    parsed = tuple(_absolute(source, folder) for source in parse_sources(sources))
    return Project(root=folder, sources=parsed, paths=(folder,))


def of_file(path: Path) -> Project:
    """The graphs of a file in the format of LangGraph's own platform.

    Raises:
        MeshError: INVALID_PROJECT naming the file and what is wrong in it; GRAPH_IMPORT_FAILED.
    """
    root = path.resolve().parent
    document = _document(path)
    notes = _notes(path, document)
    graphs = document.get("graphs")
    if not isinstance(graphs, dict) or not graphs:
        raise _wrong(path, "graphs: expected an object with at least one graph")
    sources = tuple(_source(path, root, name, value) for name, value in graphs.items())
    paths, missing = _dependencies(path, root, document.get("dependencies", []))
    env, told = _env(path, root, document.get("env", {}))
    return Project(
        root=root,
        sources=sources,
        env=env,
        paths=tuple(dict.fromkeys([root, *paths])),
        notes=(*notes, *missing, *told),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as exc:
        raise _wrong(path, exc.strerror or "it cannot be read") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _wrong(path, f"not valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise _wrong(path, "expected an object")
    return document


def _source(path: Path, root: Path, name: str, value: Any) -> GraphSource:
    ref = value.get("path") if isinstance(value, dict) else value
    if not isinstance(ref, str):
        raise _wrong(path, f"graphs.{name}: expected PATH.py:ATTRIBUTE")
    if not name or "=" in name:
        raise _wrong(path, f"graphs: {name!r} is not a name for a graph")
    module = ref.rpartition(":")[0]
    if module.endswith((".ts", ".js", ".mts", ".mjs", ".tsx", ".jsx")):
        raise _wrong(path, f"graphs.{name}: {module} is not Python")
    return _absolute(parse_source(f"{name}={ref}"), root)


def _absolute(source: GraphSource, folder: Path) -> GraphSource:
    """The same source for a process that may have another working folder.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED if it names a file that does not exist.
    """
    if source.path is None:
        if "/" in source.ref:
            raise MeshError(
                ErrorCode.GRAPH_IMPORT_FAILED,
                f"{source.ref}: neither a module nor a .py file",
                remedy="Name it as MODULE:ATTRIBUTE or PATH.py:ATTRIBUTE.",
            )
        return source
    file = (folder / source.path).resolve()
    if not file.is_file():
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{source.ref}: there is no file {file}",
            remedy="Correct the path; a relative one begins at the working folder, or in"
            f" {FILE} at the file's own.",
        )
    return GraphSource(source.name, f"{file}:{source.ref.rpartition(':')[2]}")


def _dependencies(path: Path, root: Path, value: Any) -> tuple[list[Path], list[str]]:
    """Folders to import from, and what is not installed."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(path, "dependencies: expected a list of text")
    folders: list[Path] = []
    missing: list[str] = []
    for item in value:
        if item.startswith((".", "/")):
            folder = (root / item).resolve()
            if not folder.is_dir():
                raise _wrong(path, f"dependencies: there is no folder {item}")
            # A package is imported from the folder that holds it; its modules may be called like
            # some of Python's own.
            while (folder / "__init__.py").is_file():
                folder = folder.parent
            folders.append(folder)
            # An installation of the folder would make these importable.
            if (source := folder / "src").is_dir() and not (source / "__init__.py").exists():
                folders.append(source)
        elif not _installed(item):
            missing.append(item)
    if not missing:
        return folders, []
    quoted = " ".join(f"'{item}'" for item in missing)
    return folders, [f"{path.name}: not installed here; run: pip install {quoted}"]


def _installed(requirement: str) -> bool:
    name = requirement
    for end in "[<>=!~;@ ":
        name = name.partition(end)[0]
    if urlsplit(name).scheme:
        # The address of a package does not tell its name.
        return True
    try:
        metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _env(path: Path, root: Path, value: Any) -> tuple[dict[str, str], list[str]]:
    if isinstance(value, dict):
        if not all(isinstance(item, str | int | float) for item in value.values()):
            raise _wrong(path, "env: expected text as values")
        return {name: str(item) for name, item in value.items()}, []
    if not isinstance(value, str):
        raise _wrong(path, "env: expected the path of a file, or an object")
    try:
        text = (root / value).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, [f"{path.name}: env: there is no file {value}; its variables are not set"]
    except (OSError, UnicodeDecodeError) as exc:
        raise _wrong(path, f"env: {value} cannot be read: {exc}") from exc
    return dotenv.parse(text, name=value), []


def _notes(path: Path, document: Mapping[str, Any]) -> list[str]:
    unknown = sorted(document.keys() - _KNOWN - _FOR_IMAGES)
    images = sorted(document.keys() & _FOR_IMAGES)
    notes = []
    if unknown:
        notes.append(f"{path.name}: langmesh does not support {', '.join(unknown)}; left out")
    if images:
        notes.append(f"{path.name}: {', '.join(images)}: for container images, no effect here")
    return notes


def _wrong(path: Path, what: str) -> MeshError:
    return MeshError(ErrorCode.INVALID_PROJECT, f"{path.name}: {what}", remedy=_SHAPE_REMEDY)
