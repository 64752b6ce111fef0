"""Change hot configuration: checked, all at once, and with a history that can be gone back in."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from langmesh import clock
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry import keys, policies
from langmesh.registry.etcd import Etcd, delete_op, mod_is, put_op
from langmesh.registry.policies import Change, GraphPolicy, NodePolicy, Policy
from langmesh.wire.codec import decode_json

HISTORY_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Target:
    """Whose policy: a node's, or without a node a graph's."""

    tenant: str
    graph: str
    node: str = ""

    @property
    def key(self) -> str:
        """Where its policy is stored."""
        if self.node:
            return keys.agent_config(self.tenant, self.graph, self.node)
        return keys.graph_config(self.tenant, self.graph)

    @property
    def kind(self) -> type[Policy]:
        """What its policy is."""
        return NodePolicy if self.node else GraphPolicy

    def __str__(self) -> str:
        return f"{self.graph}/{self.node}" if self.node else self.graph


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as it was from one revision on."""

    revision: int
    """The store's revision."""
    changed_at: str
    changed_by: str
    policy: dict[str, Any] | None
    """None if it was removed."""


async def stored(etcd: Etcd, target: Target) -> tuple[int, bytes]:
    """The revision and the document of a policy as it is; 0 and ``{}`` if there is none.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE.
    """
    entry = await etcd.get(target.key)
    return (entry.mod_revision, entry.value) if entry is not None else (0, b"{}")


async def change(etcd: Etcd, target: Target, edit: Callable[[bytes], bytes]) -> int:
    """Replace a policy by what ``edit`` makes of its document; gives the new revision.

    If somebody else changes it meanwhile, ``edit`` is called again. A policy that sets nothing is
    removed.

    Raises:
        MeshError: INVALID_FIELD and the like for a document that is not a policy: nothing is
            changed then; REGISTRY_UNAVAILABLE.
    """
    history = keys.config_history(target.key)
    while True:
        revision, document = await stored(etcd, target)
        policy = policies.decode(target.kind, edit(document))
        empty = policy == target.kind()
        encoded = policies.encode(policy)
        entry = Change(
            changed_at=clock.now_iso(),
            changed_by=operator(),
            policy=None if empty else msgspec.json.decode(encoded),
        )
        known = sorted((await etcd.list(history)).entries)
        then = [
            delete_op(target.key) if empty else put_op(target.key, encoded),
            put_op(f"{history}{clock.now_ms():013d}-{clock.new_id()[:8]}", policies.encode(entry)),
            *(delete_op(key) for key in known[: max(0, len(known) - HISTORY_MAX + 1)]),
        ]
        result = await etcd.txn([mod_is(target.key, revision)], then)
        if result.succeeded:
            return result.revision


async def versions(etcd: Etcd, target: Target) -> list[Version]:
    """What a policy was, newest first, at most `HISTORY_MAX`.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE.
    """
    found = []
    for entry in (await etcd.list(keys.config_history(target.key))).entries.values():
        old = decode_json(Change, entry.value)
        found.append(
            Version(
                revision=entry.mod_revision,
                changed_at=old.changed_at,
                changed_by=old.changed_by,
                policy=old.policy,
            )
        )
    return sorted(found, key=lambda each: each.revision, reverse=True)


async def roll_back(etcd: Etcd, target: Target, revision: int) -> int:
    """Make a policy what it was; gives the new revision.

    Raises:
        MeshError: INVALID_FIELD naming the revisions that there are; REGISTRY_UNAVAILABLE.
    """
    known = await versions(etcd, target)
    found = next((version for version in known if version.revision == revision), None)
    if found is not None:
        document = msgspec.json.encode(found.policy or {})
        return await change(etcd, target, lambda _: document)
    there = ", ".join(str(version.revision) for version in known[:10]) or "none"
    raise MeshError(
        ErrorCode.INVALID_FIELD,
        f"revision: the policy of {target} has no revision {revision}; there is {there}",
        remedy=f"List them with `langmesh config history {target}`.",
    )


def operator() -> str:
    """Who runs this process, as ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
