"""Answer requests as a NATS micro service, each in a task of its own.

A micro service is found by ``nats micro ls`` and its like. Its handlers run one after the other, so
that here a handler only starts a task; the library's processing times measure no more than that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import nats.errors
import nats.micro
from nats.micro.request import Request as MicroRequest
from nats.micro.service import Service, ServiceConfig

from langmesh.bus.client import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec
from langmesh.wire.rpc import RpcError, RpcFault

log = logging.getLogger(__name__)

IN_FLIGHT_MAX: Final = 256
_SUBJECT_SHOWN_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks."""

    subject: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PassOn:
    """What a handler returns for a request that somebody else shall answer."""

    subject: str
    body: bytes
    headers: dict[str, str]


RequestHandler = Callable[[Request], Awaitable[Any]]
"""Returns the reply, anything that JSON can show, or :class:`PassOn`; raises MeshError to answer
with an error."""


class RpcServer:
    """Answers every request on a subject while it is entered.

    Requests beyond ``in_flight_max`` are answered with BUSY at once, and so are those in work when
    the server stops. What a handler raises besides MeshError is logged, and answered with INTERNAL
    and nothing else.

    Args:
        bus: The connection.
        name: The micro service's name: letters, digits, ``-`` and ``_``.
        version: Its semantic version.
        subjects: What to answer, by the endpoint's name; they may have wildcards.
        handler: Called for each request.
        metadata: Shown with the service.
        in_flight_max: How many requests may be in work at once.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        version: str,
        subjects: Mapping[str, str],
        handler: RequestHandler,
        metadata: dict[str, str] | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        self._bus = bus
        self._config = ServiceConfig(
            name=name, version=version, metadata=metadata or {}, queue_group=name
        )
        self._subjects = subjects
        self._handler = handler
        self._in_flight_max = in_flight_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._service: Service | None = None

    async def __aenter__(self) -> Self:
        """Begin to answer; of several servers of one name, each request reaches one."""
        self._service = await nats.micro.add_service(self._bus.client, self._config)
        for name, subject in self._subjects.items():
            await self._service.add_endpoint(
                name=name, subject=subject, handler=self._on_request, metadata={}
            )
        await self._bus.flush()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take no more requests, and tell all that were taken and have no answer to ask again."""
        assert self._service is not None
        try:
            # Service.stop drops the requests that have arrived and wait for the handler.
            for endpoint in self._service._endpoints:  # noqa: SLF001
                await endpoint._subscription.drain()  # noqa: SLF001
            self._service._endpoints.clear()  # noqa: SLF001
            await self._service.stop()
        except nats.errors.Error as failure:
            log.info("the service is not withdrawn in good order: %r", failure)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_request(self, request: MicroRequest) -> None:
        """Start to answer; called by the library, which must not wait."""
        if len(self._tasks) >= self._in_flight_max:
            problem = f"{self._in_flight_max} requests are in work, which is as many as may be"
            await self._refuse(request, MeshError(ErrorCode.BUSY, problem))
            return
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: MicroRequest) -> None:
        asked = Request(request.subject, request.data, request.headers or {})
        try:
            answer = await self._handler(asked)
            if isinstance(answer, PassOn):
                await self._pass_on(request, answer)
            else:
                await _send(request, codec.encode_json(answer))
        except MeshError as exc:
            await self._refuse(request, exc)
        except asyncio.CancelledError:
            await self._refuse(request, MeshError(ErrorCode.BUSY, "this coordinator stops"))
            raise
        except Exception:
            log.exception("request on %s failed", asked.subject[:_SUBJECT_SHOWN_MAX])
            await self._refuse(request, MeshError(ErrorCode.INTERNAL, "the request failed"))

    async def _pass_on(self, request: MicroRequest, to: PassOn) -> None:
        """Let somebody else answer to whoever asked."""
        reply: str = request._msg.reply  # noqa: SLF001  the library does not show it
        try:
            await self._bus.client.publish(to.subject, to.body, reply, to.headers or None)
        except (nats.errors.Error, ValueError) as exc:
            log.info("a request on %s is not passed on: %r", to.subject, exc)

    @staticmethod
    async def _refuse(request: MicroRequest, exc: MeshError) -> None:
        fault = RpcFault(
            code=exc.code, message=exc.message, remedy=exc.remedy, retryable=exc.retryable
        )
        await _send(request, codec.encode_json(RpcError(error=fault)))


async def _send(request: MicroRequest, body: bytes) -> None:
    try:
        await request.respond(body)
    except (nats.errors.Error, ValueError) as exc:
        # Whoever published without a reply subject, or is cut off, wants or gets no answer.
        log.info("a request on %s has no answer: %r", request.subject[:_SUBJECT_SHOWN_MAX], exc)
