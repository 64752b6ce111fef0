"""The verbs of the protocol: what clients ask the coordinators."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
from langgraph.errors import InvalidUpdateError
from langgraph.types import StateSnapshot

from langmesh.bus import Bus
from langmesh.bus.service import PassOn, Request, RpcServer
from langmesh.coordinator.catalog import Catalog
from langmesh.coordinator.dealing import Dealer
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.ownership import DEALER_PARTITION
from langmesh.coordinator.registrar import Registrar
from langmesh.coordinator.retention import Retention
from langmesh.coordinator.retrying import successor
from langmesh.coordinator.routing import Routing
from langmesh.coordinator.saver import ThreadSaver
from langmesh.coordinator.standing import Standing
from langmesh.coordinator.threads import Thread
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat
from langmesh.graphs.faults import text_of
from langmesh.graphs.loading import LoadedGraph
from langmesh.wire import codec, rpc, subjects
from langmesh.wire.messages import ResumeCommand, Submission
from langmesh.wire.names import to_token
from langmesh.wire.peers import ASKER_HEADER

log = logging.getLogger(__name__)

DECISION_S: Final = 30.0
"""How long ``run.start`` waits until the submission is accepted or refused."""
_NO_NODE: Final = ("__start__", "__end__", "__input__", "__copy__")

Answer = msgspec.Struct | PassOn
Verb = Callable[[str, Any, Request], Awaitable[Answer]]


class Rpc:
    """Answers the verbs; :meth:`server` puts it on the bus."""

    def __init__(
        self,
        bus: Bus,
        instance: str,
        runs: LiveRuns,
        dealer: Dealer,
        routing: Routing,
        catalog: Catalog,
        registrar: Registrar,
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._runs = runs
        self._dealer = dealer
        self._routing = routing
        self._catalog = catalog
        self._registrar = registrar
        self._standing = Standing(bus, runs)
        self._retention = Retention(bus, runs)
        self._verbs: dict[str, Verb] = {
            "run.start": self._start,
            "run.get": self._get,
            "run.wait": self._wait,
            "run.cancel": self._cancel,
            "run.resume": self._resume,
            "run.retry": self._retry,
            "task.call": self._call,
            "thread.state": self._state,
            "thread.history": self._history,
            "thread.update": self._update,
            "thread.delete": self._delete,
            "thread.prune": self._prune,
            "graph.routes": self._routes,
            "agent.register": self._register,
            "agent.unregister": self._unregister,
        }

    def server(self, **metadata: str) -> RpcServer:
        """The service that answers while it is entered; ``metadata`` is shown with it."""
        return RpcServer(
            self._bus,
            name=rpc.SERVICE,
            version=rpc.VERSION,
            subjects={"rpc": subjects.RPC_ALL, "peer": subjects.peer_rpc_all(self._instance)},
            handler=self.answer,
            metadata={"instance": self._instance, **metadata},
        )

    async def answer(self, request: Request) -> Answer:
        """Answer one request, or tell who does.

        Raises:
            MeshError: The error to answer with.
        """
        names = subjects.parse_rpc(request.subject)
        verb = rpc.VERBS.get(names.verb)
        if verb is None:
            raise MeshError(
                ErrorCode.UNKNOWN_VERB,
                f"there is no verb {names.verb[:80]!r}; there are {', '.join(rpc.VERBS)}",
            )
        asked = codec.decode_request(verb.request, request.body)
        elsewhere = await self._routing.elsewhere(names.tenant, names.verb, asked, request)
        if elsewhere is not None:
            return elsewhere
        return await self._verbs[names.verb](names.tenant, asked, request)

    async def _start(self, tenant: str, asked: rpc.StartRun, request: Request) -> rpc.RunReference:
        fields = {name: getattr(asked, name) for name in Submission.__struct_fields__}
        return await self._submit(tenant, asked.graph, fields, request)

    async def _call(self, tenant: str, asked: rpc.CallTask, _: Request) -> rpc.CallResult:
        live = self._runs.find(tenant, asked.run_id)
        if live is None:
            raise MeshError(
                ErrorCode.BUSY, f"run_id: no run {asked.run_id[:100]!r} is driven here right now"
            )
        return await live.run.call(asked)

    async def _resume(self, tenant: str, asked: rpc.ResumeRun, request: Request) -> Answer:
        self._catalog.get(tenant, asked.graph)
        if asked.resume is None:
            raise MeshError(ErrorCode.INVALID_FIELD, "resume: null is no answer")
        if await self._runs.asking(tenant, asked.graph, asked.thread_id) is None:
            raise MeshError(
                ErrorCode.UNKNOWN_THREAD,
                f"thread_id: no run on {asked.thread_id[:100]!r} waits for an answer",
            )
        command = ResumeCommand(resume=asked.resume)
        fields = {"graph": asked.graph, "thread_id": asked.thread_id, "command": command}
        return await self._begin(tenant, fields, request)

    async def _retry(self, tenant: str, asked: rpc.RetryRun, request: Request) -> Answer:
        thread_id = await self._standing.thread_of(tenant, asked.run_id)
        async with self._runs.threads.using(tenant, thread_id) as thread:
            last = (await thread.journal()).last
        fields = successor(asked.run_id, thread_id, last)
        return await self._begin(tenant, fields, request)

    async def _begin(self, tenant: str, fields: dict[str, Any], request: Request) -> Answer:
        """Submit what is looked at here and dealt elsewhere, perhaps."""
        body = msgspec.json.encode(fields)
        start = Request(request.subject, body, request.headers)
        elsewhere = await self._routing.passed_on(DEALER_PARTITION, tenant, "run.start", start)
        if elsewhere is not None:
            return elsewhere
        asked = codec.decode_request(rpc.StartRun, body)
        return await self._start(tenant, asked, request)

    async def _submit(
        self, tenant: str, graph: str, fields: dict[str, Any], request: Request
    ) -> rpc.RunReference:
        self._catalog.get(tenant, graph)
        # Absent ids stay absent: whether a body names one tells admission where to look.
        given = {name: value for name, value in fields.items() if value is not None}
        body = msgspec.json.encode(given)
        codec.decode_submission(body)
        traceparent = request.headers.get("traceparent")
        # The parent waits, so it does not count: otherwise parents could take every place.
        parent = request.headers.get(rpc.PARENT_HEADER)
        lent = None
        if parent and (
            self._runs.find(tenant, parent) is not None or await self._routing.runs(tenant, parent)
        ):
            lent = self._dealer.lend()
        publishing = self._bus.append(
            subjects.submit(tenant, graph),
            body,
            headers={
                ASKER_HEADER: self._instance,
                **({"traceparent": traceparent} if traceparent else {}),
            },
        )
        try:
            seq, decision = await self._dealer.decisions.publish(publishing)
        except BaseException:
            if lent is not None:
                lent.close()
            raise

        def on_decision(decided: asyncio.Future[rpc.RunReference]) -> None:
            self._dealer.decisions.forget(seq)
            if lent is not None and not decided.cancelled() and decided.exception() is None:
                self._dealer.lent_to(seq, lent)
            elif lent is not None:
                lent.close()

        decision.add_done_callback(on_decision)
        try:
            async with asyncio.timeout(DECISION_S):
                return await asyncio.shield(decision)
        except TimeoutError:
            if lent is None:
                self._dealer.decisions.forget(seq)
            raise MeshError(
                ErrorCode.TIMED_OUT,
                f"submission {seq} is stored, but not accepted after {DECISION_S:g} s",
                remedy="Do not submit it again: it waits for its turn, and its events will tell.",
            ) from None

    async def _get(self, tenant: str, asked: rpc.GetRun, _request: Request) -> rpc.RunView:
        return await self._standing.now(tenant, asked.run_id)

    async def _wait(self, tenant: str, asked: rpc.WaitRun, _request: Request) -> rpc.RunView:
        return await self._standing.settled(tenant, asked.run_id, timeout_s=asked.timeout_s)

    async def _cancel(self, tenant: str, asked: rpc.CancelRun, _request: Request) -> rpc.RunView:
        return await self._standing.cancel(tenant, asked.run_id)

    async def _state(self, tenant: str, asked: rpc.GetState, _request: Request) -> rpc.ThreadState:
        loaded = self._loaded(tenant, asked.graph, asked.thread_id)
        async with self._reading(tenant, asked.graph, asked.thread_id) as thread:
            saver = await _showing(thread, loaded)
            snapshot = await loaded.compiled.aget_state(_config(saver, thread))
        if _checkpoint_id(snapshot) == "":
            raise _unknown_thread(asked.graph, asked.thread_id)
        return _state(asked.thread_id, snapshot)

    async def _history(
        self, tenant: str, asked: rpc.GetHistory, _request: Request
    ) -> rpc.ThreadHistory:
        loaded = self._loaded(tenant, asked.graph, asked.thread_id)
        async with self._reading(tenant, asked.graph, asked.thread_id) as thread:
            saver = await _showing(thread, loaded)
            config = _config(saver, thread)
            if await saver.aget_tuple(config) is None:
                raise _unknown_thread(asked.graph, asked.thread_id)
            before = None if asked.before is None else _config(saver, thread, asked.before)
            snapshots = loaded.compiled.aget_state_history(config, before=before, limit=asked.limit)
            states = [_state(asked.thread_id, each) async for each in snapshots]
        return rpc.ThreadHistory(states=states)

    async def _update(
        self, tenant: str, asked: rpc.UpdateThread, _request: Request
    ) -> rpc.ThreadUpdated:
        loaded = self._loaded(tenant, asked.graph, asked.thread_id)
        nodes = loaded.topology.nodes
        if asked.as_node is not None and asked.as_node not in (*nodes, *_NO_NODE):
            raise MeshError(
                ErrorCode.UNKNOWN_NODE,
                f"as_node: graph {asked.graph!r} has no node {asked.as_node[:100]!r};"
                f" it has {', '.join(nodes)}",
            )
        async with self._runs.holding(tenant, asked.thread_id) as thread:
            saver = thread.saver(loaded)
            try:
                config = await loaded.compiled.aupdate_state(
                    _config(saver, thread), asked.values, asked.as_node
                )
            except InvalidUpdateError as exc:
                raise MeshError(ErrorCode.INVALID_INPUT, f"values: {text_of(exc)[:400]}") from exc
            except MeshError:
                raise
            except Exception as exc:
                # Reducers, schemas and branches are the graph's own code and may raise anything.
                log.info("an update of thread %s failed", asked.thread_id, exc_info=True)
                raise MeshError(
                    ErrorCode.INVALID_INPUT,
                    f"values: the graph does not take them ({type(exc).__name__})",
                ) from exc
            if writes := saver.take_writes():
                await thread.append(writes)
        return rpc.ThreadUpdated(checkpoint_id=str(config["configurable"]["checkpoint_id"]))

    async def _delete(
        self, tenant: str, asked: rpc.DeleteThread, _request: Request
    ) -> rpc.ThreadDeleted:
        await self._retention.delete(
            tenant, asked.thread_id, graph=asked.graph, unchanged_since=asked.unchanged_since
        )
        return rpc.ThreadDeleted(thread_id=asked.thread_id)

    async def _prune(
        self, tenant: str, asked: rpc.PruneThread, _request: Request
    ) -> rpc.ThreadPruned:
        kept, dropped = await self._retention.prune(
            tenant, asked.thread_id, graph=asked.graph, unchanged_since=asked.unchanged_since
        )
        return rpc.ThreadPruned(thread_id=asked.thread_id, kept=kept, dropped=dropped)

    async def _routes(self, tenant: str, asked: rpc.GetRoutes, _request: Request) -> rpc.Routes:
        entry = self._catalog.get(tenant, asked.graph)
        topology = entry.loaded.topology
        return rpc.Routes(
            graph=topology.graph,
            revision=topology.revision,
            topology=msgspec.to_builtins(topology),
            bindings={
                node: rpc.NodeRoute(
                    subject=binding.subject,
                    release=binding.release,
                    served=self._catalog.is_served(tenant, asked.graph, node, binding.release),
                )
                for node, binding in entry.bindings.nodes.items()
            },
        )

    async def _register(
        self, tenant: str, asked: rpc.RegisterAgent, _request: Request
    ) -> rpc.AgentPlace:
        return await self._registrar.register(tenant, asked)

    async def _unregister(
        self, tenant: str, asked: rpc.UnregisterAgent, _request: Request
    ) -> rpc.AgentGone:
        return await self._registrar.unregister(tenant, asked)

    def _loaded(self, tenant: str, graph: str, thread: str) -> LoadedGraph:
        loaded = self._catalog.get(tenant, graph).loaded
        to_token(thread, field="thread_id")
        return loaded

    @contextlib.asynccontextmanager
    async def _reading(self, tenant: str, graph: str, thread_id: str) -> AsyncIterator[Thread]:
        """A thread of a graph."""
        async with self._runs.threads.using(tenant, thread_id) as thread:
            last = (await thread.journal()).last
            if last is not None and last.started.graph != graph:
                raise _unknown_thread(graph, thread_id)
            yield thread


async def _showing(thread: Thread, loaded: LoadedGraph) -> ThreadSaver:
    """A checkpointer that shows what the durability modes of the thread's runs let be seen."""
    return thread.saver(loaded, hidden=(await thread.journal()).hidden)


def _config(saver: ThreadSaver, thread: Thread, checkpoint_id: str | None = None) -> Any:
    where = {
        "thread_id": thread.name,
        "checkpoint_ns": "",
        compat.CONFIG_KEY_CHECKPOINTER: saver,
    }
    if checkpoint_id is not None:
        where["checkpoint_id"] = checkpoint_id
    return {"configurable": where}


def _checkpoint_id(snapshot: StateSnapshot) -> str:
    return str(snapshot.config.get("configurable", {}).get("checkpoint_id", ""))


def _state(thread: str, snapshot: StateSnapshot) -> rpc.ThreadState:
    return rpc.ThreadState(
        thread_id=thread,
        checkpoint_id=_checkpoint_id(snapshot),
        created_at=snapshot.created_at or "",
        superstep=(snapshot.metadata or {}).get("step", 0),
        values=snapshot.values,
        next=sorted(set(snapshot.next)),
        interrupts=list(snapshot.interrupts),
    )


def _unknown_thread(graph: str, thread: str) -> MeshError:
    return MeshError(
        ErrorCode.UNKNOWN_THREAD, f"thread_id: graph {graph!r} has no thread {thread[:100]!r}"
    )
