"""``langmesh status``: the mesh for people and for programs, once and live."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest

from tests.cli.conftest import WITHIN_S, Shell, until


@pytest.fixture
def up(shell: Shell) -> Shell:
    shell.call("up", "numbers_app:graph", "--detach", "--no-reload")
    return shell


def nodes(status: dict) -> dict[str, bool]:
    return {node["node"]: node["served"] for node in status["nodes"]}


def test_services_nodes_and_their_load_are_shown(up: Shell):
    # A service reports at once when it has registered, but after it says that it is ready.
    until(lambda: all(service["load"] for service in up.json("status")["services"]))
    status = up.json("status")
    assert nodes(status) == {"double": True, "increment": True}
    for node in status["nodes"]:
        assert (node["graph"], node["replicas"], node["ready"]) == ("numbers_app", 1, 1)
        assert (node["backlog"], node["in_flight"], node["capacity"]) == (0, 0, 16)
        assert node["memory_bytes"] > 0
    for service in status["services"]:
        load = service["load"]
        assert (service["health"], service["registered_by"]) == ("ready", "itself")
        assert load["agent_id"] == service["instance"]
        assert 0 <= load["cpu_usage"] <= 1
        assert 0 < load["memory_usage"] <= 1
        assert load["request_rate"] == 0
        assert load["timestamp"].endswith("Z")
    [double] = [each for each in status["services"] if each["name"] == "double"]
    assert double["input_schema"]["properties"]["number"] == {"type": "integer"}
    told = up.call("status")
    assert "3 services, 2 nodes: all served" in told
    assert double["instance"] in told
    up.call("bind", "numbers_app", "double", "--release", "v9")
    told = up.call("status")
    assert "1 not served" in told
    assert "nobody serves numbers_app/double, release v9" in told


def test_changes_come_as_lines_of_json(up: Shell):
    watching = up.start("status", "--watch", "--json")
    assert watching.stdout is not None
    assert nodes(json.loads(watching.stdout.readline())) == {"double": True, "increment": True}
    up.call("bind", "numbers_app", "double", "--release", "v9")
    for line in watching.stdout:
        if not nodes(json.loads(line))["double"]:
            break
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")


def test_a_terminal_shows_it_live_and_is_left_as_it_was(up: Shell):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    watching = subprocess.Popen(
        [sys.executable, "-m", "langmesh.cli", "status", "--watch"],
        cwd=up.folder,
        env={**up.environment(), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            ready, _, _ = select.select([master], [], [], WITHIN_S)
            assert ready, seen
            seen += os.read(master, 65536).decode()

    try:
        read_until("all served")
        assert seen.startswith("\x1b[?1049h\x1b[?25l")
        assert "\x1b[2J" not in seen, "clearing everything would flicker"
        up.call("bind", "numbers_app", "double", "--release", "v9")
        read_until("NOT SERVED")
        for picture in seen.split("\x1b[H")[1:]:
            assert picture.count("\n") < 30
        watching.send_signal(signal.SIGINT)
        read_until("\x1b[?25h\x1b[?1049l")
        assert watching.wait(timeout=30) == 0
        assert "Traceback" not in seen
    finally:
        if watching.poll() is None:
            watching.kill()
        watching.wait()
        os.close(master)
