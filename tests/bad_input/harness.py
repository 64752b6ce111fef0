"""A mesh of real processes, and a client that publishes whatever it is given."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from langmesh.bus.tail import Tail
from langmesh.embedded.process import Child
from langmesh.testing import LocalMesh, local_mesh
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    AnyEvent,
    DeadLetter,
    ErrorInfo,
    RunAccepted,
    RunEnded,
    RunInterrupted,
    RunRejected,
)
from langmesh.wire.streams import DEAD, EVENT
from tests import registered

PROBE = "tests.bad_input.probe:graph"
STRICT = "tests.bad_input.strict:graph"
WITHIN_S = 60.0


@dataclass(slots=True)
class Answer:
    """What the mesh said to one submission: a refusal, or the end of its run."""

    code: str
    """Of the catalogue; empty for success."""
    said: str
    events: list[AnyEvent] = field(default_factory=list)
    error: ErrorInfo | None = None

    @property
    def end(self) -> RunEnded | RunInterrupted:
        last = self.events[-1]
        assert isinstance(last, RunEnded | RunInterrupted)
        return last


@dataclass(slots=True)
class Probe:
    """A running mesh with a coordinator and agents; each is a process."""

    mesh: LocalMesh
    processes: dict[str, Child]
    _answers: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)
    _runs: dict[str, tuple[int, list[AnyEvent]]] = field(default_factory=dict)
    _dead: asyncio.Queue[DeadLetter] = field(default_factory=asyncio.Queue)

    async def submit(
        self, body: bytes, *, tenant: str = "default", graph: str = "probe", subject: str = ""
    ) -> Answer:
        """Publish a body as a submission and wait for what comes of it."""
        seq = await self.mesh.bus.append(subject or subjects.submit(tenant, graph), body)
        async with asyncio.timeout(WITHIN_S):
            return await self._answer(seq)

    async def run(self, input: Any, *, graph: str = "probe", **fields: Any) -> Answer:  # noqa: A002
        """Submit a well-formed body."""
        return await self.submit(json.dumps({"input": input, **fields}).encode(), graph=graph)

    async def dead_letter(self, body: bytes) -> DeadLetter:
        """Wait for the letter that keeps a body."""
        async with asyncio.timeout(WITHIN_S):
            while (letter := await self._dead.get()).body != body:
                pass
            return letter

    def mark(self, process: str) -> int:
        """Where the log of a process ends now."""
        return len(self.processes[process].output())

    async def logged(self, process: str, *words: str, since: int) -> str:
        """Wait for a log line of a process behind a mark that has all the words."""
        log = self.processes[process]

        def lines() -> list[str]:
            found = log.output()[since:].splitlines()
            return [line for line in found if all(word in line for word in words)]

        await until(lambda: bool(lines()))
        return str(json.loads(lines()[-1])["message"])

    async def services(self) -> set[tuple[str, str, int]]:
        """Name, instance and process of every registered service."""
        found = await registered.services(self.mesh.etcd)
        return {(r.service, r.instance, r.pid) for r in found if r.state == "ready"}

    def _answer(self, seq: int) -> asyncio.Future[Answer]:
        if seq not in self._answers:
            self._answers[seq] = asyncio.get_running_loop().create_future()
        return self._answers[seq]

    def on_event(self, subject: str, body: bytes, _seq: int) -> None:
        """Sort an event to its submission."""
        if subject.startswith(f"{subjects.ROOT}.reject."):
            refusal = codec.decode_json(RunRejected, body)
            said = f"{refusal.message} {refusal.remedy}"
            self._answer(refusal.submit_seq).set_result(Answer(refusal.code, said))
            return
        event = codec.decode_event(body)
        assert not isinstance(event, codec.UnknownEvent)
        if isinstance(event, RunAccepted):
            self._runs[event.run_id] = (event.submit_seq, [])
        seq, events = self._runs[event.run_id]
        events.append(event)
        if isinstance(event, RunEnded | RunInterrupted):
            error = event.error if isinstance(event, RunEnded) else None
            code, said = (error.code, f"{error.message} {error.remedy}") if error else ("", "")
            self._answer(seq).set_result(Answer(code, said, events, error))

    def on_dead(self, _subject: str, body: bytes, _seq: int) -> None:
        """Keep a dead letter for `dead_letter`."""
        self._dead.put_nowait(codec.decode_json(DeadLetter, body))


Do = Callable[[Probe], Coroutine[Any, Any, Answer]]


async def until(condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait until a condition holds that nothing announces, such as a line in a file."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def probing() -> AsyncIterator[Probe]:
    """Start the mesh; entered when every service is registered."""
    async with local_mesh() as mesh:
        processes = {
            "coordinator": mesh.spawn("coordinator", "langmesh.coordinator", PROBE, STRICT),
            "do": mesh.spawn("do", "langmesh.agent", PROBE, "do", "twin"),
            "price": mesh.spawn("price", "langmesh.agent", STRICT, "price"),
        }
        probe = Probe(mesh, processes)
        events = (subjects.EVENT_ALL, subjects.REJECT_ALL)
        async with (
            Tail(mesh.bus, EVENT.name, events, probe.on_event).run(),
            Tail(mesh.bus, DEAD.name, (subjects.DEAD_ALL,), probe.on_dead).run(),
        ):
            async with asyncio.timeout(60):
                while len(await probe.services()) < len(processes):
                    for child in processes.values():
                        assert child.returncode is None, child.output()
                    await asyncio.sleep(0.1)
            yield probe
