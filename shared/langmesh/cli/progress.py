"""One line per event of a run, for people."""

from __future__ import annotations

from langmesh.cli.terminal import fit, say, styled
from langmesh.wire.codec import UnknownEvent, encode_json
from langmesh.wire.messages import (
    AnyEvent,
    ErrorInfo,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    RunRejected,
    RunStarted,
    StreamPart,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
)

_LINE_MAX = 2000
_MARKS = {"ok": ("✓", "green"), "interrupt": ("?", "yellow")}


def show(event: AnyEvent, *, streams: bool) -> None:
    """Print an event while its run goes on; the items of the stream only if ``streams``."""
    match event:
        case RunStarted():
            return
        case StreamPart():
            if streams:
                say(f"  {told(event)}")
        case RunAccepted():
            say(f"run {styled(event.run_id, 'bold')} on thread {event.thread_id}")
        case RunInterrupted():
            say(told(event))
        case RunEnded():
            say(told(event))
            if event.error is not None:
                show_error(event.error)
        case _:
            say(fit(f"  {told(event)}"))


def show_error(error: ErrorInfo) -> None:
    """Print why a run failed, and the way out."""
    say(styled(_failure(error), "red"))
    if error.remedy:
        say(f"  {error.remedy}")


def told(event: AnyEvent | RunRejected | UnknownEvent) -> str:
    """What an event tells."""
    match event:
        case TaskStarted() | TaskWaiting() | TaskRestarted() | TaskEnded():
            return _of_task(event)
        case StreamPart():
            text = f"{styled(event.mode, 'cyan')} {encode_json(event.data).decode()[:_LINE_MAX]}"
        case UnknownEvent():
            text = event.type
        case _:
            text = _of_run(event)
    return text


def _of_run(event: RunAccepted | RunStarted | RunInterrupted | RunEnded | RunRejected) -> str:
    match event:
        case RunAccepted():
            return f"accepted on thread {event.thread_id}"
        case RunStarted():
            how = " anew" * event.restarted + " again after an answer" * event.resumed
            return f"started{how} by {event.coordinator}"
        case RunInterrupted():
            values = [i.get("value") if isinstance(i, dict) else i for i in event.interrupts]
            asked = encode_json(values).decode()
            return styled(f"interrupted: {asked[:_LINE_MAX]}", "yellow")
        case RunEnded():
            colour = "green" if event.status == "success" else "red"
            counts = f"after {event.supersteps} supersteps, {event.tasks} tasks"
            return f"{styled(event.status, colour)} {counts}"
        case RunRejected():
            return styled(f"rejected: {event.message} ({event.code}) {event.remedy}", "red")


def _of_task(event: TaskStarted | TaskWaiting | TaskRestarted | TaskEnded) -> str:
    match event:
        case TaskStarted():
            return f"→ {event.node}  (superstep {event.superstep})"
        case TaskWaiting():
            return styled(f"… {event.node} waits: {event.reason}", "yellow")
        case TaskRestarted():
            reason = event.error.message if event.error is not None else "failed"
            return styled(f"↻ {event.node}, attempt {event.attempt}: {reason}", "yellow")
        case TaskEnded():
            mark = _MARKS.get(event.status) or ("✗", "red")
            how = "" if event.status in {"ok", "error"} else f"  {event.status}"
            return f"{styled(*mark)} {event.node}{how}  {event.execute_ms:.0f} ms  {event.instance}"


def one_line(event: AnyEvent | RunRejected | UnknownEvent) -> str:
    """What an event tells, with the reason of a failure."""
    if isinstance(event, RunEnded) and event.error is not None:
        return f"{told(event)}: {styled(_failure(event.error), 'red')}"
    return told(event)


def _failure(error: ErrorInfo) -> str:
    where = f" in {error.node}" if error.node else ""
    return f"{error.type}{where}: {error.message}"
