"""One gRPC channel to etcd: its settings, deadlines, repeats, login and errors."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from etcd3 import etcdrpc

from langmesh import clock
from langmesh.errors import ErrorCode, MeshError

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest answer that is accepted; gRPC's own 4 MB is less than one batch of a watch that catches
up."""

_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A watch on a dead connection hears nothing: ping it. etcd drops clients that ping more often
    # than every 5 s, or while no call is open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 0),
    # A connection of its own: on one shared with a blocked event loop, that loop's unread watch
    # could use up the flow-control window that another loop's lease needs.
    ("grpc.use_local_subchannel_pool", 1),
)
_OUTCOME_UNKNOWN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)
_TOKEN_STALE: Final = ("invalid auth token", "revision of auth store is old")
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 1.0


class HistoryLost(MeshError):
    """etcd no longer has, or never had, the revision that was asked for; read the prefix anew."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.REGISTRY_REJECTED, message)


class AnswerTooLarge(MeshError):
    """An answer exceeds ``MESSAGE_BYTES_MAX`` bytes; ask for less at once."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.REGISTRY_REJECTED, message)


class _Stubs:
    """A channel, and etcd's services on it; their messages and methods have no types."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.kv: Any = etcdrpc.KVStub(channel)
        self.leases: Any = etcdrpc.LeaseStub(channel)
        self.watches: Any = etcdrpc.WatchStub(channel)
        self.auth: Any = etcdrpc.AuthStub(channel)


class Transport:
    """A channel with its stubs; belongs to the event loop that opened it.

    Args:
        endpoints: ``HOST:PORT`` of each member.
        user: Name to log in with; no login without.
        password: The user's password.
        tls: Channel credentials; plain text without.
        timeout_s: Seconds in which a call must be answered.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        user: str | None,
        password: str | None,
        tls: grpc.ChannelCredentials | None,
        timeout_s: float,
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.where = f"etcd at {', '.join(self.endpoints)}"
        self.timeout_s = timeout_s
        self._user = user
        self._password = password
        self._tls = tls
        self._token: str | None = None
        self._login_lock = asyncio.Lock()
        self._stubs: _Stubs | None = None

    @property
    def stubs(self) -> _Stubs:
        """The stubs of the open channel.

        Raises:
            MeshError: REGISTRY_UNAVAILABLE when it is not open.
        """
        if self._stubs is None:
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"{self.where}: the client is not open",
                remedy="Use it inside `async with Etcd(...)`.",
            )
        return self._stubs

    async def open(self) -> None:
        """Make the channel; the connection follows with the first call."""
        target, options = await _target(self.endpoints)
        if self._tls is None:
            channel = grpc.aio.insecure_channel(target, options)
        else:
            channel = grpc.aio.secure_channel(target, self._tls, options)
        self._stubs = _Stubs(channel)

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        if self._stubs is not None:
            stubs, self._stubs = self._stubs, None
            await stubs.channel.close(grace=None)

    async def call(
        self,
        method: Any,
        request: Any,
        what: str,
        *,
        repeat: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """Make one unary call, waiting for a connection if there is none.

        Args:
            method: A stub's method.
            request: Its protobuf message.
            what: The request in words, for error messages.
            repeat: Whether it is safe to send the request again when its outcome is unknown.
            timeout_s: Seconds for everything; the transport's own when omitted.

        Raises:
            MeshError: REGISTRY_UNAVAILABLE (outcome unknown) or REGISTRY_REJECTED.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = clock.monotonic() + limit_s
        pause_s = _PAUSE_FIRST_S
        while True:
            metadata = await self.metadata()
            left_s = max(deadline - clock.monotonic(), _PAUSE_FIRST_S)
            try:
                return await method(
                    request,
                    # A first attempt that hangs leaves time for a second.
                    timeout=left_s / 2 if repeat else left_s,
                    metadata=metadata,
                    wait_for_ready=True,
                )
            except grpc.aio.AioRpcError as exc:
                if self.forget_stale_token(exc.details() or "") and clock.monotonic() < deadline:
                    continue
                again = repeat and exc.code() in _OUTCOME_UNKNOWN
                if not again or clock.monotonic() + pause_s >= deadline:
                    self.fail(exc, what, limit_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every request carries: the login's token, if there is a login.

        Raises:
            MeshError: As :meth:`call` if the login fails.
        """
        if self._user is None:
            return ()
        async with self._login_lock:
            if self._token is None:
                self._token = await self._login()
            return (("token", self._token),)

    def forget_stale_token(self, reason: str) -> bool:
        """Whether etcd's reason is an expired login; if so the next request logs in again."""
        if self._token is None or not any(text in reason for text in _TOKEN_STALE):
            return False
        self._token = None
        return True

    def fail(self, exc: grpc.aio.AioRpcError, what: str, limit_s: float) -> NoReturn:
        """Raise the MeshError for a failed call."""
        code = exc.code()
        reason = f"{code.name}: {exc.details() or 'no reason given'}"
        if code in _OUTCOME_UNKNOWN:
            within = f" within {limit_s:g} s" if code is grpc.StatusCode.DEADLINE_EXCEEDED else ""
            raise MeshError(
                ErrorCode.REGISTRY_UNAVAILABLE,
                f"{self.where} did not answer {what}{within} ({reason})",
            ) from exc
        message = f"{self.where} refused {what} ({reason})"
        if code is grpc.StatusCode.OUT_OF_RANGE:
            raise HistoryLost(message) from exc
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in reason:
            raise AnswerTooLarge(message) from exc
        raise MeshError(ErrorCode.REGISTRY_REJECTED, message) from exc

    async def _login(self) -> str:
        request = etcdrpc.AuthenticateRequest(name=self._user, password=self._password)
        try:
            answer = await self.stubs.auth.Authenticate(
                request, timeout=self.timeout_s, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as exc:
            self.fail(exc, f"the login of {self._user!r}", self.timeout_s)
        return str(answer.token)


async def _target(endpoints: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    """The channel's target and options.

    One endpoint stays a name, which gRPC resolves anew whenever the connection breaks. gRPC takes
    several only as addresses, so the names among several are resolved once, here.

    Raises:
        MeshError: REGISTRY_UNAVAILABLE if a name does not resolve.
    """
    if len(endpoints) == 1:
        return f"dns:///{endpoints[0]}", list(_OPTIONS)
    addresses: list[str] = []
    first_host = ""
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        host = host.strip("[]")
        first_host = first_host or host
        addresses.extend(f"{address}:{port}" for address in await _resolve(host, endpoint))
    # Certificates name hosts; the members of one cluster are taken to share the first one's name.
    return f"ipv4:{','.join(addresses)}", [*_OPTIONS, ("grpc.ssl_target_name_override", first_host)]


async def _resolve(host: str, endpoint: str) -> list[str]:
    try:
        return [str(ipaddress.IPv4Address(host))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, None, family=socket.AF_INET, type=socket.SOCK_STREAM
        )
    except OSError as exc:
        raise MeshError(
            ErrorCode.REGISTRY_UNAVAILABLE, f"etcd at {endpoint}: {host!r} does not resolve ({exc})"
        ) from exc
    return [str(address[4][0]) for address in found]
