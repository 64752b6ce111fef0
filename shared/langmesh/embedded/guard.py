"""Ends a supervisor's children when the supervisor is gone, however it went.

A program of its own, run as ``python -I -S guard.py`` with a pipe from the supervisor as standard
input, so that it needs nothing but the interpreter. It reads lines:

- ``+PID``: the leader of a process group, which is also a session leader, to end;
- ``-PID``: that group has ended by itself;
- ``~PATH``: a temporary folder to delete at the end.

The kernel closes the pipe with its last writer. The groups still listed are then killed, the
folders are deleted, and the program exits once nothing of them is left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

_POLL_S = 0.005
_POLLS_MAX = 400


def _may_kill(pid: int) -> bool:
    """Whether the id still means the group that was listed.

    Children lead their own sessions; a process that was given a used id hardly ever does. Where the
    leader is gone but others of its group live on, the system does not hand out the id again.
    """
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return True


def _signal_group(pid: int, number: int) -> bool:
    """Signal a whole group; False when nothing is left of it (macOS: nothing but zombies)."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_running(pid: int) -> bool:
    """Whether a group's leader still holds files and ports.

    A zombie does not; a container whose first process collects none keeps them for ever.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return _signal_group(pid, 0)
    return state != b"Z"


def _end(pids: Iterable[int]) -> None:
    """Kill the groups and wait until they have let go of their files and ports."""
    left = [pid for pid in pids if _may_kill(pid) and _signal_group(pid, signal.SIGKILL)]
    # They are not this program's children, so there is no exit to wait for.
    for _ in range(_POLLS_MAX):
        left = [pid for pid in left if _is_running(pid)]
        if not left:
            return
        time.sleep(_POLL_S)


def main() -> None:
    """Follow the supervisor until the pipe ends, then clear up."""
    # Whoever stops the supervisor's whole terminal or container must not stop its guard first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pids: set[int] = set()
    folders: list[bytes] = []
    for line in sys.stdin.buffer:
        kind, value = line[:1], line[1:].rstrip(b"\n")
        if kind == b"+":
            pids.add(int(value))
        elif kind == b"-":
            pids.discard(int(value))
        elif kind == b"~":
            folders.append(value)
    _end(pids)
    if folders:
        # Needed by tests only, and only now: every stack pays for what is imported at the top.
        import shutil

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
