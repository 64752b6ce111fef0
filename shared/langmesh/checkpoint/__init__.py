"""Durable checkpoints for LangGraph on NATS JetStream; ``NatsSaver`` is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langmesh.checkpoint.saver import NatsSaver

__all__ = ["NatsSaver"]


def __getattr__(name: str) -> object:
    """Import the saver when it is asked for: who needs but ``strict`` does not pay for NATS."""
    if name != "NatsSaver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langmesh.checkpoint.saver import NatsSaver

    return NatsSaver
