"""Parse the command line and run one command under uvloop."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Sequence

import uvloop

from langmesh import __version__, settings
from langmesh.cli import EXIT_INTERRUPTED
from langmesh.cli.terminal import say_error
from langmesh.errors import MeshError

EXIT_FAILED = 1

_COMMANDS = {
    "up": "langmesh.cli.up",
    "down": "langmesh.cli.down",
    "status": "langmesh.cli.status",
    "run": "langmesh.cli.run",
    "routes": "langmesh.cli.routes",
    "trace": "langmesh.cli.trace",
    "demo": "langmesh.cli.demo",
    "bench": "langmesh.cli.bench",
    "test": "langmesh.cli.test",
}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="langmesh",
        description="Run LangGraph graphs as a mesh of services over NATS.",
        epilog="Settings come from the environment; see docs/operations.md.",
    )
    top.add_argument("--version", action="version", version=f"langmesh {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"Example: langmesh {example}",
        )
        sub.add_argument("--json", action="store_true", help="print JSON for programs")
        return sub

    up = command("up", "start a mesh on this machine", "up research.graph:graph --detach")
    up.add_argument(
        "graphs", nargs="*", metavar="MODULE:ATTRIBUTE", help="graphs to serve; the demo's if none"
    )
    up.add_argument("--detach", action="store_true", help="return when everything is ready")
    for server in ("nats", "etcd"):
        up.add_argument(
            f"--{server}-port",
            type=_port,
            default=0,
            metavar="N",
            help=f"port of the embedded {server}; a free one if not given",
        )
    up.add_argument("--no-coordinator", action="store_true", help="leave the coordinator out")

    command("down", "stop the mesh that `up` started", "down")
    command("status", "show the services of the mesh", "status --json")

    run = command(
        "run",
        "run a graph and follow it",
        """run research --input '{"question": "What is PEP 8?"}'""",
    )
    run.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    run.add_argument(
        "--input", required=True, metavar="JSON", help="input, or @FILE, or - for stdin"
    )
    run.add_argument("--thread", metavar="ID", help="thread to run on; a new one if not given")
    run.add_argument(
        "--stream",
        action="append",
        metavar="MODE",
        help="LangGraph stream mode to print; repeatable",
    )

    routes = command("routes", "show where a graph's tasks go", "routes research --mermaid")
    routes.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    routes.add_argument("--mermaid", action="store_true", help="draw the topology as Mermaid")

    trace = command("trace", "show the span tree of a run", "trace run-0a1b2c3d-7")
    trace.add_argument("run", metavar="RUN", help="id of a run")

    demo = command(
        "demo", "answer a question with the research mesh", "demo 'What is a decorator?'"
    )
    demo.add_argument("question", nargs="?", help="question to answer")
    demo.add_argument("--corpus", metavar="DIR", help="folder with text to read")

    bench = command("bench", "measure steps per second", "bench chain --steps 10 --concurrency 64")
    bench.add_argument("which", choices=["chain"], help="graph to measure")
    bench.add_argument("--steps", type=_positive, default=10, help="nodes in the chain")
    bench.add_argument("--concurrency", type=_positive, default=64, help="runs at once")
    bench.add_argument(
        "--runs", type=_positive, help="runs in all; enough for some seconds if not given"
    )

    bench.add_argument(
        "--agents", type=_positive, help="agent processes; one per two cores if not given"
    )

    test = command("test", "run the tests", "test tests/unit -k names")
    test.add_argument("args", nargs=argparse.REMAINDER, help="arguments for pytest")
    return top


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = parser().parse_args(argv)
    try:
        module = importlib.import_module(_COMMANDS[args.command])
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
