"""``langmesh config``: show and change policies; agents apply them without a restart."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from langmesh.cli.arguments import add_command, subcommands
from langmesh.cli.terminal import say, say_json, table
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import configuring, keys, policies
from langmesh.registry.configuring import Target
from langmesh.registry.etcd import Etcd
from langmesh.registry.records import decode_bindings
from langmesh.settings import Settings
from langmesh.stack import state

_TARGET = "NODE, GRAPH/NODE, or GRAPH"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = subcommands(parser)
    get = add_command(actions, "get", "show policies", ("config get", "config get researcher"))
    get.add_argument("target", nargs="?", metavar="TARGET", help=f"{_TARGET}; all if none")
    change = add_command(
        actions,
        "set",
        "set fields of policies; all fields of a policy at once",
        (
            "config set researcher.max_in_flight=4 researcher.timeout_s=30",
            "config set research.sample_ratio=0.1",
            "config set researcher.timeout_s=",
        ),
    )
    change.add_argument(
        "assignments",
        nargs="+",
        metavar="TARGET.FIELD=VALUE",
        help="VALUE is JSON or text; without one the field is unset",
    )
    edit = add_command(
        actions, "edit", "change a policy in $VISUAL or $EDITOR", ("config edit researcher",)
    )
    history = add_command(
        actions, "history", "show what a policy was", ("config history researcher",)
    )
    back = add_command(
        actions, "rollback", "make a policy what it was", ("config rollback researcher 1234",)
    )
    for each in (edit, history, back):
        each.add_argument("target", metavar="TARGET", help=_TARGET)
    back.add_argument("revision", type=int, metavar="REVISION", help="as `history` shows it")
    for each in (get, change, edit, history, back):
        each.add_argument(
            "--graph", action="store_true", help="a bare name is a graph's, never a node's"
        )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run the action."""
    mesh = state.find(settings, dict(os.environ))
    async with Etcd(mesh.etcd_endpoints) as etcd:
        known = await _known(etcd, settings.tenant)
        if args.action == "get":
            await _get(etcd, args, known)
        elif args.action == "set":
            await _set(etcd, args, known)
        elif args.action == "edit":
            await _edit(etcd, args, known)
        elif args.action == "history":
            await _history(etcd, args, known)
        else:
            target = _named(args.target, known, only_graphs=args.graph)
            _done(args, target, await configuring.roll_back(etcd, target, args.revision))
    return 0


async def _get(etcd: Etcd, args: argparse.Namespace, known: Sequence[Target]) -> None:
    wanted = [_named(args.target, known, only_graphs=args.graph)] if args.target else known
    found = []
    for target in wanted:
        revision, document = await configuring.stored(etcd, target)
        if revision or args.target:
            found.append((target, revision, _decoded(target, document)))
    if args.json:
        shown = [
            {"graph": target.graph, "node": target.node, "revision": revision, "policy": policy}
            for target, revision, policy in found
        ]
        say_json(shown[0] if args.target else shown)
        return
    if not found:
        say("nothing is configured; set something with `langmesh config set`")
    for target, revision, policy in found:
        say(f"{target}  revision {revision}")
        say(_pretty(msgspec.json.encode(policy)))


async def _set(etcd: Etcd, args: argparse.Namespace, known: Sequence[Target]) -> None:
    wanted: dict[Target, list[tuple[list[str], Any]]] = {}
    for assignment in args.assignments:
        target, path, value = _assignment(assignment, known, only_graphs=args.graph)
        wanted.setdefault(target, []).append((path, value))
    edited: dict[Target, Any] = {}
    for target, fields in wanted.items():

        def edit(document: bytes, target: Target = target, fields: Any = fields) -> bytes:
            policy = _decoded(target, document)
            for path, value in fields:
                _put(policy, path, value)
            return msgspec.json.encode(policy)

        # All are tried before the first is changed.
        _, document = await configuring.stored(etcd, target)
        policies.decode(target.kind, edit(document))
        edited[target] = edit
    for target, each in edited.items():
        _done(args, target, await configuring.change(etcd, target, each))


async def _edit(etcd: Etcd, args: argparse.Namespace, known: Sequence[Target]) -> None:
    target = _named(args.target, known, only_graphs=args.graph)
    revision, document = await configuring.stored(etcd, target)
    before = f"{_pretty(document)}\n"
    handle, name = tempfile.mkstemp(prefix=f"{target.node or target.graph}-", suffix=".json")
    os.close(handle)
    draft = Path(name)
    await asyncio.to_thread(draft.write_text, before)
    await asyncio.to_thread(_open_editor, draft)
    text = await asyncio.to_thread(draft.read_bytes)
    if text == before.encode():
        await asyncio.to_thread(draft.unlink)
        if args.json:
            say_json({"graph": target.graph, "node": target.node, "revision": revision})
        else:
            say("nothing was changed")
        return

    def replace(current: bytes) -> bytes:
        if current != document:
            raise MeshError(
                ErrorCode.BUSY, f"the policy of {target} was changed while it was edited"
            )
        return text

    try:
        changed = await configuring.change(etcd, target, replace)
    except MeshError as exc:
        remedy = f"Your text is kept in {draft}."
        raise MeshError(exc.code, exc.message, remedy=remedy) from exc
    await asyncio.to_thread(draft.unlink)
    _done(args, target, changed)


