"""The documents of the registry: frozen structs, stored as JSON.

A process writes its ``ServiceRecord`` and others of any release read it, so unknown fields are
ignored there. ``Bindings`` may be edited by hand: a field that does not exist is refused rather
than silently without effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from langmesh.wire.codec import decode_json, encode_json

State = Literal["starting", "ready", "draining"]
Encoding = Literal["msgpack", "json"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Capability = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Capabilities = Annotated[list[Capability], msgspec.Meta(max_length=32)]

SCHEMA_BYTES_MAX: Final = 32 * 1024
"""Largest JSON Schema in a registration; everyone who follows the agents gets all of them."""


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One running process: an agent or a coordinator."""

    service: Text
    """Its name: the node's, or ``coordinator``."""
    instance: Text
    """Unique per process."""
    pid: Annotated[int, msgspec.Meta(ge=0)]
    """0 for a program that registered by ``agent.register`` and did not say."""
    host: Text
    state: State
    """``starting``: takes no tasks yet; ``draining``: takes no more."""
    event_loop: str
    """What drives it, e.g. ``uvloop``; empty for a program in another language."""
    release: Text
    capacity: Annotated[int, msgspec.Meta(ge=0)]
    """Tasks, or runs, that it works on at once."""
    started_at: Text
    """RFC 3339 in UTC."""
    versions: dict[str, str] = {}
    """Versions of what it is built on, by distribution."""
    graph: str = ""
    """Graph that the agent serves; empty for a coordinator."""
    node: str = ""
    """Node that the agent serves; empty for a coordinator."""
    graphs: dict[str, str] = {}
    """Of a coordinator: the revision that new runs take, by graph."""
    problems: dict[str, str] = {}
    """Of a coordinator: ``REVISION: reason`` of what was published and cannot be loaded, by graph.
    """
    capabilities: Capabilities = []
    """What its author says that it can do, for whoever looks for an agent."""
    input_schema: dict[str, Any] = {}
    """JSON Schema of the node's input as LangGraph knows it; empty if it does not, or if it has
    more than ``SCHEMA_BYTES_MAX`` bytes."""
    output_schema: dict[str, Any] = {}
    """JSON Schema of the state update that the node returns; likewise."""
    ttl_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Seconds after which the record of a program that registered by ``agent.register`` goes unless
    it asks again; 0 for a process that keeps its own lease in etcd."""


class Binding(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Where one node's tasks go."""

    subject: Text
    """EXEC subject of the release that serves the node."""
    release: Text
    encoding: Encoding = "msgpack"
    """``json``: its agents are programs in other languages, which get plain JSON tasks."""


class Bindings(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Where the tasks of a graph's nodes go."""

    revision: Text
    """The topology that new runs take."""
    nodes: dict[Text, Binding]
    """Also nodes that only earlier revisions have, for runs that are under way."""


class Publication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a revision of a graph became the one that new runs take, the last time."""

    published_at: str
    """RFC 3339 in UTC."""
    published_by: str
    """Who, as ``user@host``."""


def encode(record: ServiceRecord | Bindings | Publication) -> bytes:
    """The document of a record.

    Raises:
        MeshError: PAYLOAD_TOO_LARGE.
    """
    return encode_json(record)


def decode_service(document: bytes) -> ServiceRecord:
    """Decode what a process registered.

    Raises:
        MeshError: MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    return decode_json(ServiceRecord, document)


def decode_publication(document: bytes) -> Publication:
    """Decode when a revision was published.

    Raises:
        MeshError: MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    return decode_json(Publication, document)


def decode_bindings(document: bytes) -> Bindings:
    """Decode a graph's bindings.

    Raises:
        MeshError: MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    return decode_json(Bindings, document)
