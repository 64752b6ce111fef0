"""Ask the coordinator one of the protocol's verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from langmesh.bus import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, rpc, subjects


async def ask(
    bus: Bus,
    tenant: str,
    verb: str,
    fields: Mapping[str, Any],
    *,
    timeout_s: float = 10.0,
    headers: dict[str, str] | None = None,
) -> Any:
    """The answer to a request, as plain JSON values.

    Args:
        bus: The connection.
        tenant: Whose runs are meant.
        verb: One of ``wire.rpc.VERBS``.
        fields: Those of the verb's request; None stands for absent.
        timeout_s: Seconds to wait.
        headers: Sent along.

    Raises:
        MeshError: What the coordinator answers, BROKER_UNAVAILABLE when nobody does, or
            VALUE_NOT_SERIALIZABLE.
    """
    try:
        body = msgspec.json.encode({k: v for k, v in fields.items() if v is not None})
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise MeshError(
            ErrorCode.VALUE_NOT_SERIALIZABLE, f"{verb}: cannot be sent as JSON: {exc}"
        ) from exc
    subject = subjects.rpc(tenant, verb)
    try:
        answer = await bus.request(subject, body, timeout_s=timeout_s, headers=headers)
    except MeshError as exc:
        raise MeshError(
            exc.code,
            exc.message,
            remedy="See with `langmesh status` whether a coordinator is ready; check NATS_URL.",
        ) from exc
    found = msgspec.json.decode(answer)
    if found.keys() == {"error"}:
        fault = codec.decode_json(rpc.RpcError, answer).error
        raise MeshError(ErrorCode.received(fault.code), fault.message, remedy=fault.remedy)
    return found
