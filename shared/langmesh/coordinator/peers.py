"""The other coordinators: what one tells another, and the owner's side of dealing.

An owner gets submissions from the coordinator that deals them out, answers what became of each, and
reports how much it has to do, so that the dealer takes no more than all can drive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from langmesh.bus import Bus
from langmesh.bus.pull import Delivery
from langmesh.coordinator.admission import Admission
from langmesh.coordinator.decisions import Decision
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.ownership import Ownership
from langmesh.errors import MeshError
from langmesh.wire import subjects
from langmesh.wire.peers import (
    ASKER_HEADER,
    OwnerLoad,
    PeerMessage,
    SubmissionDealt,
    SubmissionDecided,
    decode,
    encode,
)
from langmesh.wire.rpc import RpcFault

log = logging.getLogger(__name__)

_REPORT_AFTER_S: Final = 0.005


class Peers:
    """Hears the other coordinators, and tells them what becomes of the submissions dealt here.

    Args:
        bus: The connection.
        instance: This coordinator.
        ownership: Who owns what.
        admission: Makes runs of submissions here.
        runs: What is driven here.
    """

    def __init__(
        self,
        bus: Bus,
        instance: str,
        ownership: Ownership,
        admission: Admission,
        runs: LiveRuns,
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._ownership = ownership
        self._admission = admission
        self._runs = runs
        self._settled: list[int] = []
        self._report: asyncio.TimerHandle | None = None
        self._dealer: str | None = None
        self.on_decided: Callable[[SubmissionDecided], None] = _ignore
        """Told what became of a submission elsewhere."""
        self.on_load: Callable[[OwnerLoad], None] = _ignore
        """Told how much another coordinator has to do, or this one."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear the others while the block runs."""
        self._runs.on_load = self._on_load
        self._ownership.on_change(self._on_ownership)
        end = await self._bus.listen(subjects.peer(self._instance), self._on_message)
        try:
            yield
        finally:
            if self._report is not None:
                self._report.cancel()
            await end()

    def send(self, instance: str, message: PeerMessage) -> None:
        """Tell another coordinator something; it is lost if that is gone."""
        self._bus.send(subjects.peer(instance), encode(message))

    async def _on_message(self, body: bytes) -> None:
        try:
            heard = decode(body)
        except MeshError as exc:
            log.error("%s", exc.message)  # noqa: TRY400  its origin tells no more
            return
        match heard:
            case SubmissionDealt():
                self._on_dealt(heard)
            case SubmissionDecided():
                self.on_decided(heard)
            case OwnerLoad():
                self.on_load(heard)

    def _on_dealt(self, dealt: SubmissionDealt) -> None:
        delivery = Delivery(
            self._bus,
            subject=dealt.subject,
            body=dealt.body,
            headers=dealt.headers,
            reply=dealt.reply,
        )
        to = {dealt.dealer, dealt.headers.get(ASKER_HEADER, dealt.dealer)}

        def tell(decision: Decision) -> None:
            message = self._decided(delivery.stream_seq, decision)
            for instance in to:
                self.send(instance, message)

        self._admission.deal(delivery, tell, again=dealt.again)

    def _decided(self, seq: int, decision: Decision) -> SubmissionDecided:
        error = decision.error
        return SubmissionDecided(
            seq=seq,
            owner=self._instance,
            in_flight=self._runs.in_flight,
            run=decision.run,
            error=None
            if error is None
            else RpcFault(
                code=error.code,
                message=error.message,
                remedy=error.remedy,
                retryable=error.retryable,
            ),
            returned=decision.returned,
        )

    def _on_load(self, settled: int) -> None:
        """Report soon; of what is dealt here at once.

        Args:
            settled: The submission whose run is over or asks; 0 for another change.
        """
        if settled:
            self._settled.append(settled)
        if self._ownership.dealer == self._instance:
            self._tell_load()
        elif self._report is None:
            loop = asyncio.get_running_loop()
            self._report = loop.call_later(_REPORT_AFTER_S, self._tell_load)

    def _tell_load(self) -> None:
        self._report = None
        dealer = self._ownership.dealer
        if dealer is None:
            # Whoever deals next hears it all from :meth:`_on_ownership`.
            return
        settled, self._settled = self._settled, []
        message = OwnerLoad(owner=self._instance, in_flight=self._runs.in_flight, settled=settled)
        if dealer == self._instance:
            self.on_load(message)
        else:
            self.send(dealer, message)

    def _on_ownership(self) -> None:
        if self._ownership.dealer != self._dealer:
            self._dealer = self._ownership.dealer
            self._tell_load()


def _ignore(_: object) -> None:
    """Nobody deals here."""
