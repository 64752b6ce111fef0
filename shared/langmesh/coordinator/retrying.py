"""Go on where a run failed: what its successor on the thread is to be given. Pure."""

from __future__ import annotations

from typing import Any, Final

from langmesh.coordinator.journal import LastRun
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec

_KEPT: Final = ("config", "context", "stream_mode", "durability")


def successor(run_id: str, thread_id: str, last: LastRun | None) -> dict[str, Any]:
    """The submission that goes on where a run stopped.

    Args:
        run_id: The run.
        thread_id: Its thread.
        last: How the last run of that thread stands; None if the log knows none.

    Returns:
        The fields of ``run.start``. Input and command are absent if the loop had begun, so that it
        goes on from its last checkpoint; else they are those of the run.

    Raises:
        MeshError: BUSY while it is under way; INVALID_FIELD if there is nothing to go on with.
    """
    shown = repr(run_id[:100])
    if last is None or last.started.run_id != run_id:
        there = "no run" if last is None else f"run {last.started.run_id!r}"
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"run_id: {shown} is not the last run on thread {thread_id[:100]!r}: that is {there}",
            remedy="Submit a run on the thread; or retry its last one.",
        )
    if last.phase == "running":
        raise MeshError(ErrorCode.BUSY, f"run_id: {shown} is under way")
    if last.phase == "asking":
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"run_id: {shown} waits for a human",
            remedy="Answer it with `langmesh runs resume`, or cancel it.",
        )
    if last.status == "success":
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"run_id: {shown} succeeded, so there is nothing to go on with",
            remedy="Submit a new run.",
        )
    submission = codec.decode_submission(last.started.submission)
    fields = {name: getattr(submission, name) for name in _KEPT}
    if last.begun is last.started and last.step is None:
        fields |= {"input": submission.input, "command": submission.command}
    given = {name: value for name, value in fields.items() if value is not None}
    return {"graph": last.started.graph, "thread_id": thread_id, **given}
