"""What ``run`` and ``submit`` take: a graph, its input, and where and how to run it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.messages import StreamMode


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    parser.add_argument(
        "--input", required=True, metavar="JSON", help="input, or @FILE, or - for stdin"
    )
    parser.add_argument("--thread", metavar="ID", help="thread to run on; a new one if not given")
    parser.add_argument("--run-id", metavar="ID", help="id for the run; a new one if not given")
    parser.add_argument(
        "--stream",
        action="append",
        choices=get_args(StreamMode),
        metavar="MODE",
        help=f"LangGraph stream mode of the run, repeatable: {', '.join(get_args(StreamMode))}",
    )
    parser.add_argument(
        "--config",
        metavar="JSON",
        help="configurable, tags, metadata, recursion_limit, max_concurrency; or @FILE",
    )


async def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The submission's fields that were given.

    Raises:
        MeshError: INVALID_INPUT.
    """
    given = {
        "input": await asyncio.to_thread(read_json, "--input", args.input),
        "thread_id": args.thread,
        "run_id": args.run_id,
        "stream_mode": args.stream,
    }
    if args.config is not None:
        given["config"] = await asyncio.to_thread(read_json, "--config", args.config)
    return {name: value for name, value in given.items() if value is not None or name == "input"}


def read_json(option: str, text: str) -> Any:
    """The value of an option: JSON, ``@FILE``, or ``-`` for standard input.

    Raises:
        MeshError: INVALID_INPUT.
    """
    source = option
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        return msgspec.json.decode(text)
    except OSError as exc:
        raise MeshError(
            ErrorCode.INVALID_INPUT,
            f"{option} @{source}: {exc.strerror}",
            remedy="Name a file with JSON behind the @.",
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MeshError(
            ErrorCode.INVALID_INPUT,
            f"{source}: not valid JSON: {exc}",
            remedy=f"""Quote it for the shell, e.g. {option} '{{"question": "What is PEP 8?"}}'.""",
        ) from exc
