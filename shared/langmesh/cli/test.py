"""``langmesh test``: run the project's tests with pytest."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from langmesh.errors import ErrorCode, MeshError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments for pytest")


def test(args: argparse.Namespace) -> int:
    """Run pytest in the repository; its closing line is the last thing printed.

    Raises:
        MeshError: DEPENDENCY_MISSING outside of a checkout or without pytest.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir() or importlib.util.find_spec("pytest") is None:
        raise MeshError(
            ErrorCode.DEPENDENCY_MISSING,
            "the tests need a checkout of the repository and pytest",
            remedy="Clone the repository and run ./mesh test there.",
        )
    extra = [arg for arg in args.args if arg != "--"]
    parallel = [] if any(arg.startswith("-n") for arg in extra) else ["-n", "2"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LANGMESH_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *parallel, *extra], cwd=root, env=env, check=False
    ).returncode
