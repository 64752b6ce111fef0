"""The JetStream streams and consumers of the protocol, as data; ``langmesh.bus`` creates them.

All streams are kept in files. Ages are in seconds, 0 meaning that nothing expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from langmesh.wire import subjects

HOUR = 3600
DAY = 24 * HOUR


class Retention(StrEnum):
    """When a stream lets go of a message (JetStream's retention policies)."""

    LIMITS = "limits"
    WORK_QUEUE = "workqueue"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream: its subjects and the settings that the protocol depends on."""

    name: str
    subjects: tuple[str, ...]
    purpose: str
    retention: Retention = Retention.LIMITS
    discard_new: bool = False
    max_msgs_per_subject: int = -1
    discard_new_per_subject: bool = False
    max_age_s: int = 0
    max_bytes: int = -1
    message_ttl: bool = False
    marker_ttl_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """A durable, explicitly acknowledged pull consumer."""

    stream: str
    durable: str
    filter_subject: str
    ack_wait_s: float
    max_ack_pending: int


SUBMIT = StreamSpec(
    name="SUBMIT",
    subjects=(subjects.SUBMIT_ALL,),
    purpose="Submissions wait here, durable once the publish is acknowledged.",
    retention=Retention.WORK_QUEUE,
)
EXEC = StreamSpec(
    name="EXEC",
    subjects=(subjects.EXEC_ALL,),
    purpose="Tasks wait here for an agent: a hint that can always be derived again.",
    retention=Retention.WORK_QUEUE,
)
SLOT = StreamSpec(
    name="SLOT",
    subjects=(subjects.SLOT_ALL,),
    purpose="Outcomes, write-once: the second write to a slot is refused (error 10077).",
    discard_new=True,
    max_msgs_per_subject=1,
    discard_new_per_subject=True,
    max_age_s=DAY,
)
LOG = StreamSpec(
    name="LOG",
    subjects=(subjects.LOG_ALL,),
    purpose="The chain of each thread, appended by compare-and-set: the only truth.",
)
ACTIVE = StreamSpec(
    name="ACTIVE",
    subjects=(subjects.ACTIVE_ALL,),
    purpose="Threads with unfinished runs, for the sweeper; last message per subject.",
    max_msgs_per_subject=1,
)
EVENT = StreamSpec(
    name="EVENT",
    subjects=(subjects.EVENT_ALL, subjects.REJECT_ALL),
    purpose="Progress and results for clients, and refused submissions.",
    max_age_s=7 * DAY,
)
CHUNK = StreamSpec(
    name="CHUNK",
    subjects=(subjects.CHUNK_ALL,),
    purpose="Tokens and custom output straight from the agents.",
    max_age_s=HOUR,
    max_bytes=1 << 30,
)
DEAD = StreamSpec(
    name="DEAD",
    subjects=(subjects.DEAD_ALL,),
    purpose="Messages that nobody could decode or finish, with the reason.",
    max_age_s=30 * DAY,
)
STORE = StreamSpec(
    name="STORE",
    subjects=(subjects.STORE_ALL,),
    purpose="Long-term memory: the last value of each key of a store. What is deleted or expires"
    " leaves a marker for a while, for those who follow.",
    max_msgs_per_subject=1,
    message_ttl=True,
    marker_ttl_s=DAY,
)

STREAMS = (SUBMIT, EXEC, SLOT, LOG, ACTIVE, EVENT, CHUNK, DEAD, STORE)

SUBMIT_CONSUMER = ConsumerSpec(
    stream=SUBMIT.name,
    durable="coordinator",
    filter_subject=subjects.SUBMIT_ALL,
    ack_wait_s=10.0,
    max_ack_pending=-1,
)

EXEC_ACK_WAIT_S = 4.0
"""How long an agent may be silent about a task before the broker hands it to another."""


def exec_consumer(subject: str) -> ConsumerSpec:
    """The consumer of one literal execution subject; wildcards would overlap and be refused."""
    return ConsumerSpec(
        stream=EXEC.name,
        durable=subjects.exec_consumer(subject),
        filter_subject=subject,
        ack_wait_s=EXEC_ACK_WAIT_S,
        max_ack_pending=-1,
    )
