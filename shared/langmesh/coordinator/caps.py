"""Identifiers that are derived, never drawn: pure functions of what a task is.

A capability names the slot of one attempt; only who has the key can make it. Everything that makes
an attempt different goes in (rule R3): tenant, thread, namespace, checkpoint, task, invocation,
attempt.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

_CAP_BYTES: Final = 16
_SEPARATOR: Final = "\x1f"


def capability(
    key: bytes,
    *,
    tenant: str,
    thread: str,
    checkpoint_ns: str,
    checkpoint_id: str,
    task_id: str,
    invocation: str,
    attempt: int,
) -> str:
    """The 32 hexadecimal digits at the end of an attempt's slot subject."""
    return _digest(
        key, tenant, thread, checkpoint_ns, checkpoint_id, task_id, invocation, str(attempt)
    )


def idempotency_key(key: bytes, *, tenant: str, thread: str, task_id: str) -> str:
    """A key for calls to the outside: equal over the attempts and invocations of a task."""
    return _digest(key, "idempotency", tenant, thread, task_id)


def _digest(key: bytes, *parts: str) -> str:
    return blake2b(
        _SEPARATOR.join(parts).encode("utf-8", "surrogatepass"), key=key, digest_size=_CAP_BYTES
    ).hexdigest()
