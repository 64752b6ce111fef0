"""Changes of Python files are told once, whatever else happens below the folder."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from langmesh.stack import watching

WITHIN_S = 30


@contextlib.asynccontextmanager
async def told(root: Path) -> AsyncIterator[AsyncIterator[frozenset[Path]]]:
    before = watching.snapshot([root], without=[root / "state"])
    found = watching.changes([root], before, without=[root / "state"])
    async with asyncio.timeout(WITHIN_S), contextlib.aclosing(found):
        yield found


async def until(found: AsyncIterator[frozenset[Path]], *wanted: Path) -> None:
    missing = set(wanted)
    while missing:
        missing -= await anext(found)


async def test_written_new_and_deleted_files_are_told(tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text("1")
    async with told(tmp_path) as found:
        # Between the first look and the first wait.
        app.write_text("22")
        assert await anext(found) == {app}
        waiting = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0)
        (tmp_path / "notes.txt").write_text("no Python")
        new = tmp_path / "new.py"
        new.write_text("3")
        assert await waiting == {new}
        app.unlink()
        assert await anext(found) == {app}


async def test_a_file_that_is_replaced_as_editors_do_is_told(tmp_path: Path):
    app = tmp_path / "app.py"
    app.write_text("1")
    async with told(tmp_path) as found:
        (tmp_path / "app.py.tmp").write_text("4444")
        (tmp_path / "app.py.tmp").replace(app)
        assert await anext(found) == {app}


async def test_files_in_a_new_folder_are_told(tmp_path: Path):
    async with told(tmp_path) as found:
        first = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0)
        package = tmp_path / "a" / "b"
        package.mkdir(parents=True)
        (package / "one.py").write_text("1")
        assert await first == {package / "one.py"}
        (package / "two.py").write_text("2")
        await until(found, package / "two.py")


def test_environments_hidden_folders_and_the_state_are_not_watched(tmp_path: Path):
    for name in (".git/x.py", "venv/lib/x.py", "a/__pycache__/x.py", "state/x.py", "a/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    seen = watching.snapshot([tmp_path], without=[tmp_path / "state"])
    assert set(seen.files) == {tmp_path / "a" / "x.py"}
    assert seen.folders == {tmp_path, tmp_path / "a"}


def test_a_folder_that_holds_everything_is_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "_FOLDERS_MAX", 3)
    for name in "abc":
        (tmp_path / name).mkdir()
    with pytest.raises(OSError, match="more than 3 folders"):
        watching.snapshot([tmp_path])
