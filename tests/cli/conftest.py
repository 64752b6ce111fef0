"""The command line in a home folder of its own; what a test leaves running ends with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 60.0

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    number: int

graph = (
    StateGraph(State)
    .add_node("double", lambda state: {"number": 2 * state["number"]})
    .add_node("increment", lambda state: {"number": state["number"] + 1})
    .add_edge(START, "double")
    .add_edge("double", "increment")
)
"""


def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait until a condition holds that nothing announces."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody collects does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@dataclass(slots=True)
class Shell:
    """Calls ``langmesh`` in a folder."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LANGMESH_", "OTEL_"))}
        paths = f"{ROOT / 'shared'}{os.pathsep}{ROOT}"
        return {**kept, "PYTHONPATH": paths, "LANGMESH_HOME": str(self.home), **self.env}

    def command(self, *args: str) -> list[str]:
        """The command line of a command."""
        return [sys.executable, "-m", "langmesh.cli", *args]

    def call(self, *args: str, code: int = 0) -> str:
        """Run a command to its end; its standard output."""
        done = subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env=self.environment(),
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
        """Run a command with ``--json``; its last line."""
        return json.loads(self.call(*args, "--json", code=code).splitlines()[-1])

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        process = subprocess.Popen(
            self.command(*args),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def stack(self) -> dict[int, str]:
        """Every process that belongs to the home folder or its servers, by its environment."""
        mark = f"LANGMESH_HOME={self.home}\0".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                if pid != os.getpid() and mark in (entry / "environ").read_bytes() and runs(pid):
                    found[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "numbers_app.py").write_text(GRAPH)
    made = Shell(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    for pid in made.stack():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not made.stack())
