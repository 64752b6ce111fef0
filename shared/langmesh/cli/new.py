"""``langmesh new``: begin a project that ``langmesh up`` runs as it is."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from langmesh import __version__
from langmesh.cli.terminal import say, say_json, styled
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_SUFFIX: Final = ".tmpl"
"""Of the template's files, which would otherwise pass for files of this package."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="project and folder to make; without it the working folder is filled",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Write the template's files into a new or empty folder."""
    del settings
    folder = Path.cwd()
    name = args.name or _derived(folder.name)
    if args.name is not None:
        folder /= name
    files = await asyncio.to_thread(make, name, folder)
    if args.json:
        say_json({"name": name, "folder": str(folder), "files": files})
        return 0
    say(styled(f"made {name}", "green"))
    for file in files:
        say(f"  {file}")
    say("next:")
    if args.name is not None:
        say(f"  cd {name}")
    say("  langmesh up")
    say(f"""  langmesh run {name} --input '{{"topic": "NATS"}}'    # in another terminal""")
    return 0


def make(name: str, folder: Path) -> list[str]:
    """Write a project into a folder that does not exist or is empty; the files' names.

    Args:
        name: The project's name, which is also its graph's.
        folder: Where to; hidden entries and virtual environments may be there already.

    Raises:
        MeshError: INVALID_NAME, or INVALID_PROJECT for a folder that is not empty or cannot be
            written.
    """
    _check(name)
    words = {"name": name, "package": _package(name), "version": __version__}
    try:
        present = sorted(each.name for each in folder.iterdir() if not _may_stay(each))
        if present:
            raise MeshError(
                ErrorCode.INVALID_PROJECT,
                f"the folder {folder} is not empty: it has {', '.join(present[:5])}",
                remedy="Choose another name, or an empty folder.",
            )
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    written = []
    try:
        for path, text in _template(resources.files("langmesh.cli") / "template", Path()):
            content = _PLACE.sub(lambda place: words[place[1]], text)
            parts = [words["package"] if part == "package" else part for part in path.parts]
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
            written.append(str(target.relative_to(folder)))
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    return sorted(written)


def _check(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise MeshError(
            ErrorCode.INVALID_NAME,
            f"{name!r} cannot be a project's name",
            remedy="Begin with a letter and use at most 40 letters, digits, '-' and '_', as in"
            " `langmesh new my-agents`.",
        )
    if _taken(name):
        raise MeshError(
            ErrorCode.INVALID_NAME,
            f"{name!r}: Python has something called {_package(name)!r} already",
            remedy="Choose a name of your own, as in `langmesh new my-agents`.",
        )


def _taken(name: str) -> bool:
    """Whether the project's package would hide something, or be hidden."""
    package = _package(name)
    if keyword.iskeyword(package) or package in {*sys.stdlib_module_names, "tests"}:
        return True
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False
    # A mere folder of that name in the working folder is no package yet.
    folders = {Path(folder) for folder in spec.submodule_search_locations or ()}
    return spec.origin is not None or folders != {Path.cwd() / package}


def _derived(folder: str) -> str:
    """A name that suits a folder that was not made for it."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", folder).strip("-_")[:30].rstrip("-_")
    if not name[:1].isalpha():
        name = f"mesh-{name}".rstrip("-")
    return f"{name}-mesh" if _taken(name) else name


def _package(name: str) -> str:
    return name.lower().replace("-", "_")


def _may_stay(entry: Path) -> bool:
    """Whether an entry is none of a project's files: hidden, or a virtual environment."""
    return entry.name.startswith(".") or (entry / "pyvenv.cfg").is_file()


def _template(folder: Traversable, at: Path) -> Iterator[tuple[Path, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _template(entry, at / entry.name)
        elif entry.name.endswith(_SUFFIX):
            name = entry.name.removesuffix(_SUFFIX)
            if name.startswith("dot-"):
                name = f".{name.removeprefix('dot-')}"
            yield at / name, entry.read_text(encoding="utf-8")


def _unwritable(folder: Path, exc: OSError) -> MeshError:
    return MeshError(
        ErrorCode.INVALID_PROJECT,
        f"{folder} cannot be written: {exc.strerror}",
        remedy="Choose a folder that you may write.",
    )
