"""Requests of clients to the coordinator, one subject per verb, JSON both ways.

A request is one object of the verb's request struct, strictly decoded; an empty body stands for
``{}``. The answer is one object of its reply struct, or an :class:`RpcError`. Requests are not
durable: who hears nothing asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from langmesh.wire.messages import ErrorInfo, Fault, Submission, Value

SERVICE: Final = "langmesh-coordinator"
VERSION: Final = "1.0.0"
"""Of the contract, as NATS micro wants it."""
PARENT_HEADER: Final = "Langmesh-Parent-Run"
"""Header of ``run.start``: the run whose node waits for the new one."""
WAIT_S_MAX: Final = 60.0
CALL_S_MAX: Final = 5.0
"""After so long a ``task.call`` is answered with ``pending``."""
HISTORY_MAX: Final = 100
TTL_S_MIN: Final = 5
TTL_S_MAX: Final = 300

RunStatus = Literal["queued", "running", "interrupted", "success", "error", "cancelled"]


class StartRun(Submission, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Submit a run and wait until it is accepted: a graph, and the fields of a `Submission`.

    The submission itself is durable once it is in stream SUBMIT, as if the client had published it.
    """

    graph: str
    """Name of the graph to run."""


class GetRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how a run stands."""

    run_id: str
    """Id of the run; of several runs of that id on different threads, the last one is meant."""


class WaitRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until a run is over or asks a human.

    The NATS request needs a longer time limit than ``timeout_s``.
    """

    run_id: str
    """Id of the run."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=WAIT_S_MAX)] = 30.0
    """Seconds to wait at most, up to 60; to wait longer, ask again."""


class CancelRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a run that is queued, running or interrupted, with status ``cancelled``.

    The answer comes when ``run.ended.v1`` is stored; whoever hears none asks again. The wish is in
    the thread's log before the run ends, so that a coordinator that takes over ends it as well.
    """

    run_id: str
    """Id of the run."""


class ResumeRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer the interrupt of the run that a thread waits with; it goes on as the same run.

    For other fields of a submission use ``run.start`` with ``command``.
    """

    graph: str
    """Name of the graph."""
    thread_id: str
    """The thread that waits."""
    resume: Any
    """The answer, or an object of answers by interrupt id; not null."""


class RetryRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Go on where a run failed or was cancelled, as a new run on its thread.

    As LangGraph's ``invoke(None, config)``: tasks of the last superstep that have succeeded are not
    executed again, the others are. The run must be the last one on its thread.
    """

    run_id: str
    """Id of the run that ended."""


class CallTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node under way calls a ``@task`` function; its agent asks until the answer is there.

    A call of the same place in the same task is the same call, whoever asks for it how often.
    """

    thread_id: str
    """The task's thread."""
    run_id: str
    """Its run."""
    cap: str
    """Its capability."""
    index: int
    """The how manieth call of the task it is, from 0."""
    function: str
    """Where agents find it, ``module:name``."""
    name: str
    """What LangGraph calls it."""
    input: Value
    """Its arguments, as ``[args, kwargs]``."""


class CallResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a call so far."""

    status: Literal["pending", "ok", "error", "interrupt"]
    """``pending``: ask again."""
    value: Value | None = None
    """What it returned, or the interrupts with which it asks a human."""
    fault: Fault | None = None
    """What it raised."""


class GetState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the latest checkpoint of a thread."""

    graph: str
    """Name of the graph."""
    thread_id: str
    """Id of the thread."""


class GetHistory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the checkpoints of a thread, newest first."""

    graph: str
    """Name of the graph."""
    thread_id: str
    """Id of the thread."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=HISTORY_MAX)] = 10
    """How many checkpoints at most, up to 100."""
    before: str | None = None
    """A checkpoint id: only older ones are wanted."""


