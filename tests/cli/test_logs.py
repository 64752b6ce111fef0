"""``langmesh logs`` as people and programs see it; what is read is tested in tests/stack."""

import json
import signal

from tests.cli.conftest import Shell

LINES = [
    json.dumps(
        {
            "timestamp": "2026-01-01T00:00:01.000000Z",
            "level": "INFO",
            "service": "writer",
            "message": "it begins",
            "run_id": "run-1",
        }
    ),
    json.dumps(
        {
            "timestamp": "2026-01-01T00:00:02.000000Z",
            "level": "ERROR",
            "service": "writer",
            "message": "it failed",
            "exception": "Traceback\n  ValueError",
        }
    ),
    "not JSON",
]


def write(shell: Shell, *lines: str) -> None:
    (shell.home / "logs").mkdir(parents=True, exist_ok=True)
    with (shell.home / "logs" / "writer.log").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_people_read_lines_and_programs_objects(shell: Shell):
    write(shell, *LINES)
    text = shell.call("logs")
    assert text.splitlines() == [
        "00:00:01.000 INFO     writer         it begins",
        "00:00:02.000 ERROR    writer         it failed",
        "    Traceback",
        "      ValueError",
        "00:00:02.000          writer         not JSON",
    ]
    objects = [json.loads(line) for line in shell.call("logs", "--json").splitlines()]
    assert objects[:2] == [json.loads(line) for line in LINES[:2]]
    assert (objects[2]["service"], objects[2]["message"]) == ("writer", "not JSON")
    assert shell.json("logs", "--run", "run-1") == objects[0]
    assert "it begins" not in shell.call("logs", "writer", "--level", "ERROR", "--tail", "all")


def test_what_is_written_is_followed_until_it_is_interrupted(shell: Shell):
    write(shell, LINES[0])
    process = shell.start("logs", "--follow", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["message"] == "it begins"
    write(shell, LINES[1])
    assert json.loads(process.stdout.readline())["message"] == "it failed"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
