"""The `mesh` script, run for real in a throw-away checkout whose lock file needs no network."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNSATISFIABLE = f"--no-index\nnothing==1 --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, an empty lock file and a command line that prints its arguments."""
    folder = tmp_path / "a checkout"
    cli = folder / "shared" / "langmesh" / "cli"
    cli.mkdir(parents=True)
    (cli.parent / "__init__.py").touch()
    (cli / "__init__.py").touch()
    (cli / "__main__.py").write_text("import sys\nprint('ran', sys.prefix, sys.argv[1:])\n")
    (folder / "requirements.lock").write_text("# nothing\n")
    shutil.copy(ROOT / "mesh", folder / "mesh")
    return folder


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHON", "PYTHONPATH"}}
    return kept | {"PYTHON": sys.executable} | extra


def mesh(checkout: Path, *args: str, env: dict[str, str] | None = None, script: str = "mesh"):
    return subprocess.run(
        [checkout / script, *args],
        cwd="/",
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fake_python(folder: Path, name: str, body: str) -> dict[str, str]:
    """An environment whose PATH knows one Python, a shell script, and the usual tools."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    for tool in ("dirname", "readlink", "cat", "cmp", "mktemp", "rm", "mv", "mkdir", "ln", "grep"):
        os.symlink(shutil.which(tool) or tool, folder / tool)
    return {"PATH": str(folder)}


def test_callers_that_race_for_the_first_call_share_one_set_up(checkout: Path):
    callers = [
        subprocess.Popen(
            [checkout / "mesh", str(n), "two words"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    outputs = [caller.communicate(timeout=120) for caller in callers]
    expected = [f"ran {checkout}/.venv ['{n}', 'two words']\n" for n in range(3)]
    assert [stdout for stdout, _ in outputs] == expected, outputs
    assert sum("setting up .venv" in stderr for _, stderr in outputs) == 1

    (checkout / "link").symlink_to("mesh")
    again = mesh(checkout, script="link")
    assert again.stdout == f"ran {checkout}/.venv []\n"
    assert again.stderr == ""


def test_a_failing_set_up_keeps_what_was_there(checkout: Path):
    good = (checkout / "requirements.lock").read_text()
    (checkout / "requirements.lock").write_text(UNSATISFIABLE)
    first = mesh(checkout)
    assert first.returncode == 1
    assert "No matching distribution found for nothing==1" in first.stderr
    assert not list(checkout.glob(".venv*")), "no half-made environment"

    (checkout / "requirements.lock").write_text(good)
    assert mesh(checkout).returncode == 0
    (checkout / "requirements.lock").write_text(UNSATISFIABLE)
    assert mesh(checkout).returncode == 1
    assert [p.name for p in checkout.glob(".venv*")] == [".venv"]

    (checkout / "requirements.lock").write_text(good)
    restored = mesh(checkout)
    assert (restored.returncode, restored.stderr) == (0, ""), "the one of before was put back"


def test_a_killed_set_up_is_started_afresh(checkout: Path):
    """Window: the process group dies by SIGKILL while .venv exists and its stamp is empty."""
    running = subprocess.Popen(
        [checkout / "mesh"], env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (checkout / ".venv" / "bin" / "python").exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=0.01)
        assert running.returncode is None
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (checkout / ".venv" / ".mesh-stamp").read_text()
    assert mesh(checkout).returncode == 0


def test_an_environment_that_somebody_else_made_is_used_as_it_is(checkout: Path):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    done = mesh(checkout, "x")
    assert done.stdout.startswith("ran ")
    assert done.stderr == ""
    assert [p.name for p in (checkout / ".venv").iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo 'is Python 3.9; langmesh needs 3.11 or newer'", "no Python 3.11 or newer on PATH"),
        ("exit 127", "no Python 3.11 or newer on PATH"),
        (
            "echo 'cannot make virtual environments; on Debian: apt install python3.12-venv'",
            "python3.12 cannot make virtual environments",
        ),
    ],
)
def test_an_unusable_python_is_named_with_the_way_out(
    checkout: Path, tmp_path: Path, body: str, expected: str
):
    done = mesh(checkout, env=fake_python(tmp_path / "bin", "python3.12", body))
    assert done.returncode == 1
    assert expected in done.stderr
    assert "apt install" in done.stderr
    assert not (checkout / ".venv").exists()


def test_the_named_python_is_not_replaced_by_another(checkout: Path, tmp_path: Path):
    missing = mesh(checkout, env=environment(PYTHON=str(tmp_path / "nowhere")))
    assert missing.returncode == 1
    assert "there is no such program" in missing.stderr


def test_the_check_of_an_interpreter_speaks_of_its_version_and_of_missing_venv(tmp_path: Path):
    source = (ROOT / "mesh").read_text().split("-c '", 1)[1].split("' 2>/dev/null", 1)[0]
    old = source.replace("(3, 11)", "(99, 0)")
    no_venv = source.replace("import ensurepip", "import no_such_module")
    assert "needs 3.11 or newer" in subprocess.check_output([sys.executable, "-c", old], text=True)
    assert "-venv" in subprocess.check_output([sys.executable, "-c", no_venv], text=True)
    assert subprocess.check_output([sys.executable, "-c", source], text=True) == ""
