"""The wheel, built from this checkout and installed where the checkout cannot be imported."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 90.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing of an earlier build gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("shared", "services"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", source / "dist", source],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what it depends on is that of this interpreter.

    A folder that a .pth file names is not searched for .pth files in turn, so that the one that
    puts the checkout on the path has no effect.
    """
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    program = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", program, "install", "--quiet", "--no-deps"]
    subprocess.run([*command, wheel], check=True, timeout=120, env=bare())
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([program, "-c", query], text=True).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return program


def bare() -> dict[str, str]:
    """An environment that says nothing of the checkout."""
    left_out = ("LANGMESH_", "OTEL_", "PYTHON", "NATS_", "ETCD_", "PYTEST_")
    return {name: text for name, text in os.environ.items() if not name.startswith(left_out)}


@dataclass(slots=True)
class User:
    """Somebody who has installed the wheel, in a folder."""

    python: Path
    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def call(self, *args: str, code: int = 0) -> str:
        """Run ``langmesh`` to its end; what it printed."""
        return self.program("langmesh", *args, code=code)

    def program(self, name: str, *args: str, code: int = 0) -> str:
        """Run a program of the environment to its end; what it printed."""
        done = subprocess.run(
            [self.python.parent / name, *args],
            cwd=self.folder,
            env=bare(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *args: str, code: int = 0) -> Any:
        """Run ``langmesh`` with ``--json``; its last line."""
        return json.loads(self.call(*args, "--json", code=code).splitlines()[-1])

    def up(self, *args: str) -> subprocess.Popen[str]:
        """Start ``langmesh up`` in the foreground, and wait until it says that it is up."""
        process = subprocess.Popen(
            [self.python.parent / "langmesh", "up", *args],
            cwd=self.folder,
            env={**bare(), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        read_until(process, "the mesh is up")
        return process

    def output(self, graph: str, value: Any) -> Any:
        """Run a graph; the output of the run."""
        ended = self.json("run", graph, "--input", json.dumps(value))
        assert ended["status"] == "success", ended
        return ended["output"]


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read lines of a process until one has the words; that line."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError((words, seen))


def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait until a condition holds that nothing announces."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


@pytest.fixture
def user(python: Path, tmp_path: Path) -> Iterator[User]:
    folder = tmp_path / "empty"
    folder.mkdir()
    made = User(python, folder)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ValueError):
            process.communicate(timeout=60)
