"""Import graphs in a process of their own and tell what came of it.

``python -m langmesh.stack.check [NAME=]MODULE:ATTRIBUTE …`` prints one line of JSON, a
:class:`Checked`. A process that serves tries new code out in this way before it relies on it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.reimport import own_files
from langmesh.stack.imports import Imports, files_of

if TYPE_CHECKING:
    from langmesh.graphs.loading import LoadedGraph

_TIMEOUT_S: Final = 60.0
_WORDS_MAX: Final = 500


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the graphs cannot be served."""

    code: str
    message: str
    remedy: str

    @property
    def error(self) -> MeshError:
        """The same as an error to raise."""
        return MeshError(ErrorCode(self.code), self.message, remedy=self.remedy)


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A node's function that its agent alone imports, because the graph names it with ``lazy``."""

    files: list[str]
    """The modules' files that it imports."""
    failure: Failure | None = None
    """Why it cannot be imported."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The graphs as they are on disk now."""

    nodes: dict[str, list[str]] = {}
    """The nodes by the names of the graphs."""
    files: list[str] = []
    """The modules' files that the graphs import."""
    bodies: dict[str, dict[str, Body]] = {}
    """What is known of lazy nodes, by graph and node."""
    failure: Failure | None = None


async def check(sources: Sequence[str], env: Mapping[str, str]) -> Checked:
    """Try graphs out in a new process.

    Raises:
        MeshError: Why the graphs cannot be served; TIMED_OUT if their import does not end.
    """
    command = [sys.executable, "-m", "langmesh.stack.check", *sources]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError as exc:
        raise MeshError(
            ErrorCode.TIMED_OUT,
            f"importing the graphs takes more than {_TIMEOUT_S:g} s",
            remedy="Do what takes long in a node, not when a module is imported.",
        ) from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = msgspec.json.decode(out.rpartition(b"\n")[2], type=Checked)
    except msgspec.DecodeError as exc:
        words = err.decode("utf-8", "replace").strip()[-_WORDS_MAX:] or "it printed nothing"
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED, f"importing the graphs ended the process: {words}"
        ) from exc
    if found.failure is not None:
        raise found.failure.error
    return found


def look(sources: Sequence[str]) -> Checked:
    """Import graphs, and then their lazy nodes' bodies, in this process."""
    from langmesh.graphs.loading import load

    imports = Imports()
    before = set(sys.modules)
    loaded = []
    with imports.noted():
        try:
            for source in sources:
                loaded.append(load(source, tenant="check"))  # noqa: PERF401  each may fail
        except MeshError as exc:
            return Checked(failure=_failure(exc))
        own = files_of(set(sys.modules) - before)
        return Checked(
            nodes={each.topology.graph: list(each.topology.nodes) for each in loaded},
            files=_listed(own),
            bodies={each.topology.graph: _bodies(each, imports) for each in loaded},
        )


def _bodies(loaded: LoadedGraph, imports: Imports) -> dict[str, Body]:
    from langmesh.graphs.lazy import lazy_body

    found = {}
    for name, node in loaded.compiled.builder.nodes.items():
        if (body := lazy_body(node.runnable)) is None:
            continue
        failure, traced = None, set[Path]()
        try:
            body.resolve()
        except MeshError as exc:
            failure = _failure(exc)
            frames = traceback.extract_tb((exc.__cause__ or exc).__traceback__)
            # A module whose import failed is not among those that are imported.
            traced = own_files(frame.filename for frame in frames)
        module = body.ref.partition(":")[0]
        found[name] = Body(files=_listed(imports.files(module) | traced), failure=failure)
    return found


def _failure(exc: MeshError) -> Failure:
    return Failure(code=str(exc.code), message=exc.message, remedy=exc.remedy)


def _listed(files: set[Path]) -> list[str]:
    return sorted(map(str, files))


if __name__ == "__main__":
    line = msgspec.json.encode(look(sys.argv[1:]))
    sys.stdout.flush()
    os.write(1, b"\n" + line)
    # Whatever the modules have started must not keep this process.
    os._exit(0)
