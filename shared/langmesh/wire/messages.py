"""The messages, one struct each; docs/protocol.md is generated from this module.

Internal messages have three parts: a *header* (who, to whom, when, which trace), a *payload* (what
to do or what happened) and a *context* (tenant, thread, run, superstep, checkpoint: what keeps a
conversation over many turns). Client messages are flat JSON objects. A field that is added later
has a default; a field never changes its type.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A LangGraph value as its serializer wrote it: ``[kind, data]``.

    ``kind`` is ``null``, ``bytes``, ``bytearray``, ``msgpack`` (LangGraph's JsonPlusSerializer,
    strict), ``json`` (plain JSON text, for agents in other languages) or ``blob`` (``data`` is the
    name of an object in the object store ``langmesh-blobs`` that holds the encoded value; in stream
    LOG in ``langmesh-values``, and there a kind may name a cipher behind a ``+``).
    """

    kind: str
    data: bytes = b""


class Header(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Who sent a message to whom, when, and in which trace."""

    id: str
    """Unique per message."""
    type: str
    """The message's type and version, e.g. ``task.execute.v1``."""
    sender: str
    """Instance that sent it."""
    receiver: str
    """Node or instance that it is for."""
    sent_at_ms: int
    """Milliseconds since the Unix epoch on the sender's clock; never used for order."""
    traceparent: str = ""
    """W3C trace context of the sender's span; empty when the run is not traced."""


class TaskContext(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Where a task stands: equal in the request and in its outcome."""

    tenant: str
    graph: str
    revision: str
    """Hash of the pinned topology."""
    thread: str
    run: str
    node: str
    release: str
    superstep: int
    checkpoint_id: str
    checkpoint_ns: str
    """LangGraph's checkpoint namespace of this task."""
    invocation: str
    """Id of the run's last start or resumption; part of the capability."""


class ExecutePayload(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One attempt of one task, with everything that the node may read."""

    task_id: str
    path: list[Any]
    """LangGraph's task path; nested lists stand for tuples."""
    triggers: list[str]
    attempt: int
    """1 for the first."""
    cap: str
    """Capability: the last token of the slot, 32 digits that only coordinators can make."""
    slot: str
    """Subject to write the outcome to."""
    idempotency_key: str
    """Stable over attempts and resumptions of this task, for calls to the outside."""
    input: Value
    """The node's input before its schema is applied."""
    channels: dict[str, Value] = {}
    """Checkpoints of the state channels that the node's branches read."""
    stop: int
    """Superstep at which the recursion limit stops the run."""
    resume: Value | None = None
    """Answers to the task's earlier interrupts, a list."""
    null_resume: Value | None = None
    """An answer to the next interrupt of whichever task asks first."""
    config: Value | None = None
    """The caller's part of the RunnableConfig: configurable, tags, metadata, recursion_limit."""
    runtime_context: Value | None = None
    """The run's context (``context_schema``)."""
    previous: Value | None = None
    """The previous return value of a functional graph."""
    node_error: Value | None = None
    """For an error handler: the failed node's name and its fault."""
    function: str = ""
    """A ``@task`` function that the node called, ``module:name``; `input` is its arguments then."""
    first_attempt_at_ms: int = 0
    stream_modes: list[str] = []
    """Modes whose chunks the agent publishes: ``custom``, ``messages``."""


class ExecuteTask(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Ask one agent to run one node once.

    Coordinator → agent, in stream EXEC. Redelivered until acknowledged; an agent acknowledges only
    after the outcome is durable in ``payload.slot``.
    """

    TYPE: ClassVar[str] = "task.execute.v1"
    header: Header
    payload: ExecutePayload
    context: TaskContext


class PlainPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One attempt of one task, as an agent in another language gets it: plain JSON values."""

    task_id: str
    attempt: int
    """1 for the first."""
    cap: str
    """Capability: the last token of the slot, 32 digits that only coordinators can make."""
    slot: str
    """Subject to write the outcome to."""
    idempotency_key: str
    """Stable over attempts and resumptions of this task, for calls to the outside."""
    input: Any
    """The node's input, projected to JSON."""
    resume: list[Any] = []
    """Answers to the task's earlier questions, oldest first."""
    runtime_context: Any = None
    """The run's context (``context_schema``)."""
    first_attempt_at_ms: int = 0


class PlainTask(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Ask one agent in another language to run one node once.

    Coordinator → agent, in stream EXEC, where the node's binding has the encoding ``json``. Its
    type is ``task.execute.v1``, and all else is as there.
    """

    header: Header
    payload: PlainPayload
    context: TaskContext


class Fault(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The wire form of an exception."""

    code: str
    """A code of the error catalogue."""
    type: str
    """The exception's class, with its module unless built in."""
    message: str
    node: str = ""
    traceback: str = ""
    args: Value | None = None
    """The exception's arguments where they can cross."""


class Executor(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The process that executed a task."""

    instance: str
    pid: int
    host: str


OutcomeKind = Literal["ok", "interrupt", "error", "retry", "timeout", "poison", "rejected"]


class CallDone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A function that an attempt called, and that returned: ``[index, function, name]``."""

    index: int
    """The how manieth call of the task it was, from 0."""
    function: str
    """Where agents find it, ``module:name``."""
    name: str
    """What LangGraph calls it."""


class OutcomePayload(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """How one attempt ended."""

    kind: OutcomeKind
    """``ok``; ``interrupt``: a human is asked; ``error``; ``retry``: it failed, but a retry policy
    allows another attempt after ``delay_ms``; ``timeout``; ``poison``: delivered too often;
    ``rejected``: the agent could not decode the task."""
    task_id: str
    attempt: int
    writes: list[tuple[str, Value]] = []
    """Channel writes in the order in which the node and its branches made them."""
    update: dict[str, Any] | None = None
    """For agents in other languages, instead of ``writes``: what the node returns. The coordinator
    makes the channel writes of it, and calls the node's branches."""
    goto: list[str] = []
    """With ``update``: nodes to go to, as LangGraph's ``Command(goto=…)``."""
    interrupts: Value | None = None
    question: Any = None
    """With ``interrupt``, instead of ``interrupts``: what the human is asked."""
    fault: Fault | None = None
    delay_ms: int = 0
    null_resume_consumed: bool = False
    calls: list[CallDone] = []
    """Unless it is ``ok``: functions that it called and that returned, whose results are kept."""
    chunks: int = 0
    """How many chunks were published; they are numbered from 1 per attempt."""
    queue_us: int = 0
    """Time between sending and start, over two clocks."""
    execute_us: int = 0
    """Time from start to end of execution."""
    executor: Executor | None = None
    exec_seq: int = 0
    """For ``rejected``: the EXEC stream sequence of the message."""
    body: bytes = b""
    """For ``rejected``: the message as it was."""


class TaskOutcome(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Report the end of one attempt.

    Agent → owner of the partition, in stream SLOT, written once.
    """

    TYPE: ClassVar[str] = "task.outcome.v1"
    header: Header
    payload: OutcomePayload
    context: TaskContext | None = None
    """Equal to the request's; absent when the request could not be decoded."""


class CancelPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The attempts that nobody waits for any more."""

    run: str
    caps: list[str]


class CancelTasks(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Tell the agents of a node to stop attempts; a hint, sent without a stream."""

    TYPE: ClassVar[str] = "control.cancel.v1"
    header: Header
    payload: CancelPayload


class ResumeCommand(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True
):
    """The JSON form of LangGraph's ``Command`` as a submission's input."""

    resume: Any = None
    goto: str | list[str] | None = None
    update: dict[str, Any] | None = None


class RunConfig(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The part of LangGraph's RunnableConfig that a client may set."""

    configurable: dict[str, Any] = {}
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    recursion_limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None


StreamMode = Literal["values", "updates", "custom", "messages", "tasks", "checkpoints", "debug"]


class Submission(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Ask for a run of a graph.

    Anyone → any coordinator, in stream SUBMIT. Missing ids derive from the stream's sequence, so
    that a redelivery never makes a second run.
    """

    input: Any = None
    run_id: str | None = None
    thread_id: str | None = None
    config: RunConfig | None = None
    context: dict[str, Any] | None = None
    command: ResumeCommand | None = None
    stream_mode: StreamMode | list[StreamMode] | None = None
    """Which of LangGraph's stream modes to publish as ``stream.v1``; ``updates`` when absent."""
    durability: Literal["sync", "async", "exit"] | None = None
    multitask: Literal["enqueue"] | None = None
    """What to do while another run of the thread is active: wait for it."""


class ErrorInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Why a run failed."""

    type: str
    code: str
    message: str
    node: str = ""
    traceback: str = ""
    remedy: str = ""


class Event(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", omit_defaults=True
):
    """Base of a run's events: ``seq`` is contiguous from 1, ``time`` is RFC 3339 in UTC."""

    seq: int
    run_id: str
    thread_id: str
    time: str


class RunAccepted(Event, frozen=True, kw_only=True, tag="run.accepted.v1"):
    """The submission is valid and its run is queued."""

    graph: str
    submit_seq: int
    """The stream sequence that acknowledged the publish."""
    trace_id: str = ""


class RunStarted(Event, frozen=True, kw_only=True, tag="run.started.v1"):
    """The run's first superstep begins, or it goes on after an interrupt."""

    graph: str
    revision: str
    coordinator: str
    resumed: bool = False
    restarted: bool = False
    """The coordinator before died: every earlier event of this run but run.accepted.v1 is void."""


class TaskStarted(Event, frozen=True, kw_only=True, tag="task.started.v1"):
    """A task was sent to its node's agents."""

    task_id: str
    node: str
    superstep: int
    attempt: int = 1
    subject: str = ""
    caller: str = ""
    """Of a ``@task`` function: the task that called it."""


class TaskWaiting(Event, frozen=True, kw_only=True, tag="task.waiting.v1"):
    """A task waits because no agent serves its node; it goes on when one appears."""

    task_id: str
    node: str
    reason: str


class TaskRestarted(Event, frozen=True, kw_only=True, tag="task.restarted.v1"):
    """An attempt failed and another follows; the chunks of earlier attempts are void."""

    task_id: str
    node: str
    attempt: int
    """Number of the attempt that follows."""
    delay_ms: int
    error: ErrorInfo | None = None


class TaskEnded(Event, frozen=True, kw_only=True, tag="task.ended.v1"):
    """A task's last attempt ended."""

    task_id: str
    node: str
    superstep: int
    status: Literal["ok", "interrupt", "error", "timeout", "poison", "rejected", "cancelled"]
    attempt: int = 1
    chunks: int = 0
    instance: str = ""
    pid: int = 0
    queue_ms: float = 0.0
    execute_ms: float = 0.0
    caller: str = ""
    """As in `TaskStarted`."""


class StreamPart(Event, frozen=True, kw_only=True, tag="stream.v1"):
    """One item of LangGraph's stream, projected to JSON."""

    mode: str
    namespace: list[str]
    data: Any


class RunInterrupted(Event, frozen=True, kw_only=True, tag="run.interrupted.v1"):
    """The run waits for a human; submit ``command.resume`` on its thread to go on."""

    interrupts: list[Any]
    next: list[str] = []


class RunEnded(Event, frozen=True, kw_only=True, tag="run.ended.v1"):
    """The run is over; exactly one per run and always its last event."""

    status: Literal["success", "error", "cancelled"]
    output: Any = None
    error: ErrorInfo | None = None
    supersteps: int = 0
    tasks: int = 0
    trace_id: str = ""


class RunRejected(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="run.rejected.v1"
):
    """A submission was refused.

    Coordinator → clients, on the reject subject of the graph, in stream EVENT.
    """

    submit_seq: int
    code: str
    message: str
    remedy: str
    time: str
    run_id: str | None = None
    thread_id: str | None = None


class Chunk(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="chunk.v1"):
    """One piece of output while a node runs.

    Agent → clients, in stream CHUNK; ``n`` is contiguous from 1 per task and attempt.
    """

    run_id: str
    thread_id: str
    node: str
    task_id: str
    attempt: int
    n: int
    mode: str
    namespace: list[str]
    data: Any


class DeadLetter(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="dead.v1"
):
    """A message that nobody could use, kept for operators."""

    reason: str
    """A code of the error catalogue."""
    message: str
    subject: str
    stream_seq: int
    time: str
    body: bytes
    """The message as it was, base64 in JSON."""
    run_id: str = ""
    """The run that failed by it; empty if nobody knows it."""
    task_id: str = ""


EVENTS: tuple[type[Event], ...] = (
    RunAccepted,
    RunStarted,
    TaskStarted,
    TaskWaiting,
    TaskRestarted,
    TaskEnded,
    StreamPart,
    RunInterrupted,
    RunEnded,
)
AnyEvent = (
    RunAccepted
    | RunStarted
    | TaskStarted
    | TaskWaiting
    | TaskRestarted
    | TaskEnded
    | StreamPart
    | RunInterrupted
    | RunEnded
)
