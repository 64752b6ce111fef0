"""``langmesh dead``: list the letters that nobody could use, look at one, go on with its run."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any, Final

import msgspec

from langmesh.bus import Bus, connect
from langmesh.cli.arguments import add_command, positive, subcommands
from langmesh.cli.terminal import say, say_json, styled, table
from langmesh.client import dead
from langmesh.client.asking import ask
from langmesh.client.dead import KeptLetter
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire import codec
from langmesh.wire.messages import ExecuteTask
from langmesh.wire.rpc import RunReference

_RETRY_S: Final = 35.0
_SHOWN_BYTES: Final = 512


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = subcommands(parser)
    ls = add_command(
        actions,
        "ls",
        "list the letters, the newest first",
        ("dead ls", "dead ls --graph research --node writer --limit 5"),
    )
    ls.add_argument("--graph", metavar="G", help="only letters of this graph")
    ls.add_argument("--node", metavar="N", help="only letters of this node")
    ls.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most so many; 20 if not given"
    )
    show = add_command(actions, "show", "show a letter and what is in it", ("dead show 7",))
    replay = add_command(
        actions,
        "replay",
        "go on with the run that failed by a letter, and drop the letter",
        ("dead replay 7",),
    )
    drop = add_command(actions, "drop", "delete letters", ("dead drop 7", "dead drop 7 8 9"))
    for each in (show, replay):
        each.add_argument("seq", type=positive, metavar="SEQ", help="sequence of a letter")
    drop.add_argument("seqs", type=positive, nargs="+", metavar="SEQ", help="sequence of a letter")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run the action."""
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh dead") as bus:
        await _ACTIONS[args.action](bus, args, settings.tenant)
    return 0


async def _list(bus: Bus, args: argparse.Namespace, tenant: str) -> None:
    found = await dead.letters(bus, tenant, graph=args.graph, node=args.node, limit=args.limit)
    if args.json:
        say_json({"letters": found})
        return
    rows = [
        (
            str(each.seq),
            each.letter.time[:19].replace("T", " "),
            each.graph,
            each.node,
            each.letter.reason,
            each.letter.run_id,
            each.letter.message,
        )
        for each in found
    ]
    head = ("SEQ", "TIME (UTC)", "GRAPH", "NODE", "REASON", "RUN", "MESSAGE")
    for line in table(head, rows, shrink=("MESSAGE", "RUN", "GRAPH", "NODE")):
        say(line)
    if not rows:
        say("no letter is kept that fits")


async def _show(bus: Bus, args: argparse.Namespace, tenant: str) -> None:
    kept = await dead.letter(bus, tenant, args.seq)
    content = _content(kept)
    if args.json:
        say_json({**msgspec.to_builtins(kept), "content": content})
        return
    letter = kept.letter
    say(f"letter {styled(str(kept.seq), 'bold')}  {styled(letter.reason, 'red')}")
    facts = (
        ("message", letter.message),
        ("time", letter.time),
        ("node", f"{kept.node} of {kept.graph}"),
        ("run", letter.run_id),
        ("task", letter.task_id),
        ("subject", letter.subject),
        ("bytes", f"{len(letter.body):,}"),
    )
    for name, text in facts:
        if text:
            say(f"  {name:<9}{text}")
    say()
    if content is None:
        say(repr(letter.body[:_SHOWN_BYTES]))
    else:
        say(msgspec.json.format(codec.encode_json(content)).decode())
    if letter.run_id:
        say()
        say(f"  langmesh runs show {shlex.quote(letter.run_id)}")
        say(f"  langmesh dead replay {kept.seq}")


async def _replay(bus: Bus, args: argparse.Namespace, tenant: str) -> None:
    kept = await dead.letter(bus, tenant, args.seq)
    if not kept.letter.run_id:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"SEQ: nobody knows which run letter {kept.seq} was for, so that none waits for it",
            remedy=f"If it is of no use, `langmesh dead drop {kept.seq}` deletes it.",
        )
    asked = {"run_id": kept.letter.run_id}
    run = msgspec.convert(
        await ask(bus, tenant, "run.retry", asked, timeout_s=_RETRY_S), RunReference
    )
    # Only now: whoever is refused keeps the letter.
    await dead.drop(bus, tenant, kept.seq)
    if args.json:
        say_json(run)
        return
    say(f"run {styled(run.run_id, 'bold')} goes on where {kept.letter.run_id} stopped")
    say(f"  langmesh events --run {shlex.quote(run.run_id)} --follow")


async def _drop(bus: Bus, args: argparse.Namespace, tenant: str) -> None:
    dropped = [await dead.drop(bus, tenant, seq) for seq in dict.fromkeys(args.seqs)]
    if args.json:
        say_json({"dropped": dropped})
        return
    for each in dropped:
        say(f"letter {each.seq} of {each.node} of {each.graph} is deleted")


def _content(kept: KeptLetter) -> Any:
    """What a letter says, as far as it can be read: a task without its values."""
    try:
        task = codec.decode(ExecuteTask, kept.letter.body)
    except MeshError:
        return None
    context = msgspec.to_builtins(task.context)
    return {
        "type": task.header.type,
        "attempt": task.payload.attempt,
        "sent_at_ms": task.header.sent_at_ms,
        "context": context,
    }


_ACTIONS = {"ls": _list, "show": _show, "replay": _replay, "drop": _drop}
