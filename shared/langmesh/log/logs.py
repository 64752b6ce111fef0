"""The chains that a process works with, over one connection and for one tenant."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from weakref import WeakSet

from langmesh.bus import Bus
from langmesh.bus.reading import purge, subjects_of
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.chain import BrokenChain, Chain
from langmesh.log.patience import PATIENCE_S, patiently
from langmesh.log.thread import ThreadLog
from langmesh.log.values import Values
from langmesh.wire import subjects
from langmesh.wire.log import NAME_CHARS_MAX, decode_entry
from langmesh.wire.names import partition
from langmesh.wire.streams import LOG

CACHE_BYTES: Final = 64 * 1024 * 1024
_LOG_BYTES: Final = 4096
"""About what a chain costs in memory beside its entries."""


class Logs:
    """Opens chains and keeps the folded ones within a bound.

    Args:
        bus: The connection.
        tenant: Whose threads these are.
        writer: Instance, written into each entry.
        cache_bytes: How much is kept of chains that nobody works with.
        patience_s: Seconds to find out what became of an entry while the broker is away.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        tenant: str,
        writer: str,
        cache_bytes: int = CACHE_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.tenant = tenant
        self.values = Values(bus, patience_s=patience_s)
        self._bus = bus
        self._writer = writer
        self._cache_bytes = cache_bytes
        self._patience_s = patience_s
        self._shared: OrderedDict[str, ThreadLog] = OrderedDict()
        self._bytes = 0
        self._open: WeakSet[ThreadLog] = WeakSet()
        self._forget_reconnects = bus.on_reconnect(self._resend)

    @property
    def cached(self) -> int:
        """How many shared chains are in memory."""
        return len(self._shared)

    def close(self) -> None:
        """Send nothing more, and listen to the connection no more."""
        self._forget_reconnects()
        for log in list(self._open):
            log.close()

    def own(self, thread: str, namespace: str = "", *, epoch: int = 0) -> ThreadLog:
        """A chain that nobody else may write to; the caller keeps it.

        Raises:
            MeshError: INVALID_NAME.
        """
        return self._made(self._chain(thread, namespace), epoch=epoch, owner=True)

    def shared(self, thread: str, namespace: str = "") -> ThreadLog:
        """A chain that others may write to as well; kept while there is room.

        Raises:
            MeshError: INVALID_NAME.
        """
        return self._kept(self._chain(thread, namespace))

    async def chains(self, thread: str | None = None) -> list[Chain]:
        """All chains with entries: those of a thread, or of all threads.

        Raises:
            MeshError: BROKER_UNAVAILABLE; BROKEN_CHAIN if an entry is of another chain.
        """
        if thread is None:
            patterns = [subjects.logs_of_tenant(self.tenant)]
        else:
            place = partition(self.tenant, thread), self.tenant, thread
            patterns = [subjects.log(*place), subjects.logs_of_thread(*place)]
        listed = [subject for pattern in patterns for subject in await self._subjects(pattern)]
        named = [await self._named(subject) for subject in listed]
        return [chain for chain in named if chain is not None]

    async def delete(self, thread: str) -> None:
        """Delete all chains of a thread.

        An append that is on its way in some process begins the thread anew.

        Raises:
            MeshError: BROKER_UNAVAILABLE, INVALID_NAME.
        """
        place = partition(self.tenant, thread), self.tenant, thread
        own = self._chain(thread, "").subject
        for pattern in (subjects.logs_of_thread(*place), own):
            await self._purge(pattern)
        for subject, log in self._shared.items():
            if subject == own or subject.startswith(f"{own}."):
                log.forget()

    def _chain(self, thread: str, namespace: str) -> Chain:
        for field, name in (("thread_id", thread), ("checkpoint_ns", namespace)):
            if len(name) > NAME_CHARS_MAX:
                problem = f"{name[:40]!r}… has {len(name):,} characters, more than {NAME_CHARS_MAX}"
            elif any("\ud800" <= character <= "\udfff" for character in name):
                problem = f"{name[:40]!r} holds a lone surrogate"
            elif not name and field == "thread_id":
                problem = "the name is empty"
            else:
                continue
            raise MeshError(
                ErrorCode.INVALID_NAME,
                f"{field}: {problem}",
                remedy=f"Use 1 to {NAME_CHARS_MAX} characters of Unicode text.",
            )
        place = partition(self.tenant, thread), self.tenant
        return Chain(subjects.log(*place, thread, namespace), thread, namespace)

    def _made(self, chain: Chain, *, epoch: int = 0, owner: bool = False) -> ThreadLog:
        log = ThreadLog(
            self._bus,
            self.values,
            chain,
            writer=self._writer,
            epoch=epoch,
            owner=owner,
            patience_s=self._patience_s,
            on_size=(lambda _: None) if owner else self._grew,
        )
        self._open.add(log)
        return log

    def _kept(self, chain: Chain) -> ThreadLog:
        log = self._shared.get(chain.subject)
        if log is None or log.failed:
            if log is None:
                self._bytes += _LOG_BYTES
            log = self._shared[chain.subject] = self._made(chain)
        self._shared.move_to_end(chain.subject)
        self._evict()
        return log

    def _evict(self) -> None:
        """Drop the chains that were not asked for the longest."""
        if self._bytes <= self._cache_bytes:
            return
        *old, _ = self._shared.items()
        for subject, log in old:
            if self._bytes <= self._cache_bytes:
                return
            if log.idle:
                log.forget()
                del self._shared[subject]
                self._bytes -= _LOG_BYTES

    def _grew(self, delta: int) -> None:
        self._bytes += delta

    def _resend(self) -> None:
        for log in list(self._open):
            log.resend()

    async def _subjects(self, pattern: str) -> list[str]:
        return await patiently(
            lambda: subjects_of(self._bus, LOG.name, pattern), patience_s=self._patience_s
        )

    async def _purge(self, pattern: str) -> None:
        await patiently(lambda: purge(self._bus, LOG.name, pattern), patience_s=self._patience_s)

    async def _named(self, subject: str) -> Chain | None:
        """The names behind a subject; where it holds but digests, an entry says them."""
        if (log := self._shared.get(subject)) is not None:
            return log.chain
        parsed = subjects.parse_log(subject)
        if parsed.thread is not None and parsed.namespace is not None:
            return self._chain(parsed.thread, parsed.namespace)
        found = await patiently(
            lambda: self._bus.first(LOG.name, subject), patience_s=self._patience_s
        )
        if found is None:
            return None  # deleted since
        seq, body = found
        problem = "it is of another chain"
        try:
            entry, _ = decode_entry(body)
            chain = self._chain(entry.thread, entry.namespace)
            if chain.subject == subject:
                return chain
        except MeshError as exc:
            problem = exc.message
        unnamed = Chain(subject, parsed.thread or subject, parsed.namespace or "")
        raise BrokenChain(unnamed, number=1, seq=seq, problem=problem)
