"""Subjects: the only place where they are built, matched and taken apart.

Every subject is ``mesh.v1.<kind>.…`` with the kind first, so that permissions and wildcards select
by kind. All parts are tokens of ``names``; callers pass names, never tokens.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.names import NAME_BYTES_MAX, from_token, to_token

ROOT = "mesh.v1"

SUBMIT_ALL = f"{ROOT}.submit.*.*"
EXEC_ALL = f"{ROOT}.exec.*.*.*.*"
SLOT_ALL = f"{ROOT}.slot.*.*.*.*.*"
LOG_ALL = f"{ROOT}.log.>"
ACTIVE_ALL = f"{ROOT}.active.*.*.*"
EVENT_ALL = f"{ROOT}.event.*.*.*.*"
REJECT_ALL = f"{ROOT}.reject.*.*"
CHUNK_ALL = f"{ROOT}.chunk.*.*.*.*.*"
DEAD_ALL = f"{ROOT}.dead.*.*.*"
STORE_ALL = f"{ROOT}.store.>"
RPC_ALL = f"{ROOT}.rpc.*.>"
"""Also what is no verb, so that whoever misspells one gets an answer."""

_HASHED: Final = "h--"
_DEEP: Final = "n--"
STORE_LABELS_MAX: Final = 15
"""Labels of a store's namespace that have a token of their own."""
_VERB: Final = re.compile(r"[a-z]+\.[a-z]+\Z")


@dataclass(frozen=True, slots=True)
class SubmitSubject:
    """The names in a submission's subject."""

    tenant: str
    graph: str


@dataclass(frozen=True, slots=True)
class RpcSubject:
    """The tenant and the verb in a request's subject."""

    tenant: str
    verb: str


@dataclass(frozen=True, slots=True)
class EventSubject:
    """The names in the subject of a run's events."""

    tenant: str
    graph: str
    thread: str
    run: str


@dataclass(frozen=True, slots=True)
class ExecSubject:
    """The names in an execution subject."""

    tenant: str
    graph: str
    node: str
    release: str


@dataclass(frozen=True, slots=True)
class DeadSubject:
    """The names in a dead letter's subject."""

    tenant: str
    graph: str
    node: str


@dataclass(frozen=True, slots=True)
class StoreSubject:
    """The names in the subject of a store's item."""

    tenant: str
    namespace: tuple[str, ...]
    key: str


@dataclass(frozen=True, slots=True)
class SlotSubject:
    """The names in a slot's subject."""

    tenant: str
    graph: str
    node: str
    cap: str


@dataclass(frozen=True, slots=True)
class LogSubject:
    """The names in a chain's subject; None for one of which the subject holds but a digest."""

    partition: int
    tenant: str
    thread: str | None
    namespace: str | None


def submit(tenant: str, graph: str) -> str:
    """Where anyone submits a run of a graph."""
    return f"{ROOT}.submit.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"


def parse_submit(subject: str) -> SubmitSubject:
    """Take a submission's subject apart.

    Raises:
        MeshError: INVALID_NAME if a part is not a token.
    """
    tenant, graph = _parts(subject, "submit", 2)
    return SubmitSubject(from_token(tenant), from_token(graph))


def rpc(tenant: str, verb: str) -> str:
    """Where a client asks a coordinator; verbs such as ``run.get`` keep their dot.

    Raises:
        MeshError: UNKNOWN_VERB if the verb is not two words with a dot between them.
    """
    return f"{ROOT}.rpc.{_t(tenant, 'tenant')}.{_verb(verb)}"


def parse_rpc(subject: str) -> RpcSubject:
    """Take a request's subject apart.

    Raises:
        MeshError: INVALID_NAME if it is not one, UNKNOWN_VERB as for :func:`rpc`.
    """
    prefix, _, rest = subject.partition(".rpc.")
    tenant, _, verb = rest.partition(".")
    if prefix != ROOT and not prefix.startswith(f"{ROOT}.peer."):
        raise MeshError(ErrorCode.INVALID_NAME, f"{subject[:200]!r} is not a rpc subject")
    return RpcSubject(from_token(tenant), _verb(verb))


def execution(tenant: str, graph: str, node: str, release: str) -> str:
    """Where the coordinator sends the tasks of one release of a node."""
    return (
        f"{ROOT}.exec.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"
        f".{_t(node, 'node')}.{_t(release, 'release')}"
    )


def parse_execution(subject: str) -> ExecSubject:
    """Take an execution subject apart.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    tenant, graph, node, release = _parts(subject, "exec", 4)
    return ExecSubject(from_token(tenant), from_token(graph), from_token(node), from_token(release))


def slot(partition: int, tenant: str, graph: str, node: str, cap: str) -> str:
    """Where the outcome of one attempt of one task is written, once."""
    return (
        f"{ROOT}.slot.{partition}.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"
        f".{_t(node, 'node')}.{cap}"
    )


def slot_cap(subject: str) -> str:
    """The capability at the end of a slot's subject."""
    return subject.rpartition(".")[2]


