"""The error catalogue: every failure that a user or an operator can meet, once.

A :class:`MeshError` carries a code from the catalogue, a sentence that names the field and the
value's problem, and the way out. The same three things cross the wire and reach the terminal, so
nothing above this module composes its own error text for a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable identifiers of failures; they appear in events, replies, logs and exit messages."""

    MALFORMED_BODY = "malformed_body"
    INVALID_FIELD = "invalid_field"
    INVALID_NAME = "invalid_name"
    INVALID_INPUT = "invalid_input"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNKNOWN_GRAPH = "unknown_graph"
    UNKNOWN_NODE = "unknown_node"
    UNKNOWN_RUN = "unknown_run"
    UNKNOWN_THREAD = "unknown_thread"
    DUPLICATE_RUN = "duplicate_run"
    UNKNOWN_VERB = "unknown_verb"
    INSTANCE_TAKEN = "instance_taken"
    GRAPH_IMPORT_FAILED = "graph_import_failed"
    GRAPH_NOT_SUPPORTED = "graph_not_supported"
    GRAPH_CHANGED = "graph_changed"
    LANGGRAPH_INCOMPATIBLE = "langgraph_incompatible"
    VALUE_NOT_SERIALIZABLE = "value_not_serializable"
    NODE_RAISED = "node_raised"
    NODE_TIMED_OUT = "node_timed_out"
    NODE_POISONED = "node_poisoned"
    RECURSION_LIMIT = "recursion_limit"
    RUN_CANCELLED = "run_cancelled"
    BUSY = "busy"
    FENCED = "fenced"
    BROKEN_CHAIN = "broken_chain"
    CONFLICT = "conflict"
    INTERNAL = "internal"
    BROKER_UNAVAILABLE = "broker_unavailable"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    REGISTRY_REJECTED = "registry_rejected"
    STREAM_MISMATCH = "stream_mismatch"
    INVALID_SETTING = "invalid_setting"
    SERVER_START_FAILED = "server_start_failed"
    PORT_IN_USE = "port_in_use"
    NOT_RUNNING = "not_running"
    ALREADY_RUNNING = "already_running"
    SERVICE_FAILED = "service_failed"
    TIMED_OUT = "timed_out"
    CORPUS_MISSING = "corpus_missing"
    UNKNOWN_TRACE = "unknown_trace"
    DEPENDENCY_MISSING = "dependency_missing"
    INVALID_PROJECT = "invalid_project"

    @classmethod
    def received(cls, text: str) -> ErrorCode:
        """The code that came over the wire; a later version may know more of them."""
        try:
            return cls(text)
        except ValueError:
            return cls.INTERNAL


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What a code means, whether the same request may succeed later, and the usual way out."""

    meaning: str
    retryable: bool
    remedy: str


CATALOGUE: dict[ErrorCode, ErrorSpec] = {
    ErrorCode.MALFORMED_BODY: ErrorSpec(
        "The body is not valid JSON or msgpack, or nests too deeply.",
        False,
        "Send one JSON object as docs/protocol.md shows.",
    ),
    ErrorCode.INVALID_FIELD: ErrorSpec(
        "A field is missing, unknown or of the wrong type.",
        False,
        "Compare the body with the message's table in docs/protocol.md.",
    ),
    ErrorCode.INVALID_NAME: ErrorSpec(
        "A name cannot become a subject token.",
        False,
        "Use a shorter name: at most 63 letters, digits, '-' and '_', or 100 bytes of other text.",
    ),
    ErrorCode.INVALID_INPUT: ErrorSpec(
        "The run's input does not fit the graph's input schema.",
        False,
        "Compare the input with the graph's input schema (`langmesh routes GRAPH --json`).",
    ),
    ErrorCode.PAYLOAD_TOO_LARGE: ErrorSpec(
        "The message is larger than the limit.",
        False,
        "Put the data where the nodes can fetch it and send a reference.",
    ),
    ErrorCode.UNKNOWN_GRAPH: ErrorSpec(
        "No graph of that name is published for the tenant.",
        True,
        "Publish it with `langmesh up MODULE:ATTRIBUTE`, or correct the name.",
    ),
    ErrorCode.UNKNOWN_NODE: ErrorSpec(
        "The graph has no node of that name.",
        False,
        "List the nodes with `langmesh routes GRAPH`.",
    ),
    ErrorCode.UNKNOWN_RUN: ErrorSpec(
        "No run of that id is known.",
        False,
        "Check the id; runs are kept as long as the EVENT stream keeps their events.",
    ),
    ErrorCode.UNKNOWN_THREAD: ErrorSpec(
        "No thread of that id is known to the graph, or it does not wait for an answer.",
        False,
        "Check the id and the graph; the state of threads is lost with their coordinator.",
    ),
    ErrorCode.DUPLICATE_RUN: ErrorSpec(
        "Another submission used the run id before.",
        False,
        "Leave run_id out, or choose one that was never used on the thread.",
    ),
    ErrorCode.UNKNOWN_VERB: ErrorSpec(
        "The rpc verb does not exist.", False, "Use a verb from docs/protocol.md."
    ),
    ErrorCode.INSTANCE_TAKEN: ErrorSpec(
        "The instance is registered by a process that keeps its own lease in etcd.",
        False,
        "Register under another instance; one that is made at random is free.",
    ),
    ErrorCode.GRAPH_IMPORT_FAILED: ErrorSpec(
        "The graph's module cannot be imported or holds no graph under that attribute.",
        False,
        "Check MODULE:ATTRIBUTE; graph modules must import without the nodes' own dependencies.",
    ),
    ErrorCode.GRAPH_NOT_SUPPORTED: ErrorSpec(
        "The graph uses something that cannot cross the mesh.",
        False,
        "The message names the construct and the node.",
    ),
    ErrorCode.GRAPH_CHANGED: ErrorSpec(
        "The imported graph differs from the pinned topology.",
        False,
        "Publish the graph again so that the new revision is pinned.",
    ),
    ErrorCode.LANGGRAPH_INCOMPATIBLE: ErrorSpec(
        "The installed LangGraph does not have the internals that langmesh was checked against.",
        False,
        "Install the pinned version from requirements.lock.",
    ),
    ErrorCode.VALUE_NOT_SERIALIZABLE: ErrorSpec(
        "A value cannot cross a process boundary.",
        False,
        "Keep plain data, LangChain messages, or types named in the graph's schemas in the state.",
    ),
    ErrorCode.NODE_RAISED: ErrorSpec(
        "The node's code raised an exception.", False, "Read the traceback in the event."
    ),
    ErrorCode.NODE_TIMED_OUT: ErrorSpec(
        "The node ran longer than its timeout, counted from the start of execution.",
        False,
        "Raise the node's timeout or make the node faster.",
    ),
    ErrorCode.NODE_POISONED: ErrorSpec(
        "The task was delivered again and again and never finished: it kills its agent.",
        False,
        "Look at the agent's log; the task is kept in the DEAD stream.",
    ),
    ErrorCode.RECURSION_LIMIT: ErrorSpec(
        "The run took more supersteps than its recursion limit.",
        False,
        "Fix the loop or raise config.recursion_limit in the submission.",
    ),
    ErrorCode.RUN_CANCELLED: ErrorSpec("The run was cancelled.", False, "Submit it again."),
    ErrorCode.BUSY: ErrorSpec(
        "The coordinator or the thread has as much to do as it takes at once, or it stops.",
        True,
        "Ask again in a moment.",
    ),
    ErrorCode.FENCED: ErrorSpec(
        "Another process wrote to the thread, which this one took for its own.",
        True,
        "Drop what memory holds of the thread and load it again.",
    ),
    ErrorCode.BROKEN_CHAIN: ErrorSpec(
        "A thread's chain in stream LOG is damaged: an entry is missing, changed or out of place.",
        False,
        "Restore the stream from a backup, or delete the thread; nothing goes on from damage.",
    ),
    ErrorCode.CONFLICT: ErrorSpec(
        "The item has another revision than the one that the write was to replace.",
        True,
        "Read it again and decide anew.",
    ),
    ErrorCode.INTERNAL: ErrorSpec(
        "langmesh itself failed.", True, "Report it with the run id and the coordinator's log."
    ),
    ErrorCode.BROKER_UNAVAILABLE: ErrorSpec(
        "nats-server does not answer.",
        True,
        "Check NATS_URL and that the server runs with JetStream.",
    ),
    ErrorCode.REGISTRY_UNAVAILABLE: ErrorSpec(
        "etcd does not answer; the outcome of a write is unknown.",
        True,
        "Check ETCD_ENDPOINTS and that etcd runs.",
    ),
    ErrorCode.REGISTRY_REJECTED: ErrorSpec(
        "etcd refused the request.", False, "The message holds etcd's reason."
    ),
    ErrorCode.STREAM_MISMATCH: ErrorSpec(
        "A JetStream stream exists with other settings than the protocol's.",
        False,
        "Delete or migrate the stream; the message names the differing setting.",
    ),
    ErrorCode.INVALID_SETTING: ErrorSpec(
        "An environment variable or option has a wrong value.",
        False,
        "The message names the setting and what it takes.",
    ),
    ErrorCode.SERVER_START_FAILED: ErrorSpec(
        "An embedded server did not become ready.", True, "Read the server's log in .mesh/logs."
    ),
    ErrorCode.PORT_IN_USE: ErrorSpec(
        "Another process listens on the port.", True, "Choose another port, or 0 for a free one."
    ),
    ErrorCode.NOT_RUNNING: ErrorSpec(
        "No mesh runs here.", True, "Start one with `langmesh up`, or set NATS_URL."
    ),
    ErrorCode.ALREADY_RUNNING: ErrorSpec(
        "A mesh runs here already.", False, "Stop it with `langmesh down`."
    ),
    ErrorCode.SERVICE_FAILED: ErrorSpec(
        "A service process ended by itself.", True, "Read its log in .mesh/logs."
    ),
    ErrorCode.TIMED_OUT: ErrorSpec(
        "The answer did not come in time.", True, "Look at `langmesh status` and try again."
    ),
    ErrorCode.CORPUS_MISSING: ErrorSpec(
        "The folder for retrieval does not exist or holds no text.",
        False,
        "Name a folder with .txt, .md, .rst or .py files.",
    ),
    ErrorCode.UNKNOWN_TRACE: ErrorSpec(
        "No spans of that run are kept here.",
        True,
        "Look in the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.",
    ),
    ErrorCode.DEPENDENCY_MISSING: ErrorSpec(
        "A program or package that the command needs is not installed.",
        False,
        "Install what the message names.",
    ),
    ErrorCode.INVALID_PROJECT: ErrorSpec(
        "A project's folder or one of its files is not what the command needs.",
        False,
        "The message names the file and what is wrong in it.",
    ),
}


class MeshError(Exception):
    """A failure from the catalogue.

    Args:
        code: The catalogue entry.
        message: One sentence that names the field or thing and what is wrong with it.
        remedy: The way out; the catalogue's own remedy when omitted.
    """

    def __init__(self, code: ErrorCode, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy if remedy is not None else CATALOGUE[code].remedy

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return CATALOGUE[self.code].retryable

    def __str__(self) -> str:
        return f"{self.message} ({self.code}). {self.remedy}"
