"""The client of etcd: reads, writes, compare-and-set and leases, never blocking the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from etcd3 import etcdrpc

from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.model import (
    Entry,
    Snapshot,
    TxnResult,
    key_bytes,
    key_text,
    prefix_end,
    to_entry,
)
from langmesh.registry.transport import AnswerTooLarge, HistoryLost, Transport

PAGE_KEYS: Final = 2_000
"""Keys that one request of :meth:`Etcd.list` asks for."""


def mod_is(key: str, mod_revision: int) -> Any:
    """A comparison: the key's last write has this revision; 0 means that the key is absent."""
    return etcdrpc.Compare(
        result=etcdrpc.Compare.EQUAL,
        target=etcdrpc.Compare.MOD,
        key=key_bytes(key),
        mod_revision=mod_revision,
    )


def put_op(key: str, value: bytes, lease: int = 0) -> Any:
    """A transaction's write."""
    put = etcdrpc.PutRequest(key=key_bytes(key), value=value, lease=lease)
    return etcdrpc.RequestOp(request_put=put)


def get_op(key: str) -> Any:
    """A transaction's read."""
    return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=key_bytes(key)))


def delete_op(key: str) -> Any:
    """A transaction's deletion."""
    delete = etcdrpc.DeleteRangeRequest(key=key_bytes(key))
    return etcdrpc.RequestOp(request_delete_range=delete)