def parse_slot(subject: str) -> SlotSubject:
    """Take a slot's subject apart.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    _, tenant, graph, node, cap = _parts(subject, "slot", 5)
    return SlotSubject(from_token(tenant), from_token(graph), from_token(node), cap)


def log(partition: int, tenant: str, thread: str, namespace: str = "") -> str:
    """The chain of a thread's entries, or that of one of its namespaces."""
    base = f"{ROOT}.log.{partition}.{_t(tenant, 'tenant')}.{_digested(thread, 'thread')}"
    return f"{base}.{_digested(namespace, 'namespace')}" if namespace else base


def logs_of_tenant(tenant: str) -> str:
    """Wildcard over the chains of all threads of a tenant."""
    return f"{ROOT}.log.*.{_t(tenant, 'tenant')}.>"


def logs_of_thread(partition: int, tenant: str, thread: str) -> str:
    """Wildcard over the chains of a thread's namespaces, without that of the thread itself."""
    return f"{log(partition, tenant, thread)}.*"


def parse_log(subject: str) -> LogSubject:
    """Take a chain's subject apart.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    count = 4 if subject.count(".") == 6 else 3
    partition, tenant, thread, *namespace = _parts(subject, "log", count)
    if not partition.isdecimal():
        raise MeshError(ErrorCode.INVALID_NAME, f"{subject[:200]!r} is not a log subject")
    return LogSubject(
        int(partition),
        from_token(tenant),
        _undigested(thread),
        _undigested(namespace[0]) if namespace else "",
    )


def active(partition: int, tenant: str, thread: str) -> str:
    """The marker of a thread with an unfinished run."""
    return f"{ROOT}.active.{partition}.{_t(tenant, 'tenant')}.{_t(thread, 'thread')}"


def parse_active(subject: str) -> tuple[str, str]:
    """The tenant and the thread of a marker.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    _, tenant, thread = _parts(subject, "active", 3)
    return from_token(tenant), from_token(thread)


def event(tenant: str, graph: str, thread: str, run: str) -> str:
    """Where the progress and the result of one run are published."""
    return (
        f"{ROOT}.event.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"
        f".{_t(thread, 'thread')}.{_t(run, 'run')}"
    )


def events_of_graph(tenant: str, graph: str) -> str:
    """Wildcard over the events of all runs of a graph."""
    return f"{ROOT}.event.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}.*.*"


def events(
    tenant: str, graph: str | None = None, thread: str | None = None, run: str | None = None
) -> str:
    """Where to follow those runs of a tenant that have the given names."""
    named = ((graph, "graph"), (thread, "thread"), (run, "run"))
    tokens = ("*" if name is None else _t(name, field) for name, field in named)
    return f"{ROOT}.event.{_t(tenant, 'tenant')}.{'.'.join(tokens)}"


def parse_event(subject: str) -> EventSubject:
    """Take the subject of a run's events apart.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    tenant, graph, thread, run = _parts(subject, "event", 4)
    return EventSubject(from_token(tenant), from_token(graph), from_token(thread), from_token(run))


def events_of_run(tenant: str, run: str) -> str:
    """Wildcard over the events of a run whose graph and thread are unknown."""
    return f"{ROOT}.event.{_t(tenant, 'tenant')}.*.*.{_t(run, 'run')}"


def reject(tenant: str, graph: str) -> str:
    """Where refused submissions are answered."""
    return f"{ROOT}.reject.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"


def rejects(tenant: str, graph: str | None = None) -> str:
    """Where to follow refusals, of submissions to one graph or to all."""
    return f"{ROOT}.reject.{_t(tenant, 'tenant')}.*" if graph is None else reject(tenant, graph)


def parse_reject(subject: str) -> SubmitSubject:
    """Take the subject of a refusal apart; it has a submission's names.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    tenant, graph = _parts(subject, "reject", 2)
    return SubmitSubject(from_token(tenant), from_token(graph))


def chunk(tenant: str, graph: str, thread: str, run: str, node: str) -> str:
    """Where an agent streams tokens and custom output of one node in one run."""
    return (
        f"{ROOT}.chunk.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}"
        f".{_t(thread, 'thread')}.{_t(run, 'run')}.{_t(node, 'node')}"
    )


def chunks_of_run(tenant: str, graph: str, thread: str, run: str) -> str:
    """Wildcard over the chunks of all nodes in one run."""
    return chunk(tenant, graph, thread, run, "node").rpartition(".")[0] + ".*"


def dead(tenant: str, graph: str, node: str) -> str:
    """Where messages are kept that no attempt could use."""
    return f"{ROOT}.dead.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}.{_t(node, 'node')}"


def deads(tenant: str, graph: str | None = None, node: str | None = None) -> str:
    """Wildcard over the dead letters of a tenant, of a graph or of a node."""
    named = ((graph, "graph"), (node, "node"))
    tokens = ("*" if name is None else _t(name, field) for name, field in named)
    return f"{ROOT}.dead.{_t(tenant, 'tenant')}.{'.'.join(tokens)}"


