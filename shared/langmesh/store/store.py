"""LangGraph's ``BaseStore`` on NATS JetStream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, Self, TypeVar

from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from langmesh import settings
from langmesh.bus import Bus, connect
from langmesh.bus.streams import ensure_stream
from langmesh.errors import ErrorCode, MeshError
from langmesh.store import matching, ranking
from langmesh.store.entries import Entry
from langmesh.store.indexing import Index, Wanted, check_wanted
from langmesh.store.replicas import Replicas
from langmesh.store.values import plain_name, plain_value
from langmesh.store.watching import Changes
from langmesh.store.writing import Write, Writer, all_of, patiently, ttl_seconds
from langmesh.wire.names import to_token
from langmesh.wire.streams import STORE

REPLICA_BYTES_MAX: Final = 256 * 1024 * 1024
_FILTERED_AT_ONCE: Final = 1000

_T = TypeVar("_T")


class NatsStore(BaseStore):
    """Long-term memory in JetStream, shared by all graphs and processes of a tenant.

    It belongs to the event loop in which it is made. From other threads its methods without ``a``
    may be called, and from their event loops those with ``a``.

    A get is one request. Searches and listings are answered from a replica in memory of what lies
    below the first prefix asked for that covers theirs; one request makes sure that it has all that
    was stored before. Items expire at the broker, nothing sweeps.

    Args:
        bus: An open connection.
        tenant: Whose store it is; tenants do not see each other's items.
        index: Search by similarity, as ``InMemoryStore`` takes it.
        ttl: LangGraph's defaults for the life of items; ``default_ttl`` and ``refresh_on_read``
            count.
        replica_bytes_max: Estimated memory of all replicas; those used longest ago go first.

    Raises:
        MeshError: INVALID_NAME for a tenant that cannot become a token.
        RuntimeError: It is not made in an event loop.
    """

    supports_ttl = True

    def __init__(
        self,
        bus: Bus,
        *,
        tenant: str = "default",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        replica_bytes_max: int = REPLICA_BYTES_MAX,
    ) -> None:
        to_token(tenant, field="tenant")
        if ttl is not None:
            ttl_seconds(ttl.get("default_ttl"))
        self.tenant = tenant
        self.ttl_config = ttl
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._index = Index(index) if index else None
        self._writer = Writer(bus, tenant)
        self._replicas = Replicas(bus, tenant, bytes_max=replica_bytes_max)
        self._standing = asyncio.Lock()
        self._stands = False

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        nats_url: str | None = None,
        *,
        tenant: str | None = None,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        replica_bytes_max: int = REPLICA_BYTES_MAX,
    ) -> AsyncIterator[Self]:
        """A store on a connection of its own, while the block runs.

        Args:
            nats_url: Server; ``NATS_URL`` by default.
            tenant: ``LANGMESH_TENANT`` by default.
            index: As for the class.
            ttl: As for the class.
            replica_bytes_max: As for the class.

        Raises:
            MeshError: BROKER_UNAVAILABLE, STREAM_MISMATCH, INVALID_NAME, INVALID_SETTING.
        """
        if nats_url is None or tenant is None:
            given = settings.load()
            nats_url = given.nats_url if nats_url is None else nats_url
            tenant = given.tenant if tenant is None else tenant
        async with connect(nats_url, name="store") as bus:
            store = cls(
                bus, tenant=tenant, index=index, ttl=ttl, replica_bytes_max=replica_bytes_max
            )
            try:
                await store._stand()
                yield store
            finally:
                await store.aclose()

    async def aclose(self) -> None:
        """Let go of the replicas; the connection stays open."""
        await self._replicas.close()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations: all reads side by side, then all writes.

        Of several writes to one key the last counts. When one fails, others may have been done.

        Raises:
            InvalidNamespaceError: A label is no string, empty, or holds a dot or a NUL.
            MeshError: VALUE_NOT_SERIALIZABLE, INVALID_FIELD or INVALID_NAME naming the field;
                PAYLOAD_TOO_LARGE; BROKER_UNAVAILABLE.
        """
        ops = list(ops)
        if asyncio.get_running_loop() is not self._loop:
            return await asyncio.wrap_future(self._from_elsewhere(self.abatch(ops)))
        for op in ops:
            if not isinstance(op, GetOp | SearchOp | ListNamespacesOp | PutOp):
                # The exception that LangGraph's own stores raise.
                raise ValueError(f"Unknown operation type: {type(op)}")  # noqa: TRY004
            validate_op_namespace(op)
        writes = {(tuple(op.namespace), op.key): op for op in ops if isinstance(op, PutOp)}
        prepared = [_write(op) for op in writes.values()]
        await self._stand()
        results: list[Result] = await all_of(
            [self._read(op) for op in ops if not isinstance(op, PutOp)]
        )
        await self._put(list(zip(writes.values(), prepared, strict=True)))
        read = iter(results)
        return [None if isinstance(op, PutOp) else next(read) for op in ops]

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations from another thread than the event loop's, as :meth:`abatch` does.

        Raises:
            asyncio.InvalidStateError: It was called in the event loop, which it would block.
            MeshError: NOT_RUNNING if the event loop does not run any more.
        """
        return self._from_elsewhere(self.abatch(list(ops))).result()

    async def aput_if(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any] | None,
        *,
        revision: int,
        index: Wanted = None,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> int:
        """Put or, for None, delete an item if nobody has changed it since it was read.

        Args:
            namespace: As for :meth:`aput`.
            key: As for :meth:`aput`.
            value: As for :meth:`aput`.
            revision: ``item.revision`` of the item that was read; 0 if there was none.
            index: As for :meth:`aput`.
            ttl: As for :meth:`aput`.

        Returns:
            The new revision; 0 after a deletion.

        Raises:
            MeshError: CONFLICT if the item has another revision; as :meth:`abatch`.
        """
        if type(revision) is not int or revision < 0:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                f"revision: expected a number of at least 0, got {revision!r}",
                remedy="Give item.revision of the item that was read, or 0 if there was none.",
            )
        if isinstance(ttl, NotProvided):
            ttl = self.ttl_config.get("default_ttl") if self.ttl_config is not None else None
        op = PutOp(namespace, key, value, index, ttl=ttl)
        validate_op_namespace(op)
        write = _write(op, revision)
        await self._stand()
        (done,) = await self._put([(op, write)])
        return done

    def watch(
        self,
        namespace_prefix: tuple[str, ...] = (),
        *,
        initial: bool = False,
        after: int | None = None,
    ) -> Changes:
        """Puts, deletions and expirations below a namespace as they happen, by anyone.

        A reader that falls far behind, or whose broker is away for a while, may not see every
        value that a key had in between, but always its last. Deletions and expirations are told
        for 24 hours.

        Args:
            namespace_prefix: Labels that the namespaces begin with; all when empty.
            initial: Begin with a put for each item that is there.
            after: Revision of the last change that was seen, to go on behind it.

        Raises:
            InvalidNamespaceError: As :meth:`abatch`.
            MeshError: INVALID_FIELD if both `initial` and `after` are given.
        """
        prefix = tuple(namespace_prefix)
        validate_op_namespace(SearchOp(prefix))
        if initial and after is not None:
            raise MeshError(
                ErrorCode.INVALID_FIELD,
                "after: a watch begins with what is there or behind a revision, not both",
                remedy="Leave out initial or after.",
            )
        return Changes(
            self._bus, self.tenant, prefix, initial=initial, after=after, ready=self._stand
        )

    async def _read(self, op: GetOp | SearchOp | ListNamespacesOp) -> Result:
        if isinstance(op, GetOp):
            return await self._get(op)
        if isinstance(op, SearchOp):
            return await self._search(op)
        return await self._list_namespaces(op)

    async def _get(self, op: GetOp) -> Item | None:
        namespace, key = tuple(op.namespace), plain_name(op.key, field="key")
        entry = await patiently(self._bus, lambda: self._writer.last(namespace, key))
        if entry is None:
            return None
        if op.refresh_ttl:
            await self._writer.prolong(entry)
        return entry.item()

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.filter:
            matching.check_filter(op.filter)
        prefix = tuple(op.namespace_prefix)
        query = None
        if op.query and self._index is not None:
            query = await self._index.embed_query(op.query)
        replica = await patiently(self._bus, lambda: self._replicas.current(prefix))
        candidates = replica.tree.below(prefix)
        if op.filter:
            candidates = await _filtered(candidates, op.filter)
        page: Sequence[tuple[float | None, Entry]]
        if query is None:
            page = [(None, entry) for entry in candidates[op.offset : op.offset + op.limit]]
        else:
            scores = await _scores(query, candidates)
            page = ranking.rank(candidates, scores, offset=op.offset, limit=op.limit)
        if op.refresh_ttl:
            await all_of([self._writer.prolong(entry) for _, entry in page if entry.ttl_s])
        return [entry.found(score) for score, entry in page]

    async def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefix = matching.literal_prefix(conditions)
        replica = await patiently(self._bus, lambda: self._replicas.current(prefix))
        return matching.select_namespaces(
            replica.tree.namespaces(prefix),
            conditions,
            max_depth=op.max_depth,
            limit=op.limit,
            offset=op.offset,
        )

    async def _put(self, puts: Sequence[tuple[PutOp, Write]]) -> list[int]:
        """Write side by side; one call of the embedding function for all."""
        vectors: dict[int, Any] = {}
        if self._index is not None:
            texts = [
                (place, write.value, op.index)
                for place, (op, write) in enumerate(puts)
                if write.value is not None
            ]
            found = await self._index.embed_items([(value, index) for _, value, index in texts])
            vectors = {place: each for (place, _, _), each in zip(texts, found, strict=True)}
        return await self._writer.write(
            [write.with_vectors(vectors.get(place)) for place, (_, write) in enumerate(puts)]
        )

    async def _stand(self) -> None:
        """Make sure, once, that the stream is there."""
        if self._stands:
            return
        async with self._standing:
            if not self._stands:
                await patiently(self._bus, lambda: ensure_stream(self._bus, STORE))
                self._stands = True

    def _from_elsewhere(self, call: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Execute in the store's event loop; a future of another thread."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        problem: Exception | None = None
        if here is self._loop:
            problem = asyncio.InvalidStateError(
                "A method of NatsStore that blocks was called in the store's event loop, which it"
                " would block for ever. Use `await store.aget(…)` instead of `store.get(…)`, and"
                " so on."
            )
        elif not self._loop.is_running():
            problem = MeshError(
                ErrorCode.NOT_RUNNING, "the event loop of the store does not run any more"
            )
        if problem is not None:
            call.close()
            raise problem
        return asyncio.run_coroutine_threadsafe(call, self._loop)


def _write(op: PutOp, revision: int | None = None) -> Write:
    """A put whose parts are checked and copied."""
    check_wanted(op.index)
    return Write(
        namespace=tuple(
            plain_name(label, field=f"namespace[{at}]") for at, label in enumerate(op.namespace)
        ),
        key=plain_name(op.key, field="key"),
        value=None if op.value is None else plain_value(op.value),
        ttl_s=None if op.value is None else ttl_seconds(op.ttl),
        revision=revision,
    )


async def _filtered(candidates: Sequence[Entry], wanted: dict[str, Any]) -> list[Entry]:
    found: list[Entry] = []
    for start in range(0, len(candidates), _FILTERED_AT_ONCE):
        if start:
            await asyncio.sleep(0)  # others have their turn
        part = candidates[start : start + _FILTERED_AT_ONCE]
        found.extend(entry for entry in part if matching.matches(entry.value(), wanted))
    return found


async def _scores(query: list[float], candidates: Sequence[Entry]) -> list[list[float]]:
    vectors = [entry.vectors for entry in candidates]
    if ranking.is_big([each for each in vectors if each is not None]):
        return await asyncio.to_thread(ranking.similarities, query, vectors)
    return ranking.similarities(query, vectors)
