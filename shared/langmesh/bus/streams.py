"""Create-or-verify of the streams and consumers that the protocol declares: never silent drift."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.streams import STREAMS, ConsumerSpec, StreamSpec

_NANOS = 1_000_000_000
_IN_USE = 10058


def stream_config(spec: StreamSpec, *, replicas: int = 1) -> dict[str, Any]:
    """The stream's configuration as the JetStream API takes it."""
    return {
        "name": spec.name,
        "description": spec.purpose,
        "subjects": list(spec.subjects),
        "retention": spec.retention.value,
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new" if spec.discard_new else "old",
        "discard_new_per_subject": spec.discard_new_per_subject,
        "max_msgs_per_subject": spec.max_msgs_per_subject,
        "max_age": spec.max_age_s * _NANOS,
        "max_bytes": spec.max_bytes,
        "allow_direct": True,
        "allow_msg_ttl": spec.message_ttl,
        "subject_delete_marker_ttl": spec.marker_ttl_s * _NANOS,
    }


async def ensure_streams(
    bus: Bus, specs: Iterable[StreamSpec] = STREAMS, *, replicas: int = 1
) -> None:
    """Create the protocol's streams, or verify that they are as declared.

    Args:
        bus: The connection.
        specs: Those that are needed.
        replicas: Copies of each stream that is created.

    Raises:
        MeshError: STREAM_MISMATCH naming stream and setting, BROKER_UNAVAILABLE without JetStream.
    """
    await asyncio.gather(*(ensure_stream(bus, spec, replicas=replicas) for spec in specs))


async def ensure_stream(bus: Bus, spec: StreamSpec, *, replicas: int = 1) -> None:
    """Create one stream, or verify that it is as declared.

    Raises:
        MeshError: As :func:`ensure_streams`.
    """
    config = stream_config(spec, replicas=replicas)
    answer = await bus.api(f"STREAM.CREATE.{spec.name}", config)
    if "error" not in answer:
        # A server that does not know a setting leaves it out without a word.
        _verify(spec, config, answer.get("config", {}))
        return
    if answer["error"].get("err_code") != _IN_USE:
        raise MeshError(
            ErrorCode.BROKER_UNAVAILABLE,
            f"stream {spec.name}: {answer['error'].get('description')}",
            remedy="Check that nats-server runs with JetStream and has room for its files.",
        )
    _verify(spec, config, (await bus.api(f"STREAM.INFO.{spec.name}")).get("config", {}))


def _verify(spec: StreamSpec, config: dict[str, Any], found: dict[str, Any]) -> None:
    for key, wanted in config.items():
        if key not in {"description", "num_replicas"} and found.get(key, _absent(wanted)) != wanted:
            raise MeshError(
                ErrorCode.STREAM_MISMATCH,
                f"stream {spec.name}: {key} is {found.get(key)!r}, the protocol needs {wanted!r}",
            )


def _absent(wanted: Any) -> Any:
    """What the API leaves out stands for its zero value."""
    return type(wanted)()


async def ensure_consumer(bus: Bus, spec: ConsumerSpec) -> None:
    """Create a durable pull consumer, or update it to what is declared.

    Raises:
        MeshError: STREAM_MISMATCH with the broker's reason.
    """
    answer = await bus.api(
        f"CONSUMER.DURABLE.CREATE.{spec.stream}.{spec.durable}",
        {
            "stream_name": spec.stream,
            "config": {
                "durable_name": spec.durable,
                "filter_subject": spec.filter_subject,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": int(spec.ack_wait_s * _NANOS),
                "max_ack_pending": spec.max_ack_pending,
                "max_deliver": -1,
                "max_waiting": 512,
                "replay_policy": "instant",
            },
        },
    )
    if "error" in answer:
        raise MeshError(
            ErrorCode.STREAM_MISMATCH,
            f"consumer {spec.durable} of {spec.stream}: {answer['error'].get('description')}",
        )
