"""Import graphs in a process of their own and tell what came of it.

``python -m langmesh.stack.check [NAME=]MODULE:ATTRIBUTE …`` prints one line of JSON, a
:class:`Checked`. A process that serves tries new code out in this way before it relies on it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from langmesh.errors import ErrorCode, MeshError

_TIMEOUT_S: Final = 60.0
_WORDS_MAX: Final = 500


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why the graphs cannot be served."""

    code: str
    message: str
    remedy: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The graphs as they are on disk now."""

    nodes: dict[str, list[str]] = {}
    """The nodes by the names of the graphs."""
    files: list[str] = []
    """The modules' files that the graphs import."""
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
        failure = found.failure
        raise MeshError(ErrorCode(failure.code), failure.message, remedy=failure.remedy)
    return found


def look(sources: Sequence[str]) -> Checked:
    """Import graphs in this process."""
    from langmesh.graphs.loading import load

    before = set(sys.modules)
    nodes = {}
    try:
        for source in sources:
            topology = load(source, tenant="check").topology
            nodes[topology.graph] = list(topology.nodes)
    except MeshError as exc:
        failure = Failure(code=str(exc.code), message=exc.message, remedy=exc.remedy)
        return Checked(failure=failure)
    imported = [sys.modules[name] for name in set(sys.modules) - before]
    files = {getattr(module, "__file__", None) for module in imported}
    return Checked(nodes=nodes, files=sorted(str(Path(file).resolve()) for file in files if file))


if __name__ == "__main__":
    line = msgspec.json.encode(look(sys.argv[1:]))
    sys.stdout.flush()
    os.write(1, b"\n" + line)
    # Whatever the modules have started must not keep this process.
    os._exit(0)
