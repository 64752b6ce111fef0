"""Whatever happens in whatever order: no run is lost, none applied twice, no gate skipped.

Hypothesis draws submissions, answers, starts, deaths at every point of the protocol, partitions
that move, owners that do not know that they were replaced, networks and servers that fail. Then all
is mended, and every run must end as LangGraph's own within a minute. ``EXAMPLES`` sets how many
worlds are drawn; without it they are few and always the same. ``SHRINK=1`` makes a failure small,
which takes a while.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from langmesh.wire.messages import RunEnded, RunInterrupted
from tests.durability.history import history_of, problems
from tests.simulation import graph
from tests.simulation.connection import Point
from tests.simulation.loop import VirtualLoop, virtual_time
from tests.simulation.oracle import trail
from tests.simulation.owners import ALL
from tests.simulation.watch import Watch
from tests.simulation.world import GRAPH, Node, World, submitted

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink] if os.environ.get("SHRINK") else [Phase.generate],
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
LEASE_S = 5.0
MENDED_WITHIN_S = 60.0
"""Of I10: how long a run may go without ending or asking when nothing fails any more."""

TRAILS = {rounds: trail(rounds) for rounds in (1, 2)}

TALLY: Counter[str] = Counter()
"""What has happened in all worlds."""

T = TypeVar("T")
Wanted = tuple[int, list[float], bool]
WANTED: st.SearchStrategy[Wanted] = st.tuples(
    st.integers(1, 2),
    st.lists(st.sampled_from([0.0, 0.003, 0.5, 6.0]), min_size=2, max_size=2),
    st.booleans(),
)
"""Rounds, how long ``left`` and ``right`` take, and whether the client names the thread."""
AGENTS = ("slot", "agent ack", "agent api")
At = tuple[str, int, bool, bool]
POINTS: st.SearchStrategy[At] = st.tuples(
    st.sampled_from(["active", "log", "exec", "event", "ack", "api", *AGENTS]),
    st.integers(1, 16),
    st.booleans(),
    st.booleans(),
)
"""At the how manieth message of which kind, whether it is stored, and whether the sender dies."""
which = st.integers(0, 5)
THREADS_MAX = 6
NODES_MAX = 3


def some(nodes: list[Node], number: int) -> list[Node]:
    """One of them, if there are any."""
    return [nodes[number % len(nodes)]] if nodes else []


class Mesh(RuleBasedStateMachine):
    """One world, from its first moment to the end of its last run."""

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        coordinators=st.integers(1, 2),
        first=st.lists(WANTED, min_size=1, max_size=3),
        points=st.lists(POINTS, min_size=1, max_size=3),
    )
    def begin(self, seed: int, coordinators: int, first: list[Wanted], points: list[At]) -> None:
        self._stack = ExitStack()
        self._loop = VirtualLoop()
        self._stack.enter_context(virtual_time(self._loop, seed))
        self._submitted: dict[int, int] = {}
        """Rounds of each acknowledged submission, by sequence."""
        self._threads = 0
        self._mines = 0
        """How many went off."""
        self._answered: dict[str, int] = {}
        self._do(self._begin(random.Random(seed), coordinators))
        for number, point in enumerate(points):
            self._lay(number, point)
        for wanted in first:
            self._do(self._submit(wanted))

    async def _begin(self, chance: random.Random, coordinators: int) -> None:
        self.world = World(chance)
        self.watch = Watch(self.world.broker)
        await self.world.begin()
        for _ in range(coordinators):
            await self.world.start_coordinator()
        await self.world.start_agent()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @rule(wanted=WANTED)
    def submit(self, wanted: Wanted) -> None:
        if self._threads < THREADS_MAX:
            self._do(self._submit(wanted))

    async def _submit(self, wanted: Wanted) -> None:
        rounds, seconds, named = wanted
        self._threads += 1
        given: dict[str, Any] = {"input": {"trail": [], "rounds": rounds, "seconds": seconds}}
        if named:
            given["thread_id"] = f"t{self._threads}"
        seq = await submitted(self.world, msgspec.json.encode(given))
        if seq is not None:
            self._submitted[seq] = rounds

    def _asking(self) -> list[RunInterrupted]:
        last = self.watch.last.values()
        return [
            event
            for event in last
            if isinstance(event, RunInterrupted)
            and self._answered.get(event.run_id, 0) < self.watch.questions[event.run_id]
        ]

    async def _answer(self, question: RunInterrupted) -> None:
        body = msgspec.json.encode({"command": {"resume": "yes"}, "thread_id": question.thread_id})
        # Also where it is not acknowledged: the broker may have it, and nobody answers twice.
        self._answered[question.run_id] = self.watch.questions[question.run_id]
        while await submitted(self.world, body) is None:
            await asyncio.sleep(MENDED_WITHIN_S / 2)
            if self.watch.questions[question.run_id] > self._answered[question.run_id] or (
                not isinstance(self.watch.last[question.run_id], RunInterrupted)
            ):
                return

    @rule(seconds=st.sampled_from([0.001, 0.003, 0.01]))
    def wait_a_moment(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([1.0, 3.0, 7.0]))
    def wait_and_answer(self, seconds: float) -> None:
        self._do(self._wait(seconds))

    async def _wait(self, seconds: float) -> None:
        for _ in range(4):
            await asyncio.sleep(seconds / 4)
            for question in self._asking():
                await self._answer(question)

    @rule()
    def start_coordinator(self) -> None:
        if len(self.world.coordinators) < NODES_MAX:
            self._do(self.world.start_coordinator())

    @rule()
    def start_agent(self) -> None:
        if len(self.world.agents) < NODES_MAX:
            self._do(self.world.start_agent())

    @rule(number=which)
    def kill(self, number: int) -> None:
        for node in some(self.world.all(), number):
            self._now(self._die, node)

    @rule(number=which, point=POINTS)
    def mine(self, number: int, point: At) -> None:
        self._lay(number, point)

    def _lay(self, number: int, point: At) -> None:
        kind, count, stored, dies = point
        nodes = self.world.agents if kind in AGENTS else self.world.coordinators
        for node in some(nodes, number):
            self._mine(node, kind.removeprefix("agent "), count, stored=stored, dies=dies)

    def _mine(self, node: Node, kind: str, count: int, *, stored: bool, dies: bool) -> None:
        """Let a process die, or its connection break, right before or after a message."""

        def then() -> None:
            what = "dies" if dies else "is cut off"
            self._mines += 1
            TALLY[f"{node.name.split('-')[0]} {what} {'after' if stored else 'before'} {kind}"] += 1
            if dies:
                self._die(node)
            else:
                node.connection.cut()

        node.connection.point = Point(kind, count, stored=stored, then=then)

    def _die(self, node: Node) -> None:
        self.world.kill(node, lease_s=LEASE_S)

    @rule(number=which, seconds=st.sampled_from([0.1, 2.0, 8.0]))
    def cut(self, number: int, seconds: float) -> None:
        for node in some(self.world.all(), number):
            self._now(node.connection.cut, seconds)

    @rule(number=which, seconds=st.sampled_from([0.01, 0.5, 6.0]))
    def lose_answers(self, number: int, seconds: float) -> None:
        """What it sends arrives, and nothing comes back; then its connection breaks."""
        for node in some(self.world.all(), number):
            self._now(node.connection.mute, seconds)

    @rule(forget=st.booleans())
    def kill_server(self, forget: bool) -> None:
        self._now(self.world.broker.restart, forget=forget)

    @rule(full=st.booleans())
    def fill_slots(self, full: bool) -> None:
        self.world.broker.streams["SLOT"].config["max_bytes"] = 1 if full else -1

    @rule(number=which)
    def replace_owner_unknown_to_it(self, number: int) -> None:
        """It goes on with all that it has, beside the new owner."""
        for before, after in zip(
            some(self.world.coordinators, number),
            some(self.world.coordinators, number + 1),
            strict=True,
        ):
            assert before.beliefs is not None
            before.beliefs.blind = True
            mine = {n for n, (who, _) in self.world.owners.table.items() if who == before.name}
            self._now(self.world.owners.give, frozenset(mine), after.name)

    @rule()
    def let_all_see(self) -> None:
        self._now(self.world.unblind)

    @rule(number=which, half=st.booleans())
    def move_partitions(self, number: int, half: bool) -> None:
        moved = frozenset(n for n in ALL if n % 2 == half)
        for to in some(self.world.coordinators, number):
            self._now(self.world.owners.give, moved, to.name)

    def _now(self, act: Callable[..., None], *given: Any, **options: Any) -> None:
        """Do something at this moment, as a part of the loop."""

        async def do() -> None:
            act(*given, **options)

        self._do(do())

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        if hasattr(self, "watch"):
            assert self.watch.violations == []
            assert self.world.broken == []
            assert self._loop.faults == []
            assert max(self.watch.questions.values(), default=0) <= graph.GATES

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._do(self._conclude())
            self._do(self._verify())
        finally:
            self._do(self.world.end())
            self._loop.close()
            self._stack.close()

    async def _conclude(self) -> None:
        """Mend all, and answer whoever asks until every run has ended."""
        world = self.world
        world.unblind()
        world.broker.streams["SLOT"].config["max_bytes"] = -1
        loop = asyncio.get_running_loop()
        moved_at, moved = loop.time(), -1
        while not self._all_ended():
            # Mines are there still, and gates are yet to come.
            await world.man()
            for question in self._asking():
                await self._answer(question)
            await asyncio.sleep(1)
            self.nothing_is_out_of_order()
            done = sum(self.watch.questions.values()) + self._ended() + self._mines
            if done > moved:
                moved_at, moved = loop.time(), done
            stuck = [
                each
                for seq in self._submitted
                if not isinstance(each := self._last_of(seq), RunEnded)
            ]
            assert loop.time() - moved_at < MENDED_WITHIN_S, f"I10: {stuck}"
        # What is left of it is handed out until it is acknowledged.
        async with asyncio.timeout(MENDED_WITHIN_S):
            while any(world.broker.streams[name].messages for name in ("SUBMIT", "EXEC")):
                await world.man()
                await asyncio.sleep(1)

    def _last_of(self, seq: int) -> Any:
        return self.watch.last.get(self.watch.runs.get(seq, ""))

    def _ended(self) -> int:
        return sum(isinstance(self._last_of(seq), RunEnded) for seq in self._submitted)

    def _all_ended(self) -> bool:
        return self._ended() == len(self._submitted)

    async def _verify(self) -> None:
        self.nothing_is_out_of_order()
        for seq, rounds in self._submitted.items():
            end = self._last_of(seq)
            assert (end.status, end.error) == ("success", None), end
            assert end.output["trail"] == TRAILS[rounds]
            history = await history_of(self.world, end, GRAPH)  # type: ignore[arg-type]
            found = problems(history, interrupts=graph.GATES)
            assert not found, f"{end.thread_id}: {found}"
            TALLY["runs"] += 1
            TALLY["lives of runs"] += len(history.drivers)
            assert len(history.applied) == end.tasks == len(TRAILS[rounds])


TestMesh = Mesh.TestCase
TestMesh.settings = SETTINGS
