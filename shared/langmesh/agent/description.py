"""What an agent tells about a node that it serves: to the registry, and to NATS' own tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from langmesh.bus.presence import Presence, Work, service_name
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.inputs import node_schemas
from langmesh.graphs.loading import LoadedGraph
from langmesh.registry import records
from langmesh.service import Service
from langmesh.service.load import Counts
from langmesh.wire import codec, subjects
from langmesh.wire.streams import EXEC

log = logging.getLogger(__name__)


def described(loaded: LoadedGraph, node: str, capabilities: Sequence[str]) -> dict[str, Any]:
    """The fields of a ``ServiceRecord`` that say what a node can do, takes and returns.

    Raises:
        MeshError: INVALID_FIELD for capabilities that cannot be registered.
    """
    try:
        given = [capabilities] if isinstance(capabilities, str) else list(capabilities)
        fields: dict[str, Any] = {
            "capabilities": msgspec.convert(given, records.Capabilities),
        }
    except (msgspec.ValidationError, TypeError) as exc:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"capabilities of node {node!r}: {exc}",
            remedy="Give at most 32 strings of 1 to 100 characters.",
        ) from exc
    taken, returned = node_schemas(loaded.compiled.builder, node)
    for field, schema in (("input_schema", taken), ("output_schema", returned)):
        size = len(codec.project_json(schema))
        if size <= records.SCHEMA_BYTES_MAX:
            fields[field] = schema
        else:
            log.info(
                "%s is left out of the registration of %s: it has %d bytes, the most is %d",
                *(field, node, size, records.SCHEMA_BYTES_MAX),
            )
    return fields


def presence(service: Service, graph: str, node: str, release: str, counts: Counts) -> Presence:
    """The service of a node as NATS' tools show it."""
    subject = subjects.execution(service.settings.tenant, graph, node, release)
    consumer = subjects.exec_consumer(subject)
    return Presence(
        name=service_name(graph, node),
        instance=service.instance,
        started_at=service.started_at,
        description=f"langmesh agent: node {node} of graph {graph}",
        subject=subject,
        queue_group=consumer,
        work=lambda: Work(counts.begun, counts.failed, counts.executed_s),
        metadata={
            "instance": service.instance,
            "tenant": service.settings.tenant,
            "graph": graph,
            "node": node,
            "release": release,
            "subject": subject,
            "stream": EXEC.name,
            "consumer": consumer,
        },
    )
