"""What the simulated streams show while it happens: no order of effects may be broken (R2, R4, R5).

Beside that, how each run stands, for whoever plays the client.
"""

from __future__ import annotations

from langmesh.wire import codec
from langmesh.wire.log import Begun, CheckpointRecord, decode_entry
from langmesh.wire.messages import AnyEvent, ExecuteTask, RunAccepted, RunEnded, RunInterrupted
from tests.simulation.broker import Broker
from tests.simulation.stream import Message, Stream


class Watch:
    """Looks at every message that is stored, and at every acknowledgement.

    Args:
        broker: The server.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.violations: list[str] = []
        self.runs: dict[int, str] = {}
        """Run by the sequence of its submission."""
        self.last: dict[str, AnyEvent | codec.UnknownEvent] = {}
        """The last event of each run."""
        self.questions: dict[str, int] = {}
        """How often each run has asked."""
        self._checkpoints: set[tuple[str, str]] = set()
        self._begun: set[int] = set()
        broker.on_stored.append(self._on_stored)
        broker.on_acked.append(self._on_acked)

    def _on_stored(self, stream: Stream, message: Message) -> None:
        match stream.name:
            case "LOG":
                self._on_entry(message.body)
            case "EXEC":
                self._on_task(message.body)
            case "EVENT":
                self._on_event(message.body)

    def _on_entry(self, body: bytes) -> None:
        entry, records = decode_entry(body)
        for record in records:
            if isinstance(record, CheckpointRecord):
                self._checkpoints.add((entry.thread, record.checkpoint_id))
            elif isinstance(record, Begun):
                self._begun.add(record.submit_seq)

    def _on_task(self, body: bytes) -> None:
        context = codec.decode(ExecuteTask, body).context
        if (context.thread, context.checkpoint_id) not in self._checkpoints:
            self.violations.append(f"R2: {context.node} of {context.thread} went out uncommitted")

    def _on_event(self, body: bytes) -> None:
        event = codec.decode_event(body)
        if isinstance(event, RunAccepted):
            self.runs[event.submit_seq] = event.run_id
        if isinstance(event, RunInterrupted):
            self.questions[event.run_id] = self.questions.get(event.run_id, 0) + 1
        before = self.last.get(event.run_id)
        if isinstance(before, RunEnded):
            self.violations.append(f"I11: {event.run_id} goes on after its end")
        self.last[event.run_id] = event

    def _on_acked(self, stream: Stream, message: Message) -> None:
        if stream.name == "EXEC":
            payload = codec.decode(ExecuteTask, message.body).payload
            if payload.slot not in self._broker.streams["SLOT"].by_subject:
                self.violations.append(f"R4: {payload.task_id} was acknowledged without an outcome")
        elif stream.name == "SUBMIT" and message.seq not in self._begun:
            self.violations.append(f"submission {message.seq} was let go of before it began")
