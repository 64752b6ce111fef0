"""Policies in a file, for stacks that mount one: the same documents as in etcd, by graph and node.

A mounted file gives no reliable sign of a change (what is mounted may be replaced as a whole, and
network file systems notify nobody), so its times are looked at every second, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.policies import GraphPolicy, NodePolicy
from langmesh.wire import codec

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0


class FileGraph(GraphPolicy, frozen=True, kw_only=True):
    """The policy of a graph and those of its nodes."""

    nodes: dict[str, NodePolicy] = msgspec.field(default_factory=dict)


class Policies(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    graphs: dict[str, FileGraph] = {}


def read(path: Path) -> Policies:
    """Read a ``.toml`` file, or JSON from any other.

    Raises:
        MeshError: INVALID_SETTING naming the file, the field and what is wrong with it.
    """
    try:
        text = path.read_bytes()
        if path.suffix == ".toml":
            text = msgspec.json.encode(tomllib.loads(text.decode()))
        return codec.decode_json(Policies, text)
    except MeshError as exc:
        problem = exc.message
    except OSError as exc:
        problem = exc.strerror or str(exc)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as exc:
        problem = str(exc)
    raise MeshError(
        ErrorCode.INVALID_SETTING,
        f"LANGMESH_CONFIG_FILE {path}: {problem}",
        remedy="Compare the file with the policies in docs/operations.md.",
    )


class PolicyFile:
    """A file's policies as they are now; a change that is wrong is logged and left out.

    Args:
        path: The file.

    Raises:
        MeshError: INVALID_SETTING; at the start there is nothing to go on with.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen = _stamp(self._path)
        self.policies = read(self._path)

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change that counts, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await asyncio.to_thread(self._look):
                changed()

    def _look(self) -> bool:
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            found = read(self._path)
        except MeshError as exc:
            log.warning("the policies from before stay in force: %s", exc.message)
            return False
        changed = found != self.policies
        self.policies = found
        return changed


def _stamp(path: Path) -> Any:
    """What differs when a file was written or replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