def parse_dead(subject: str) -> DeadSubject:
    """Take a dead letter's subject apart.

    Raises:
        MeshError: INVALID_NAME if it is not one.
    """
    tenant, graph, node = _parts(subject, "dead", 3)
    return DeadSubject(from_token(tenant), from_token(graph), from_token(node))


def peer(instance: str) -> str:
    """Where a coordinator hears other coordinators."""
    return f"{ROOT}.peer.{_t(instance, 'instance')}"


def peer_rpc(instance: str, tenant: str, verb: str) -> str:
    """Where a coordinator gets a request that another one passes on."""
    return f"{peer(instance)}{rpc(tenant, verb).removeprefix(ROOT)}"


def peer_rpc_all(instance: str) -> str:
    """Wildcard over the requests that other coordinators pass on to one."""
    return f"{peer(instance)}{RPC_ALL.removeprefix(ROOT)}"


def slots_of(partition: int) -> str:
    """Wildcard over the slots of a partition."""
    return f"{ROOT}.slot.{partition}.*.*.*.*"


def control(tenant: str, graph: str, node: str) -> str:
    """Where the coordinator tells a node's agents to cancel or to drain."""
    return f"{ROOT}.control.{_t(tenant, 'tenant')}.{_t(graph, 'graph')}.{_t(node, 'node')}"


def store_item(tenant: str, namespace: tuple[str, ...], key: str) -> str:
    """Where the value of one key of a namespace is kept."""
    return ".".join([*_store_tokens(tenant, namespace), _store_token(key)])


def store_below(tenant: str, namespace: tuple[str, ...]) -> str:
    """Wildcard over the items of a namespace and of those below it.

    Of a namespace of more than 15 labels the first 15 count: readers compare the names in the
    bodies.
    """
    tokens = _store_tokens(tenant, namespace)
    deepest = len(tokens) - len(namespace[STORE_LABELS_MAX:][:1])
    return ".".join([*tokens[:deepest], ">"])


def parse_store_item(subject: str) -> StoreSubject:
    """Take the subject of a store's item apart.

    Raises:
        MeshError: INVALID_NAME if it is none, or if a name in it is only a digest.
    """
    prefix = f"{ROOT}.store."
    tokens = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(tokens) < 2:
        raise MeshError(ErrorCode.INVALID_NAME, f"{subject[:200]!r} is not a store subject")
    for token in tokens[1:]:
        if token.startswith((_HASHED, _DEEP)):
            raise MeshError(ErrorCode.INVALID_NAME, f"{token!r} is the digest of a longer name")
    tenant, *namespace, key = map(from_token, tokens)
    return StoreSubject(tenant, tuple(namespace), key)


def exec_consumer(subject: str) -> str:
    """The durable consumer of one execution subject: its four tokens joined by ``=``.

    ``=`` is in no token and is allowed in consumer names, so that the name is unique and readable.
    """
    return "=".join(_parts(subject, "exec", 4))


def _digested(name: str, field: str) -> str:
    """A name of any length as a token: a long one is told apart by its digest alone.

    Namespaces grow with each nesting, and LangGraph takes any text as a thread. What is named so
    says its name in the body.
    """
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) <= NAME_BYTES_MAX and not name.startswith(_HASHED):
        return _t(name, field)
    return _HASHED + _digest(raw)


def _store_tokens(tenant: str, namespace: tuple[str, ...]) -> list[str]:
    """The tokens before the key's; the labels behind the fifteenth share one, a digest.

    So that a subject stays below the 4 KB that nats-server takes in a protocol line.
    """
    labels, deep = namespace[:STORE_LABELS_MAX], namespace[STORE_LABELS_MAX:]
    tokens = [ROOT, "store", _t(tenant, "tenant"), *map(_store_token, labels)]
    if deep:
        counted = "".join(f"{len(label)}:{label}" for label in deep)
        tokens.append(_DEEP + _digest(counted.encode("utf-8", "surrogatepass")))
    return tokens


def _store_token(name: str) -> str:
    """Any text as a token: encoded reversibly, or a digest where it is empty or long."""
    raw = name.encode("utf-8", "surrogatepass")
    if 0 < len(raw) <= NAME_BYTES_MAX and not name.startswith((_HASHED, _DEEP)):
        return _t(name, "name")
    return _HASHED + _digest(raw)


def _digest(raw: bytes) -> str:
    return base64.b32hexencode(blake2b(raw, digest_size=30).digest()).decode().lower()


def _undigested(token: str) -> str | None:
    return None if token.startswith(_HASHED) else from_token(token)


def _t(name: str, field: str) -> str:
    return to_token(name, field=field)


def _verb(verb: str) -> str:
    if _VERB.match(verb) is None:
        raise MeshError(ErrorCode.UNKNOWN_VERB, f"{verb[:80]!r} is not a verb such as 'run.get'")
    return verb


def _parts(subject: str, kind: str, count: int) -> list[str]:
    prefix = f"{ROOT}.{kind}."
    parts = subject.removeprefix(prefix).split(".")
    if not subject.startswith(prefix) or len(parts) != count:
        raise MeshError(ErrorCode.INVALID_NAME, f"{subject[:200]!r} is not a {kind} subject")
    return parts
