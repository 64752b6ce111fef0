"""One line per event while a run goes on."""

from __future__ import annotations

from langmesh.cli.terminal import say, styled
from langmesh.wire.codec import encode_json
from langmesh.wire.messages import (
    AnyEvent,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    StreamPart,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
)

_LINE_MAX = 2000


def show(event: AnyEvent, *, streams: bool) -> None:
    """Print an event for people; the items of the stream only if ``streams``."""
    match event:
        case RunAccepted():
            say(f"run {styled(event.run_id, 'bold')} on thread {event.thread_id}")
        case TaskStarted():
            say(f"  → {event.node}  (superstep {event.superstep})")
        case TaskWaiting():
            say(styled(f"  … {event.node} waits: {event.reason}", "yellow"))
        case TaskRestarted():
            reason = event.error.message if event.error is not None else "failed"
            say(styled(f"  ↻ {event.node}, attempt {event.attempt}: {reason}", "yellow"))
        case TaskEnded():
            mark = styled("✓", "green") if event.status == "ok" else styled("✗", "red")
            say(f"  {mark} {event.node}  {event.execute_ms:.0f} ms  {event.instance}")
        case StreamPart() if streams:
            text = encode_json(event.data).decode()
            say(f"  {styled(event.mode, 'cyan')} {text[:_LINE_MAX]}")
        case RunInterrupted():
            say(
                styled(
                    f"interrupted: {encode_json(event.interrupts).decode()[:_LINE_MAX]}", "yellow"
                )
            )
        case RunEnded():
            _show_end(event)
        case _:
            pass


def _show_end(event: RunEnded) -> None:
    colour = "green" if event.status == "success" else "red"
    say(f"{styled(event.status, colour)} after {event.supersteps} supersteps, {event.tasks} tasks")
    if event.error is not None:
        where = f" in {event.error.node}" if event.error.node else ""
        say(styled(f"{event.error.type}{where}: {event.error.message}", "red"))
        if event.error.remedy:
            say(f"  {event.error.remedy}")
