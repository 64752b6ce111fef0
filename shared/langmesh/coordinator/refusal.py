"""Tell clients why a submission did not become a run."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery
from langmesh.clock import now_iso
from langmesh.errors import MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import RunRejected
from langmesh.wire.names import NAME_BYTES_MAX

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


async def refuse(bus: Bus, delivery: Delivery, exc: MeshError) -> None:
    """Store the rejection of a submission, however long the broker is away."""
    *_, tenant, graph = delivery.subject.split(".")
    rejected = RunRejected(
        submit_seq=delivery.stream_seq,
        time=now_iso(),
        **_ids(delivery.body),
        code=str(exc.code),
        message=exc.message,
        remedy=exc.remedy,
    )
    subject = f"{subjects.ROOT}.reject.{tenant}.{graph}"
    while True:
        try:
            await bus.append(subject, codec.encode_json(rejected))
        except MeshError as failure:
            log.warning("a rejection is not stored yet: %s", failure)
            await asyncio.sleep(_RETRY_S)
        else:
            return


def _ids(body: bytes) -> dict[str, Any]:
    """The ids that a refused submission asked for, where they can be read and told."""
    try:
        submission = codec.decode_submission(body)
    except MeshError:
        return {}
    ids = {"run_id": submission.run_id, "thread_id": submission.thread_id}
    return {name: text for name, text in ids.items() if text and len(text) <= NAME_BYTES_MAX}
