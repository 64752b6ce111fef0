"""The guard program alone, fed by hand."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from langmesh.embedded import guard
from tests.embedded.conftest import alive

SLEEPER = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]


@pytest.fixture
def program():
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    yield process
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture
def sleepers():
    processes = [subprocess.Popen(SLEEPER, start_new_session=True) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_kills_what_is_still_listed(program, sleepers):
    ended, kept = sleepers
    program.stdin.write(b"+%d\n+%d\n-%d\n" % (ended.pid, kept.pid, kept.pid))
    program.stdin.close()
    assert ended.wait(10) == -signal.SIGKILL
    assert program.wait(10) == 0
    assert kept.poll() is None


def test_spares_a_process_that_does_not_lead_a_session(program):
    bystander = subprocess.Popen(SLEEPER)
    try:
        program.stdin.write(b"+%d\n" % bystander.pid)
        program.stdin.close()
        assert program.wait(10) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_deletes_the_folders_at_the_end(program, tmp_path):
    folder = tmp_path / "földer with spaces"
    (folder / "deep").mkdir(parents=True)
    program.stdin.write(f"~{folder}\n".encode())
    program.stdin.close()
    assert program.wait(10) == 0
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_outlives_the_signals_that_end_its_supervisor(program, sleepers, number):
    program.stdin.write(b"+%d\n" % sleepers[0].pid)
    program.stdin.flush()
    # More than a pipe holds: once it is written the program reads, and has begun to ignore signals.
    program.stdin.write(b"-1\n" * 100_000)
    program.stdin.flush()
    program.send_signal(number)
    program.stdin.close()
    assert program.wait(10) == 0
    assert not alive(sleepers[0].pid)
