"""Where a running stack can be found: a small file in its home, written when all is ready."""

from __future__ import annotations

import fcntl
from pathlib import Path

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import PROCESS_CRASH, Settings


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """What other commands need to know of a running stack."""

    pid: int
    nats_url: str
    etcd_endpoints: list[str]
    otlp_endpoint: str
    graphs: list[str]
    started_at: str
    profile: str = PROCESS_CRASH


def path(home: Path) -> Path:
    """The state file of a home folder."""
    return home / "mesh.json"


def spans_path(home: Path) -> Path:
    """The span store of a home folder."""
    return home / "spans.db"


def read(home: Path) -> StackState | None:
    """The stack that runs in a home folder, or None."""
    try:
        state = msgspec.json.decode(path(home).read_bytes(), type=StackState)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return state if owner(home) == state.pid else None


def owner(home: Path) -> int | None:
    """The process that runs a stack in a home folder, or None.

    What counts is the lock that the owner holds: a killed owner leaves its file behind, and its
    process id may be another program's by now.
    """
    try:
        with (home / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(32))
    except (OSError, ValueError):
        return None
    return None


def write(home: Path, state: StackState) -> None:
    """Announce a running stack; the file appears whole or not at all."""
    temporary = path(home).with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    temporary.replace(path(home))


def remove(home: Path) -> None:
    """Take the announcement back."""
    path(home).unlink(missing_ok=True)


def find(settings: Settings, environ: dict[str, str]) -> StackState:
    """The mesh to talk to: the one that the environment names, else the local stack.

    Raises:
        MeshError: NOT_RUNNING if there is neither.
    """
    local = read(Path(settings.home))
    if "NATS_URL" in environ:
        return StackState(
            pid=0,
            nats_url=settings.nats_url,
            etcd_endpoints=list(settings.etcd_endpoints),
            otlp_endpoint=settings.otlp_endpoint,
            graphs=[],
            started_at="",
        )
    if local is None:
        raise MeshError(
            ErrorCode.NOT_RUNNING, f"no mesh runs in {settings.home}/ and NATS_URL is not set"
        )
    return local