class Etcd:
    """A client of one etcd cluster; use as an async context manager, in one event loop.

    Every method raises MeshError: REGISTRY_UNAVAILABLE when etcd did not answer in time (a read was
    already repeated; a write may or may not have happened), REGISTRY_REJECTED with etcd's reason
    when it refused.

    Args:
        endpoints: ``HOST:PORT`` of each member.
        user: Name to log in with; no login without.
        password: The user's password.
        tls: Channel credentials from :func:`grpc.ssl_channel_credentials`; plain text without.
        timeout_s: Seconds in which a request must be answered.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        user: str | None = None,
        password: str | None = None,
        tls: grpc.ChannelCredentials | None = None,
        timeout_s: float = 3.0,
    ) -> None:
        self.transport = Transport(
            endpoints, user=user, password=password, tls=tls, timeout_s=timeout_s
        )

    async def __aenter__(self) -> Self:
        await self.transport.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.transport.close()

    async def get(self, key: str, *, revision: int = 0) -> Entry | None:
        """Read one key; None when it is absent.

        Args:
            key: The key.
            revision: Read the past as of this revision; 0 for now.

        Raises:
            HistoryLost: The revision was compacted or lies in the future.
        """
        request = etcdrpc.RangeRequest(key=key_bytes(key), revision=revision)
        answer = await self.transport.call(
            self.transport.stubs.kv.Range, request, f"get {key}", repeat=True
        )
        return to_entry(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Snapshot:
        """Read all keys with a prefix at one revision, in pages, so that a large set fits."""
        page = PAGE_KEYS
        while True:
            try:
                return await self._list(prefix, page)
            except HistoryLost:
                continue  # compacted between two pages: what was read is of no use
            except AnswerTooLarge:
                if page == 1:
                    raise
                page = max(page // 16, 1)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write one key and return the revision of the write."""
        request = etcdrpc.PutRequest(key=key_bytes(key), value=value, lease=lease)
        answer = await self.transport.call(self.transport.stubs.kv.Put, request, f"put {key}")
        return int(answer.header.revision)

    async def delete(self, key: str) -> bool:
        """Delete one key; False when it was absent."""
        return await self._delete(etcdrpc.DeleteRangeRequest(key=key_bytes(key)), key) > 0

    async def delete_prefix(self, prefix: str) -> int:
        """Delete all keys with a prefix and return how many there were.

        Raises:
            ValueError: The prefix is empty; that would delete everyone's keys.
        """
        if not prefix:
            raise ValueError("the prefix is empty")
        start = key_bytes(prefix)
        request = etcdrpc.DeleteRangeRequest(key=start, range_end=prefix_end(start))
        return await self._delete(request, f"{prefix}*")

    async def compare_and_put(
        self, key: str, value: bytes, mod_revision: int, lease: int = 0
    ) -> tuple[bool, int]:
        """Write a key if its last write is still the one that the caller saw.

        An attempt whose outcome is unknown is repeated: a value that equals ours is then taken as
        our write.

        Args:
            key: The key.
            value: The new value.
            mod_revision: ``Entry.mod_revision`` as the caller saw it; 0 = the key must be absent.
            lease: Lease to hang the key on; 0 for none.

        Returns:
            Whether it was written, and the key's mod_revision now (0 when it is absent).
        """
        attempt = (
            (mod_is(key, mod_revision),),
            (put_op(key, value, lease),),
            (get_op(key),),
            self.transport.timeout_s / 2,
        )
        unknown_before = False
        try:
            result = await self._txn(*attempt)
        except MeshError as exc:
            if exc.code is not ErrorCode.REGISTRY_UNAVAILABLE:
                raise
            unknown_before = True
            result = await self._txn(*attempt)
        if result.succeeded:
            return True, result.revision
        current = result.reads[0]
        if current is None:
            return False, 0
        return unknown_before and current.value == value, current.mod_revision

    async def txn(
        self, when: Sequence[Any], then: Sequence[Any], otherwise: Sequence[Any] = ()
    ) -> TxnResult:
        """Run `then` if all comparisons hold, else `otherwise`, atomically.

        Args:
            when: Comparisons, made by :func:`mod_is`.
            then: Operations, made by :func:`put_op`, :func:`get_op`, :func:`delete_op`.
            otherwise: Operations likewise.
        """
        return await self._txn(when, then, otherwise, self.transport.timeout_s)

    async def grant(self, ttl_s: int) -> int:
        """Make a lease of `ttl_s` seconds and return its id."""
        # Repeating leaves at worst a lease without keys, which expires.
        answer = await self.transport.call(
            self.transport.stubs.leases.LeaseGrant,
            etcdrpc.LeaseGrantRequest(TTL=ttl_s),
            "grant a lease",
            repeat=True,
        )
        return int(answer.ID)

    async def keep_alive(self, lease: int, *, timeout_s: float) -> int:
        """Renew a lease and return the seconds it now has; 0 when it is gone."""
        call = self.transport.stubs.leases.LeaseKeepAlive(
            iter((etcdrpc.LeaseKeepAliveRequest(ID=lease),)),
            timeout=timeout_s,
            metadata=await self.transport.metadata(),
            wait_for_ready=True,
        )
        what = f"keep lease {lease:x} alive"
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError as exc:
            self.transport.forget_stale_token(exc.details() or "")
            self.transport.fail(exc, what, timeout_s)
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"{self.transport.where} ended the stream instead of answering {what}",
            )
        return max(int(answer.TTL), 0)

    async def revoke(self, lease: int, *, timeout_s: float | None = None) -> None:
        """End a lease: all its keys go at once."""
        await self.transport.call(
            self.transport.stubs.leases.LeaseRevoke,
            etcdrpc.LeaseRevokeRequest(ID=lease),
            f"revoke lease {lease:x}",
            timeout_s=timeout_s,
        )

    async def _txn(
        self, when: Sequence[Any], then: Sequence[Any], otherwise: Sequence[Any], timeout_s: float
    ) -> TxnResult:
        request = etcdrpc.TxnRequest(compare=when, success=then, failure=otherwise)
        keys = ", ".join(key_text(compare.key) for compare in request.compare)
        answer = await self.transport.call(
            self.transport.stubs.kv.Txn,
            request,
            f"transaction on {keys or 'no condition'}",
            timeout_s=timeout_s,
        )
        reads = tuple(
            to_entry(part.response_range.kvs[0]) if part.response_range.kvs else None
            for part in answer.responses
            if part.WhichOneof("response") == "response_range"
        )
        return TxnResult(answer.succeeded, answer.header.revision, reads)

    async def _list(self, prefix: str, page: int) -> Snapshot:
        entries: dict[str, Entry] = {}
        start = key_bytes(prefix)
        end = prefix_end(start)
        revision = 0
        while True:
            request = etcdrpc.RangeRequest(
                key=start or b"\0", range_end=end, limit=page, revision=revision
            )
            answer = await self.transport.call(
                self.transport.stubs.kv.Range, request, f"list {prefix}", repeat=True
            )
            revision = revision or answer.header.revision
            for pair in answer.kvs:
                entry = to_entry(pair)
                entries[entry.key] = entry
            if not answer.more:
                return Snapshot(revision, entries, answer.header.cluster_id)
            start = answer.kvs[-1].key + b"\0"

    async def _delete(self, request: Any, what: str) -> int:
        answer = await self.transport.call(
            self.transport.stubs.kv.DeleteRange, request, f"delete {what}"
        )
        return int(answer.deleted)
