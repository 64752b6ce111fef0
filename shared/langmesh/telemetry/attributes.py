"""Every attribute that langmesh puts on spans, once, and the four spans of a run.

Names follow OpenTelemetry's conventions for messaging and for generative AI; what they lack is
``langmesh.*``. The builders are pure: each returns a span's name, kind and attributes.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from langmesh.wire.messages import TaskContext
from langmesh.wire.subjects import ROOT

Kind = Literal["internal", "producer", "consumer", "client", "server"]
Attribute = str | int | float | bool

SERVICE_NAME: Final = "service.name"
SERVICE_INSTANCE: Final = "service.instance.id"
SERVICE_VERSION: Final = "service.version"
PROCESS_PID: Final = "process.pid"

ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_TEMPLATE: Final = "messaging.destination.template"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_BODY_BYTES: Final = "messaging.message.body.size"
MESSAGING_CONSUMER: Final = "messaging.consumer.group.name"

GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_AGENT_VERSION: Final = "gen_ai.agent.version"
GEN_AI_CONVERSATION: Final = "gen_ai.conversation.id"
GEN_AI_WORKFLOW: Final = "gen_ai.workflow.name"
GEN_AI_INPUT: Final = "gen_ai.input.messages"
GEN_AI_OUTPUT: Final = "gen_ai.output.messages"

RUN: Final = "langmesh.run.id"
THREAD: Final = "langmesh.thread.id"
TENANT: Final = "langmesh.tenant"
GRAPH: Final = "langmesh.graph"
NODE: Final = "langmesh.node"
REVISION: Final = "langmesh.revision"
SUPERSTEP: Final = "langmesh.superstep"
TASK: Final = "langmesh.task.id"
ATTEMPT: Final = "langmesh.attempt"
DELIVERY: Final = "langmesh.delivery"
RELEASE: Final = "langmesh.release"
CONFIG_REVISION: Final = "langmesh.config.revision"
OUTCOME: Final = "langmesh.outcome"
QUEUE_US: Final = "langmesh.queue_us"


class SpanStart(NamedTuple):
    """What ``Tracer.start`` takes, apart from the parent and the links."""

    name: str
    kind: Kind
    attributes: dict[str, Attribute]


def invoke_workflow(*, tenant: str, graph: str, revision: str, thread: str, run: str) -> SpanStart:
    """The span of a whole run, from its start to its end, in the coordinator."""
    return SpanStart(
        f"invoke_workflow {graph}",
        "internal",
        {
            GEN_AI_OPERATION: "invoke_workflow",
            GEN_AI_WORKFLOW: graph,
            GEN_AI_CONVERSATION: thread,
            RUN: run,
            THREAD: thread,
            TENANT: tenant,
            GRAPH: graph,
            REVISION: revision,
        },
    )


def send(
    context: TaskContext, *, subject: str, message_id: str, task_id: str, attempt: int
) -> SpanStart:
    """The span of handing one attempt to the broker, in the coordinator."""
    destination = _destination(context)
    attributes = _task(context, task_id, attempt)
    attributes[MESSAGING_SYSTEM] = "nats"
    attributes[MESSAGING_OPERATION_NAME] = "publish"
    attributes[MESSAGING_OPERATION_TYPE] = "send"
    attributes[MESSAGING_DESTINATION] = subject
    attributes[MESSAGING_TEMPLATE] = destination
    attributes[MESSAGING_MESSAGE_ID] = message_id
    return SpanStart(f"send {destination}", "producer", attributes)


def process(
    context: TaskContext,
    *,
    subject: str,
    message_id: str,
    task_id: str,
    attempt: int,
    delivery: int = 1,
    config_revision: int = 0,
) -> SpanStart:
    """The span of one delivery of one attempt at an agent; its parent is the `send` span.

    ``delivery`` counts from 1; ``config_revision`` is etcd's, 0 when nothing is configured.
    """
    destination = _destination(context)
    attributes = _task(context, task_id, attempt)
    attributes[MESSAGING_SYSTEM] = "nats"
    attributes[MESSAGING_OPERATION_NAME] = "process"
    attributes[MESSAGING_OPERATION_TYPE] = "process"
    attributes[MESSAGING_DESTINATION] = subject
    attributes[MESSAGING_TEMPLATE] = destination
    attributes[MESSAGING_MESSAGE_ID] = message_id
    attributes[DELIVERY] = delivery
    attributes[CONFIG_REVISION] = config_revision
    return SpanStart(f"process {destination}", "consumer", attributes)


def invoke_agent(
    context: TaskContext, *, task_id: str, attempt: int, config_revision: int = 0
) -> SpanStart:
    """The span in which a node's own code runs; its parent is the `process` span."""
    attributes = _task(context, task_id, attempt)
    attributes[CONFIG_REVISION] = config_revision
    attributes[GEN_AI_OPERATION] = "invoke_agent"
    attributes[GEN_AI_AGENT_NAME] = context.node
    attributes[GEN_AI_AGENT_VERSION] = context.release
    attributes[GEN_AI_CONVERSATION] = context.thread
    attributes[GEN_AI_WORKFLOW] = context.graph
    return SpanStart(f"invoke_agent {context.node}", "internal", attributes)


def _destination(context: TaskContext) -> str:
    # Tenant and release are left out: span names must stay few, or a viewer cannot group them.
    return f"{ROOT}.exec.{context.graph}.{context.node}"


def _task(context: TaskContext, task_id: str, attempt: int) -> dict[str, Attribute]:
    return {
        RUN: context.run,
        THREAD: context.thread,
        TENANT: context.tenant,
        GRAPH: context.graph,
        NODE: context.node,
        RELEASE: context.release,
        REVISION: context.revision,
        SUPERSTEP: context.superstep,
        TASK: task_id,
        ATTEMPT: attempt,
    }