class UpdateThread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Write to the state of a thread as if a node had written; refused while a run is active."""

    graph: str
    """Name of the graph."""
    thread_id: str
    """Id of the thread."""
    values: Any
    """What the node would return: an object of state fields."""
    as_node: str | None = None
    """The node that seems to have written; what follows it runs next. The last one when absent."""


class DeleteThread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delete a thread: its checkpoints and its runs. Refused while a run is active or waits."""

    thread_id: str
    """Id of the thread."""
    graph: str | None = None
    """Only if it is a thread of this graph."""
    unchanged_since: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Only if its last entry has this sequence in stream LOG."""


class PruneThread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep the latest checkpoint of a thread, and delete those before. Refused likewise."""

    thread_id: str
    """Id of the thread."""
    graph: str | None = None
    """Only if it is a thread of this graph."""
    unchanged_since: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Only if its last entry has this sequence in stream LOG."""


class GetRoutes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for the route table of a graph."""

    graph: str
    """Name of the graph."""


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class AgentLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How busy an agent was since it last said so; every field may be left out."""

    cpu_usage: Share = 0.0
    """CPU time of its process as a share of what it may use, 0 to 1."""
    memory_usage: Share = 0.0
    """Memory of its process as a share of what it may use, 0 to 1."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Resident memory of its process."""
    request_rate: Amount = 0.0
    """Tasks begun per second."""
    in_flight: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Tasks in work now."""
    queue_wait_ms: Amount | None = None
    """Mean milliseconds that tasks had waited when they began; null if none did."""
    execute_ms: Amount | None = None
    """Mean milliseconds of execution; null if no task ended."""
    failures: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many attempts failed."""


class RegisterAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell that a program without etcd serves a node, and again before ``renew_before_s`` is over.

    Whoever asks again replaces what was said before. A program that does not ask again in time is
    gone from the registry.
    """

    graph: str
    """Name of the graph."""
    node: str
    """Name of the node."""
    instance: str
    """Name of this process, unlike that of any other, e.g. with some random digits."""
    release: str | None = None
    """Release that it serves; when absent, the one that the node is bound to now."""
    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    """Tasks that it works on at once."""
    capabilities: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=100)]],
        msgspec.Meta(max_length=32),
    ] = []
    """What it can do, for whoever looks for an agent."""
    input_schema: dict[str, Any] = {}
    """JSON Schema of the node's input, at most 32 KiB."""
    output_schema: dict[str, Any] = {}
    """JSON Schema of what the node returns, likewise."""
    versions: Annotated[dict[str, str], msgspec.Meta(max_length=32)] = {}
    """Versions of what it is built on, by name."""
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    """Name of its machine."""
    pid: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Its process id."""
    ttl_s: Annotated[int, msgspec.Meta(ge=TTL_S_MIN, le=TTL_S_MAX)] = 15
    """Seconds after which it counts as gone unless it asks again, 5 to 300."""
    load: AgentLoad | None = None
    """How busy it is; what it said before stands when absent."""


class UnregisterAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take back what ``agent.register`` told, at once."""

    graph: str
    """Name of the graph."""
    node: str
    """Name of the node."""
    instance: str
    """Name of the process."""


class RunReference(msgspec.Struct, frozen=True, kw_only=True):
    """The run that a submission became."""

    run_id: str
    """Id of the run."""
    thread_id: str
    """Id of its thread."""
    submit_seq: int
    """The submission's sequence in stream SUBMIT."""
    trace_id: str
    """Id of the run's trace."""


class RunView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run stands."""

    run_id: str
    """Id of the run."""
    thread_id: str
    """Id of its thread."""
    graph: str
    """Name of its graph."""
    status: RunStatus
    """``queued`` behind other runs of its thread; ``interrupted`` while it waits for a human."""
    output: Any = None
    """For ``success``: the graph's output, as in ``run.ended.v1``."""
    error: ErrorInfo | None = None
    """For ``error``: why it failed."""
    interrupts: list[Any] = []
    """For ``interrupted``: what the human is asked, with the ids of the interrupts."""
    timed_out: bool = False
    """For ``run.wait``: the time passed before the run was over or interrupted."""


class ThreadState(msgspec.Struct, frozen=True, kw_only=True):
    """A thread at one checkpoint."""

    thread_id: str
    """Id of the thread."""
    checkpoint_id: str
    """Id of the checkpoint."""
    created_at: str
    """When the checkpoint was made, RFC 3339."""
    superstep: int
    """Number of the superstep that made it; -1 for an input."""
    values: Any
    """The state, projected to JSON."""
    next: list[str]
    """Nodes that run when the thread goes on; none after the end."""
    interrupts: list[Any]
    """What a human is asked."""


class ThreadHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoints of a thread."""

    states: list[ThreadState]
    """Newest first."""


class ThreadUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """A thread's state was written to."""

    checkpoint_id: str
    """Id of the checkpoint that the update made."""


class NodeRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next task of a node goes."""

    subject: str
    """Subject of its tasks."""
    release: str
    """Release that it is bound to."""
    served: bool
    """Whether an agent of that release is registered."""


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """A graph's topology and the bindings of its nodes."""

    graph: str
    """Name of the graph."""
    revision: str
    """Hash of the topology that new runs are pinned to."""
    topology: dict[str, Any]
    """Nodes, successors, branches, joins and schemas, as `langmesh routes GRAPH --json` shows."""
    bindings: dict[str, NodeRoute]
    """For each node, where its next task goes."""


class AgentPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a registered agent finds its tasks, and when it must ask again."""

    instance: str
    """Name of the process, as it was given."""
    release: str
    """Release that it serves."""
    subject: str
    """Subject of its tasks."""
    stream: str
    """Stream that holds them."""
    consumer: str
    """Durable pull consumer to take them from; it exists."""
    encoding: Literal["msgpack", "json"]
    """How they are written: ``json`` means [`PlainTask`](#plaintask)."""
    bound: bool
    """Whether the node's tasks go to this release now; `langmesh bind` changes that."""
    ack_wait_s: float
    """Seconds after which a task without a sign of life goes to another agent."""
    ttl_s: int
    """Seconds for which the registration holds from now on."""
    renew_before_s: float
    """Ask again before so many seconds are over; two requests may then get lost."""


class AgentGone(msgspec.Struct, frozen=True, kw_only=True):
    """An agent is not registered any more."""

    removed: bool
    """Whether it was until now."""


class ThreadDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A thread is gone."""

    thread_id: str
    """Id of the thread."""


class ThreadPruned(msgspec.Struct, frozen=True, kw_only=True):
    """A thread has less history."""

    thread_id: str
    """Id of the thread."""
    kept: int
    """Checkpoints that are left: the latest one, and those that it is made of."""
    dropped: int
    """Checkpoints that were deleted."""


class RpcFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not answered."""

    code: str
    """A code of the [error catalogue](#errors)."""
    message: str
    """One sentence for people."""
    remedy: str
    """The way out, for people."""
    retryable: bool
    """Whether the same request may succeed later."""


class RpcError(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that failed: an object with no other field than ``error``."""

    error: RpcFault
    """What went wrong."""


@dataclass(frozen=True, slots=True)
class Verb:
    """What one verb takes, answers and means."""

    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    meaning: str


VERBS: Final[dict[str, Verb]] = {
    "run.start": Verb(StartRun, RunReference, "Submits a run and waits until it is accepted."),
    "run.get": Verb(GetRun, RunView, "Tells how a run stands."),
    "run.wait": Verb(WaitRun, RunView, "Waits until a run is over or asks a human."),
    "run.cancel": Verb(CancelRun, RunView, "Ends a run, and tells how it ended."),
    "run.resume": Verb(ResumeRun, RunReference, "Answers a run's interrupt; the run goes on."),
    "run.retry": Verb(RetryRun, RunReference, "Goes on where a run failed, as a new run."),
    "task.call": Verb(CallTask, CallResult, "Calls a function of a node's task."),
    "thread.state": Verb(GetState, ThreadState, "Shows the latest checkpoint of a thread."),
    "thread.history": Verb(GetHistory, ThreadHistory, "Shows the checkpoints of a thread."),
    "thread.update": Verb(UpdateThread, ThreadUpdated, "Writes to a thread's state."),
    "thread.delete": Verb(DeleteThread, ThreadDeleted, "Deletes a thread."),
    "thread.prune": Verb(PruneThread, ThreadPruned, "Keeps a thread's latest checkpoint only."),
    "graph.routes": Verb(GetRoutes, Routes, "Shows a graph's topology and bindings."),
    "agent.register": Verb(RegisterAgent, AgentPlace, "Tells that a program serves a node."),
    "agent.unregister": Verb(UnregisterAgent, AgentGone, "Takes that back."),
}
