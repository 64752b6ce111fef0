"""Create-or-verify of the streams and consumers that the protocol declares: never silent drift."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.wire.streams import CHUNK, DEAD, EVENT, SLOT, STREAMS, ConsumerSpec, StreamSpec

_NANOS = 1_000_000_000
_IN_USE = 10058


def lifetimes(settings: Settings) -> dict[str, int]:
    """Seconds for which streams keep their messages, by the stream's name; 0 for ever."""
    return {
        EVENT.name: settings.keep_events,
        CHUNK.name: settings.keep_chunks,
        SLOT.name: settings.keep_slots,
        DEAD.name: settings.keep_dead,
    }


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
    bus: Bus,
    specs: Iterable[StreamSpec] = STREAMS,
    *,
    replicas: int = 1,
    ages_s: Mapping[str, int] | None = None,
) -> None:
    """Create the protocol's streams, or verify that they are as declared.

    Args:
        bus: The connection.
        specs: Those that are needed.
        replicas: Copies of each stream that is created.
        ages_s: How long streams keep their messages, by name, as :func:`lifetimes` has it; streams
            that keep them for another time are changed. None for whatever they have, or as declared
            if they are created.

    Raises:
        MeshError: STREAM_MISMATCH naming stream and setting, BROKER_UNAVAILABLE without JetStream.
    """
    await asyncio.gather(
        *(ensure_stream(bus, spec, replicas=replicas, ages_s=ages_s) for spec in specs)
    )


async def ensure_stream(
    bus: Bus, spec: StreamSpec, *, replicas: int = 1, ages_s: Mapping[str, int] | None = None
) -> None:
    """Create one stream, or verify that it is as declared.

    Raises:
        MeshError: As :func:`ensure_streams`.
    """
    wanted_age = None if ages_s is None else ages_s.get(spec.name)
    if wanted_age is not None:
        spec = replace(spec, max_age_s=wanted_age)
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
    found = (await bus.api(f"STREAM.INFO.{spec.name}")).get("config", {})
    _verify(spec, config, found, but={"max_age"})
    if wanted_age is not None and found.get("max_age") != config["max_age"]:
        await _change_age(bus, spec, {**found, "max_age": config["max_age"]})


async def _change_age(bus: Bus, spec: StreamSpec, config: dict[str, Any]) -> None:
    # The server asks that nothing is deduplicated for longer than it is kept.
    if 0 < config["max_age"] < config.get("duplicate_window", 0):
        config["duplicate_window"] = config["max_age"]
    answer = await bus.api(f"STREAM.UPDATE.{spec.name}", config)
    if "error" in answer:
        raise MeshError(
            ErrorCode.STREAM_MISMATCH,
            f"stream {spec.name}: max_age cannot be set to {spec.max_age_s} s:"
            f" {answer['error'].get('description')}",
        )


def _verify(
    spec: StreamSpec,
    config: dict[str, Any],
    found: dict[str, Any],
    *,
    but: AbstractSet[str] = frozenset(),
) -> None:
    for key, wanted in config.items():
        if key in but:
            continue
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