def _open_editor(draft: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(draft)], check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as exc:
        raise MeshError(
            ErrorCode.INVALID_SETTING,
            f"EDITOR: {editor!r} failed: {exc}",
            remedy="Set EDITOR to a program, or use `langmesh config set`.",
        ) from exc


async def _history(etcd: Etcd, args: argparse.Namespace, known: Sequence[Target]) -> None:
    target = _named(args.target, known, only_graphs=args.graph)
    versions = await configuring.versions(etcd, target)
    if args.json:
        say_json([msgspec.to_builtins(version) for version in versions])
        return
    rows = [
        (
            str(version.revision),
            version.changed_at,
            version.changed_by,
            msgspec.json.encode(version.policy).decode() if version.policy else "removed",
        )
        for version in versions
    ]
    for line in table(("revision", "changed", "by", "policy"), rows):
        say(line)


def _done(args: argparse.Namespace, target: Target, revision: int) -> None:
    if args.json:
        say_json({"graph": target.graph, "node": target.node, "revision": revision})
    else:
        say(f"{target} has a new policy, revision {revision}")


async def _known(etcd: Etcd, tenant: str) -> list[Target]:
    """Everything that can have a policy: the published graphs and their nodes."""
    prefix = keys.graphs(tenant)
    found = []
    for key, entry in sorted((await etcd.list(prefix)).entries.items()):
        parts = key.removeprefix(prefix).split("/")
        if parts[1:] == ["bindings"]:
            (graph,) = keys.names(parts[0])
            nodes = decode_bindings(entry.value).nodes
            found += [Target(tenant, graph), *(Target(tenant, graph, node) for node in nodes)]
    return found


def _named(text: str, known: Sequence[Target], *, only_graphs: bool) -> Target:
    """The one target of a name.

    Raises:
        MeshError: UNKNOWN_NODE naming what there is.
    """
    found = [
        target for target in known if text in _names(target) and not (only_graphs and target.node)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        could = ", ".join("graph " * (not target.node) + str(target) for target in found)
        raise MeshError(
            ErrorCode.UNKNOWN_NODE,
            f"{text!r} could be {could}",
            remedy="Write GRAPH/NODE for a node, or add --graph for a graph.",
        )
    there = ", ".join(map(str, known[:20])) or "nothing, as no graph is published"
    raise MeshError(
        ErrorCode.UNKNOWN_NODE,
        f"there is no {'graph' if only_graphs else 'node or graph'} {text!r}; there is {there}",
        remedy="List the graphs with `langmesh status`.",
    )


def _names(target: Target) -> set[str]:
    return {str(target), target.node or target.graph}


def _assignment(
    text: str, known: Sequence[Target], *, only_graphs: bool
) -> tuple[Target, list[str], Any]:
    """Target, path in its policy and value of ``TARGET.FIELD=VALUE``; None unsets.

    Raises:
        MeshError: INVALID_FIELD, UNKNOWN_NODE.
    """
    place, equals, written = text.partition("=")
    # A name may have dots itself.
    ends = [at for at, each in enumerate(place) if each == "."]
    names = {name for target in known for name in _names(target)}
    end = next((at for at in reversed(ends) if place[:at] in names), ends[0] if ends else 0)
    path = place[end + 1 :].split(".")
    if not equals or not end or not all(path):
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"{text!r} is not of the form TARGET.FIELD=VALUE",
            remedy="As in `langmesh config set researcher.max_in_flight=4`.",
        )
    target = _named(place[:end], known, only_graphs=only_graphs)
    if not written:
        return target, path, None
    try:
        return target, path, msgspec.json.decode(written)
    except msgspec.DecodeError:
        return target, path, written


def _put(policy: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    inside = policy
    for name in parents:
        inside = inside.setdefault(name, {})
        if not isinstance(inside, dict):
            raise MeshError(ErrorCode.INVALID_FIELD, f"{'.'.join(path)}: {name} has no fields")
    if value is None:
        inside.pop(last, None)
    else:
        inside[last] = value


def _decoded(target: Target, document: bytes) -> Any:
    """A stored document, which somebody else may have written."""
    try:
        found = msgspec.json.decode(document)
    except msgspec.DecodeError as exc:
        found = exc
    if isinstance(found, dict):
        return found
    raise MeshError(
        ErrorCode.MALFORMED_BODY,
        f"what is stored for {target} is no JSON object",
        remedy=f"Write it anew with `langmesh config edit {target}`.",
    )


def _pretty(document: bytes) -> str:
    try:
        return msgspec.json.format(document, indent=2).decode()
    except msgspec.DecodeError:
        return document.decode(errors="replace")
