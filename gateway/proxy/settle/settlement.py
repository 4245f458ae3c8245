"""That every admitted call is settled: at once where Redis takes it, else again and again until it does.

What Redis does not take is owed, and put down in the spool before the client has its whole answer. Settling is
idempotent by request id, so whatever is unknown is simply settled again, by this process or by the one that finds its
spool; and a call that was swept meanwhile is corrected.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.keys import AccountKeys
from gateway.meter.meter import Meter
from gateway.proxy.admission.outage_credit import FLOATING, Float
from gateway.proxy.settle.spool import Chunk, Spool, SpoolFile

MAX_KEPT = 10_000  # some 10 MB: calls that neither Redis nor the disk takes
BATCH = 128
ADOPT_SECONDS = 10.0  # how long a spool waits for an heir while other processes live
_log = structlog.get_logger()


class Settlement(NamedTuple):
    """The end of one call: what it is charged, and the tail of its record.

    With the `head` of the record and the `epoch` of its admission it is made up for where Redis has lost the call.
    `kept` is what is left of the claim of a call with an Idempotency-Key.
    """

    keys: AccountKeys
    request_id: str
    charge: int
    tail: str
    head: str = ""
    epoch: str = ""
    kept: ClaimOutcome | None = None


class Settler:
    """Settles calls; owes what Redis has not taken yet. Use it as a context manager, which opens and leaves the spool.

    `kept` is owed too, but no file has it (the disk is full), or has passed it (Redis refuses it, for a reason that
    waiting does not mend). While there is any, no file is thrown away.
    """

    idle_seconds = 0.1

    def __init__(self, meter: Meter, spool: Spool, floating: Float | None = None) -> None:
        self._meter = meter
        self._spool = spool
        self._float = floating or Float(None)
        self._kept: deque[Settlement] = deque()
        self._refusal: Exception | None = None
        self._adopt_at = 0.0

    def __repr__(self) -> str:
        return f"<Settler {self.owed} owed>"

    @property
    def owed(self) -> int:
        """How many settlements Redis has not taken yet."""
        return len(self._kept) + self._spool.unsettled

    async def __aenter__(self) -> Settler:
        self._spool.open()
        self._show()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._spool.close()

    async def settle(self, settlement: Settlement) -> int | None:
        """The balance after the call, or None where Redis could not say: the settlement is then owed."""
        try:
            return await self._send(settlement)
        except MeterUnavailable:
            self.owe(settlement)
        except MeterError as error:
            _log.error("Redis refuses a settlement", request_id=settlement.request_id, reason=str(error))
            self.owe(settlement)
        except asyncio.CancelledError:
            self.owe(settlement)  # it may have been taken; settling twice changes nothing
            raise
        return None

    def owe(self, settlement: Settlement) -> None:
        """Settles later, for a caller that cannot wait. Survives this process where the disk takes it.

        Answers are not spooled: a repeat is told that there is none.
        """
        if settlement.kept is not None:
            settlement = settlement._replace(kept=settlement.kept.without_response)
        try:
            self._spool.append(_encoded(settlement))
        except OSError as error:
            metrics.SPOOL_FAILURES.inc()
            _log.error("a settlement is not spooled", request_id=settlement.request_id, reason=str(error))
            self._keep(settlement)
        self._show()

    async def run_once(self) -> int:
        """Settles what is owed, until Redis is away again; gives how many were settled.

        Raises MeterUnavailable; and at the end MeterError if Redis refused some.
        """
        settled = 0
        self._adopt()
        try:
            settled += await self._settle_kept()
            for file in self._spool.files():
                settled += await self._settle_file(file)
        finally:
            if settled:
                self._show()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        return settled

    def _adopt(self) -> None:
        instant = monotonic_seconds()
        if instant >= self._adopt_at:
            self._adopt_at = instant + ADOPT_SECONDS
            self._spool.adopt()

    async def _settle_kept(self) -> int:
        settled = 0
        for _ in range(0, len(self._kept), BATCH):
            batch = [self._kept.popleft() for _ in range(min(BATCH, len(self._kept)))]
            try:
                settled += await self._settle_all(batch)
            except BaseException:
                self._kept.extendleft(reversed(batch))
                raise
        return settled

    async def _settle_file(self, file: SpoolFile) -> int:
        settled = 0
        while (chunk := file.next()) is not None:
            settled += await self._settle_all(list(self._decoded(file, chunk)))
            file.passed(chunk)
        if not self._kept:
            self._spool.finished(file)
        return settled

    async def _settle_all(self, settlements: Sequence[Settlement]) -> int:
        """All of them at once. Raises MeterUnavailable, after which all of them are owed as before."""
        results = await asyncio.gather(*map(self._send, settlements), return_exceptions=True)
        for result in results:
            if isinstance(result, MeterUnavailable | asyncio.CancelledError):
                raise result
        refused = 0
        for settlement, result in zip(settlements, results, strict=True):
            if isinstance(result, Exception):
                self._refusal = result
                self._keep(settlement)
                refused += 1
        return len(settlements) - refused

    def _keep(self, settlement: Settlement) -> None:
        """The hold of a lost one is swept when this process has ended; it then charges nobody."""
        if len(self._kept) < MAX_KEPT:
            self._kept.append(settlement)
            return
        metrics.SETTLEMENTS_LOST.inc()
        _log.error("a settlement is lost", request_id=settlement.request_id, credits=settlement.charge)

    def _decoded(self, file: SpoolFile, chunk: Chunk) -> Iterator[Settlement]:
        for record in chunk.records:
            try:
                yield self._settlement(record)
            except ValueError:
                file.is_damaged = True  # whole, but nothing that we wrote

    def _settlement(self, record: bytes) -> Settlement:
        match json.loads(record):
            case [*most, str(digest), str(print_), bool(stays)] if len(most) == 6:
                kept = ClaimOutcome(IdempotencyClaim(digest, print_), b"" if stays else None)
                return self._settlement(json.dumps(most).encode())._replace(kept=kept)
            case [str(request_id), str(account_id), int(charge), str(tail), str(head), str(epoch)]:
                return Settlement(self._meter.keys(UUID(account_id)), request_id, charge, tail, head, epoch)
            case [str(request_id), str(account_id), int(charge), str(tail)]:  # written before there were epochs
                return Settlement(self._meter.keys(UUID(account_id)), request_id, charge, tail)
        raise ValueError("not a settlement")

    def _send(self, settlement: Settlement) -> Coroutine[Any, Any, int | None]:
        keys, request_id, charge, tail, head, epoch, kept = settlement
        sent = self._meter.settle(keys, request_id, charge=charge, tail=tail, head=head, epoch=epoch, kept=kept)
        return self._floated(request_id, sent) if epoch == FLOATING else sent

    async def _floated(self, request_id: str, sent: Coroutine[Any, Any, int | None]) -> int | None:
        balance = await sent
        self._float.settled(request_id)
        return balance

    def _show(self) -> None:
        metrics.SPOOL_ENTRIES.set(self.owed)


def _encoded(settlement: Settlement) -> bytes:
    """One line of ASCII."""
    keys, request_id, charge, tail, head, epoch, kept = settlement
    claimed = () if kept is None else (*kept.claim, kept.answer is not None)
    return json.dumps([request_id, str(keys.account_id), charge, tail, head, epoch, *claimed]).encode()
