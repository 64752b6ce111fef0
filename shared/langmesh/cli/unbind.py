"""``langmesh unbind``: give a node's tasks back to the release that the mesh runs by default."""

from __future__ import annotations

import argparse

from langmesh.cli import bind
from langmesh.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    bind.place(parser)


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Bind a node to release ``LANGMESH_RELEASE`` again."""
    return await bind.bind(args, settings, release=settings.release, encoding="msgpack")
