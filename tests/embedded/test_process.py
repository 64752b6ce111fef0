from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from langmesh.embedded.process import Guard
from langmesh.errors import ErrorCode, MeshError
from tests.embedded.conftest import alive, eventually

SLEEPER = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal; print('up', flush=True); signal.pause()",
]
STUBBORN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
""",
]
PARENT = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import os, signal\npid = os.fork()\nif pid: print(pid, flush=True)\nsignal.pause()",
]


async def test_output_and_exit_status_are_kept(guard, tmp_path):
    log = tmp_path / "logs" / "child.log"
    for status in (0, 3):
        child = guard.spawn(
            "child",
            [sys.executable, "-I", "-S", "-c", f"print({status}); raise SystemExit({status})"],
            log=log,
        )
        assert await child.wait() == status
        assert child.returncode == status
        assert child.output() == f"{status}\n"
    assert log.read_text() == "0\n3\n"
    assert guard.children == []


async def test_stop_asks_first(guard, tmp_path):
    child = guard.spawn("sleeper", SLEEPER, log=tmp_path / "log")
    await eventually(lambda: child.output() == "up\n")
    assert await child.stop() == -signal.SIGTERM
    assert await child.stop() == -signal.SIGTERM
    child.kill()
    assert not alive(child.pid)


async def test_stop_kills_after_the_grace_period(guard, tmp_path):
    child = guard.spawn("stubborn", STUBBORN, log=tmp_path / "log")
    await eventually(lambda: child.output() == "up\n")
    assert await child.stop(grace_s=0.05) == -signal.SIGKILL


async def test_a_frozen_child_can_be_stopped(guard, tmp_path):
    child = guard.spawn("sleeper", SLEEPER, log=tmp_path / "log")
    await eventually(lambda: child.output() == "up\n")
    child.send_signal(signal.SIGSTOP)
    assert await child.stop() == -signal.SIGTERM


async def test_what_a_child_leaves_behind_ends_with_it(guard, tmp_path):
    child = guard.spawn("parent", PARENT, log=tmp_path / "log")
    await eventually(lambda: child.output().endswith("\n"))
    grandchild = int(child.output())
    assert alive(grandchild)
    await child.stop()
    await eventually(lambda: not alive(grandchild))


async def test_a_cancelled_waiter_does_not_disturb_the_others(guard, tmp_path):
    child = guard.spawn("sleeper", SLEEPER, log=tmp_path / "log")
    first, second = asyncio.create_task(child.wait()), asyncio.create_task(child.wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    child.kill()
    assert await second == -signal.SIGKILL
    assert first.cancelled()


async def test_children_are_stopped_youngest_first(tmp_path):
    order = []

    async def note(child):
        await child.wait()
        order.append(child.name)

    async with Guard() as guard:
        children = [guard.spawn(name, SLEEPER, log=tmp_path / name) for name in "abc"]
        notes = [asyncio.create_task(note(child)) for child in children]
        await eventually(lambda: all(child.output() for child in children))
        guard_pid = guard.pid
    await asyncio.gather(*notes)
    assert order == ["c", "b", "a"]
    assert [child.returncode for child in children] == [-signal.SIGTERM] * 3
    assert not alive(guard_pid)


async def test_cancellation_stops_the_children(tmp_path):
    started = asyncio.Event()
    children = []

    async def body():
        async with Guard() as guard:
            children.append(guard.spawn("sleeper", SLEEPER, log=tmp_path / "log"))
            await eventually(lambda: children[0].output() == "up\n")
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await started.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert children[0].returncode == -signal.SIGTERM


async def test_a_second_cancellation_kills_at_once(tmp_path):
    closing = asyncio.Event()
    children = []

    async def body():
        async with Guard(grace_s=3600) as guard:
            children.append(guard.spawn("stubborn", STUBBORN, log=tmp_path / "log"))
            await eventually(lambda: children[0].output() == "up\n")
            closing.set()

    task = asyncio.create_task(body())
    await closing.wait()
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait({task})
    assert task.cancelled()
    assert children[0].returncode == -signal.SIGKILL


async def test_a_program_that_does_not_exist(guard, tmp_path):
    with pytest.raises(MeshError, match="ghost cannot be started") as caught:
        guard.spawn("ghost", [tmp_path / "ghost"], log=tmp_path / "log")
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING


async def test_nothing_starts_outside_the_context(tmp_path):
    with pytest.raises(RuntimeError):
        Guard().spawn("sleeper", SLEEPER, log=tmp_path / "log")


async def test_losing_the_guard_process_is_reported_and_survived(guard, tmp_path, caplog):
    os.kill(guard.pid, signal.SIGKILL)
    await eventually(lambda: not alive(guard.pid))
    child = guard.spawn("sleeper", SLEEPER, log=tmp_path / "log")
    assert await child.stop() == -signal.SIGTERM
    assert "guard process is gone" in caplog.text
