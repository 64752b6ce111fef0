"""Parse the command line and run one command under uvloop."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from langmesh import __version__, settings
from langmesh.cli import EXIT_INTERRUPTED
from langmesh.cli.arguments import add_command
from langmesh.cli.terminal import say_error
from langmesh.errors import MeshError

EXIT_FAILED = 1
_EPILOG = """\
Examples:
  langmesh up
  langmesh run research --input '{"question": "What is PEP 8?"}'
  langmesh run --help

Exit codes: 0 success; 1 a failure that the message explains, with the way out; 2 wrong usage;
3 the run itself failed; 130 interrupted; `test` has those of pytest.

Settings come from the environment; see docs/operations.md.
"""


@dataclass(frozen=True, slots=True)
class _Command:
    """A command: its module has ``arguments(parser)`` and ``command(args, settings)``."""

    summary: str
    examples: tuple[str, ...]


_COMMANDS = {
    "new": _Command("begin a project", ("new my-agents",)),
    "up": _Command(
        "start a mesh on this machine",
        ("up", "up app.py:graph", "up sales=shop.graph:graph --detach --no-reload"),
    ),
    "down": _Command("stop the mesh that `up` started", ("down",)),
    "status": _Command(
        "show the services of the mesh and how busy they are",
        ("status", "status --watch", "status --json"),
    ),
    "run": _Command(
        "run a graph and follow it",
        (
            """run research --input '{"question": "What is PEP 8?"}'""",
            "run research --input @question.json --stream values --json",
        ),
    ),
    "submit": _Command(
        "submit a run and return at once",
        (
            """submit research --input '{"question": "What is PEP 8?"}'""",
            "submit research --input @question.json --thread mine",
        ),
    ),
    "runs": _Command(
        "list runs, show, cancel, answer and retry them",
        ("runs ls --status error", "runs show run-0a1b2c3d-7", "runs retry run-0a1b2c3d-7"),
    ),
    "dead": _Command(
        "list the letters that nobody could use, show, replay and drop them",
        ("dead ls", "dead show 7", "dead replay 7", "dead drop 7"),
    ),
    "prune": _Command(
        "delete threads, or their history",
        ("prune --older-than 30d --dry-run", "prune --thread mine --keep-latest"),
    ),
    "events": _Command(
        "show what runs do, as it is stored",
        ("events --follow", "events --run run-0a1b2c3d-7", "events --graph research --since 2h"),
    ),
    "logs": _Command(
        "show the logs of the mesh on this machine",
        ("logs --follow", "logs coordinator nats-server --level WARNING", "logs --tail all"),
    ),
    "publish": _Command(
        "make a graph, or a new revision of one, what new runs take",
        ("publish app.py:graph", "publish sales=shop.graph:graph --release v2"),
    ),
    "routes": _Command(
        "show where a graph's tasks go, its revisions, and what changed",
        (
            "routes research --mermaid",
            "routes research --revisions",
            "routes research --diff 566e8669036e",
        ),
    ),
    "bind": _Command(
        "send a node's next tasks to another release",
        ("bind research writer --release v2", "bind research writer --release go --encoding json"),
    ),
    "unbind": _Command(
        "send a node's next tasks to its own release again", ("unbind research writer",)
    ),
    "config": _Command(
        "show and change what nodes and graphs run with",
        (
            "config set researcher.max_in_flight=4",
            "config set research/writer.settings.tone=dry research/writer.retry.max_attempts=3",
            "config history researcher",
        ),
    ),
    "trace": _Command("show the span tree of a run", ("trace run-0a1b2c3d-7",)),
    "demo": _Command("answer a question with the research mesh", ("demo 'What is a decorator?'",)),
    "bench": _Command(
        "measure the mesh on this machine",
        (
            "bench chain --steps 10 --concurrency 64",
            "bench durability",
            "bench recovery --rounds 20",
            "bench retained --threads 1000000",
            "bench config --agents 50",
        ),
    ),
    "test": _Command("run the tests", ("test tests/wire -k names",)),
    "completion": _Command(
        "print a script that lets a shell complete the commands",
        ("completion bash > ~/.local/share/bash-completion/completions/langmesh",),
    ),
}


def parser(called: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The command line; with the arguments of the commands in ``called``, or of all.

    Only a called command is imported: no command pays for what another one needs.
    """
    top = argparse.ArgumentParser(
        prog="langmesh",
        description="Run LangGraph graphs as a mesh of services over NATS.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"langmesh {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, spec in _COMMANDS.items():
        sub = add_command(commands, name, spec.summary, spec.examples)
        if called is None or name in called:
            _module(name).arguments(sub)
    return top


def _module(name: str) -> Any:
    return importlib.import_module(f"langmesh.cli.{name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["test"] and argv[1:2] not in (["-h"], ["--help"]):
        # The options behind it are pytest's.
        argv.insert(1, "--")
    args = parser(argv[:1]).parse_args(argv)
    try:
        module = _module(args.command)
        if args.command == "test":
            return int(module.test(args))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(module.command(args, settings.load())))
    except MeshError as exc:
        say_error(exc, as_json=args.json)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stdout = None
        return EXIT_FAILED
