"""The server behind the requests: bounded, never silent, never talkative about its inside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.errors import NoRespondersError

from langmesh.bus.service import Request, RpcServer
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import LocalMesh
from tests.rpc.kit import Asker, error_code

SUBJECT = "mesh.v1.rpc.*.>"


class Handler:
    """Waits when asked to, and fails when asked to."""

    def __init__(self) -> None:
        self.waiting = 0
        self.go_on = asyncio.Event()
        self.full = asyncio.Event()

    async def __call__(self, request: Request) -> dict[str, str]:
        if request.body == b"wait":
            self.waiting += 1
            if self.waiting == 3:
                self.full.set()
            await self.go_on.wait()
        if request.body == b"defect":
            raise RuntimeError("the secret of the house")
        if request.body == b"refuse":
            raise MeshError(ErrorCode.UNKNOWN_RUN, "no such run")
        return {"subject": request.subject}


def server(mesh: LocalMesh, handler: Handler) -> RpcServer:
    return RpcServer(
        mesh.bus,
        name="test",
        version="1.0.0",
        subjects={"rpc": SUBJECT},
        handler=handler,
        in_flight_max=3,
    )


async def begin(ask: Asker, handler: Handler) -> list[asyncio.Task[dict[str, Any]]]:
    """As many requests as may be in work, all of them in work."""
    waiting = [asyncio.create_task(ask.raw("some.verb", b"wait")) for _ in range(3)]
    async with asyncio.timeout(30):
        await handler.full.wait()
    return waiting


async def test_more_than_can_be_in_work_is_told_to_come_again(mesh: LocalMesh, ask: Asker) -> None:
    handler = Handler()
    async with server(mesh, handler):
        waiting = await begin(ask, handler)
        refused = await ask.raw("some.verb", b"")
        assert (error_code(refused), refused["error"]["retryable"]) == ("busy", True)
        handler.go_on.set()
        for reply in await asyncio.gather(*waiting):
            assert reply == {"subject": "mesh.v1.rpc.default.some.verb"}
        assert "subject" in await ask.raw("some.verb", b"")


async def test_a_defect_is_logged_and_not_told(
    mesh: LocalMesh, ask: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(mesh, Handler()):
        told = await ask.raw("some.verb", b"defect")
        assert error_code(told) == "internal"
        assert "secret" not in str(told)
        assert "the secret of the house" in caplog.text
        assert error_code(await ask.raw("some.verb", b"refuse")) == "unknown_run"


async def test_requests_in_work_are_answered_when_the_server_stops(
    mesh: LocalMesh, ask: Asker
) -> None:
    handler = Handler()
    async with server(mesh, handler):
        waiting = await begin(ask, handler)
    assert [error_code(reply) for reply in await asyncio.gather(*waiting)] == ["busy"] * 3


@pytest.mark.parametrize("turns", range(5))
async def test_no_request_goes_unheard_when_the_server_stops(
    mesh: LocalMesh, ask: Asker, turns: int
) -> None:
    """However far they have come: each is answered, or told that there is nobody."""
    async with server(mesh, Handler()):
        assert "subject" in await ask.raw("some.verb", b"")
        asked = [asyncio.create_task(ask.raw("some.verb", b"wait")) for _ in range(500)]
        for _ in range(turns):
            await asyncio.sleep(0)
    for reply in await asyncio.gather(*asked, return_exceptions=True):
        if not isinstance(reply, NoRespondersError):
            assert isinstance(reply, dict), repr(reply)
            assert error_code(reply) == "busy"


async def test_whoever_wants_no_answer_gets_none(mesh: LocalMesh, ask: Asker) -> None:
    async with server(mesh, Handler()):
        await ask.client.publish("mesh.v1.rpc.default.some.verb", b"refuse")
        assert "subject" in await ask.raw("some.verb", b"")


async def test_each_request_reaches_one_of_several_servers(mesh: LocalMesh, ask: Asker) -> None:
    counts = [0, 0]

    class Counting(Handler):
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

        async def __call__(self, request: Request) -> dict[str, str]:
            counts[self.index] += 1
            return await super().__call__(request)

    async with server(mesh, Counting(0)), server(mesh, Counting(1)):
        for _ in range(40):
            await ask.raw("some.verb", b"")
    assert sum(counts) == 40
    assert all(counts)
