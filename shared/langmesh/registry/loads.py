"""How busy a service is, as the registry shows it: a document per service, rewritten every 5 s.

It hangs on the lease of the service's registration and goes with it. It has a key of its own,
so that a registration changes only when the service does.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from langmesh.registry.records import Text
from langmesh.wire.codec import decode_json, encode_json

INTERVAL_S: Final = 5.0
"""Seconds between two reports of a service."""
SILENT_INTERVALS: Final = 3
"""After so many intervals without a report a service that is still registered counts as silent."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy one service was over the interval that ended at ``timestamp``."""

    agent_id: Text
    """Instance of the agent or coordinator."""
    timestamp: Text
    """When it was measured, RFC 3339 in UTC."""
    interval_s: Annotated[float, msgspec.Meta(gt=0)]
    """Seconds until the next report is due."""
    cpu_usage: Share = 0.0
    """CPU time of the process, of all its threads, as a share of what it may use: the CPUs that it
    may run on, or the quota of its cgroup where that is less."""
    memory_usage: Share = 0.0
    """Resident memory of the process as a share of what it may use: the machine's, or the limit of
    its cgroup where that is less."""
    memory_bytes: Count = 0
    """Resident memory of the process."""
    request_rate: Amount = 0.0
    """Tasks, or runs, begun per second."""
    in_flight: Count = 0
    """Tasks, or accepted runs, in work now."""
    capacity: Count = 0
    """How many may be in work at once."""
    queue_wait_ms: Amount | None = None
    """Mean milliseconds that the tasks begun in the interval had waited since they were sent (over
    two clocks), or the runs since they were accepted; null if none began."""
    execute_ms: Amount | None = None
    """Mean milliseconds of execution of those that ended in the interval; null if none did."""
    failures: Count = 0
    """How many of those that ended in the interval had failed: attempts, or runs."""


def encode(load: Load) -> bytes:
    """The document of a load."""
    return encode_json(load)


def decode(document: bytes) -> Load:
    """Decode what a service reported.

    Raises:
        MeshError: MALFORMED_BODY, or INVALID_FIELD naming the field.
    """
    return decode_json(Load, document)
