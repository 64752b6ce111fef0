"""``langmesh test``: run the project's tests with pytest."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from langmesh.cli.arguments import completing
from langmesh.cli.terminal import say_json
from langmesh.errors import ErrorCode, MeshError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    paths = parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments for pytest")
    completing(paths, "file")


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
    extra = [arg for arg in args.args if arg not in {"--", "--json"}]
    # Argparse takes all that follows the command for pytest's.
    as_json = args.json or "--json" in args.args
    parallel = [] if any(arg.startswith("-n") for arg in extra) else ["-n", "2"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("LANGMESH_")}
    command = [sys.executable, "-m", "pytest", *parallel, *extra]
    if not as_json:
        return subprocess.run(command, cwd=root, env=env, check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(
            [*command, f"--junitxml={report}"], cwd=root, env=env, stdout=sys.stderr, check=False
        ).returncode
        say_json({"exit_code": code, **_counts(report)})
    return code


def _counts(report: Path) -> dict[str, int | float]:
    """How many tests had which outcome; nothing if pytest did not get so far as to run any."""
    if not report.exists():
        return {}
    (suite,) = ET.parse(report).getroot().iter("testsuite")  # noqa: S314  pytest wrote it
    counts = {name: int(suite.get(name, 0)) for name in ("failures", "errors", "skipped")}
    tests = int(suite.get("tests", 0))
    return {
        "tests": tests,
        "passed": tests - sum(counts.values()),
        **counts,
        "seconds": float(suite.get("time", 0)),
    }
