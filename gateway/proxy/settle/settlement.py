"""Settles every admitted call: at once where Redis takes the settlement, else from the spool until Redis does.

A settlement that Redis did not take is spooled before the client has its whole response. Settling is idempotent by
request id: whatever is unknown is settled again, by this process or by the one that recovers its spool. A call that was
swept in the meantime is corrected.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence

import structlog

from gateway import metrics
from gateway.clock import monotonic_seconds
from gateway.logs import LogPace
from gateway.meter.client.errors import MeterError, MeterUnavailable
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.proxy.admission.outage_credit import OutageCredit
from gateway.proxy.settle.settlement_record import NewerRelease, decode, encode
from gateway.proxy.settle.spool import Chunk, Spool, SpoolFile

MAX_IN_MEMORY = 10_000  # settlements that neither Redis nor the disk takes: some 10 MB
BATCH = 128
RECOVERY_INTERVAL_SECONDS = 10.0  # how often this process looks for spools of dead ones
_log = structlog.get_logger()


class Settler:
    """Settles calls, and queues what Redis has not taken yet. As a context manager it opens and closes the spool.

    `_in_memory` are pending settlements that no file holds: the disk was full, or Redis refuses them for a reason that
    waiting does not mend. While there are any, no file is removed. Those that only give back what may have been held
    make room for the others.
    """

    idle_seconds = 0.1

    def __init__(self, meter: Meter, spool: Spool, outage_credit: OutageCredit | None = None) -> None:
        self._meter = meter
        self._spool = spool
        self._outage_credit = outage_credit or OutageCredit(None)
        self._in_memory: deque[Settlement] = deque()
        self._give_backs: deque[Settlement] = deque()
        self._refusal: Exception | None = None
        self._log_pace = LogPace()
        self._recover_at = 0.0

    def __repr__(self) -> str:
        return f"<Settler {self.pending} pending>"

    @property
    def pending(self) -> int:
        """How many settlements Redis has not taken yet."""
        return len(self._in_memory) + len(self._give_backs) + self._spool.pending

    async def __aenter__(self) -> Settler:
        self._spool.open()
        self._update_gauge()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._spool.close()

    async def settle(self, settlement: Settlement) -> int | None:
        """The balance after the call; None where Redis did not answer, and the settlement is queued."""
        if settlement.is_on_outage_credit:
            self._outage_credit.record_end(settlement.request_id)
        try:
            balance = await self._meter.settle(settlement)
        except MeterUnavailable:
            self.enqueue(settlement)
        except MeterError as error:
            if (unlogged := self._log_pace.unlogged("settlement_refused")) is not None:
                _log.error("settlement_refused", request_id=settlement.request_id, reason=str(error), unlogged=unlogged)
            self.enqueue(settlement)
        except asyncio.CancelledError:
            self.enqueue(settlement)  # Redis may have taken it; settling twice changes nothing
            raise
        else:
            if settlement.is_on_outage_credit:
                self._outage_credit.release(settlement.request_id)
            return balance
        return None

    def enqueue(self, settlement: Settlement) -> None:
        """Queues a settlement for a caller that cannot wait. It survives this process where the disk takes it.

        Stored responses are not spooled: a replay finds that there is none.
        """
        settlement = settlement.without_response()
        try:
            self._spool.append(encode(settlement))
        except OSError as error:
            metrics.SPOOL_FAILURES.inc()
            if (unlogged := self._log_pace.unlogged("settlement_not_spooled")) is not None:
                _log.error(
                    "settlement_not_spooled", request_id=settlement.request_id, reason=str(error), unlogged=unlogged
                )
            self._enqueue_in_memory(settlement)
        self._update_gauge()

    async def run_once(self) -> int:
        """Settles what is pending until Redis is away again; gives how many were settled.

        Raises MeterUnavailable; and at the end MeterError if Redis refused some.
        """
        settled = 0
        self._recover_orphans()
        try:
            settled += await self._settle_in_memory()
            for file in self._spool.files():
                settled += await self._settle_file(file)
        finally:
            if settled:
                self._update_gauge()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        return settled

    def _recover_orphans(self) -> None:
        instant = monotonic_seconds()
        if instant >= self._recover_at:
            self._recover_at = instant + RECOVERY_INTERVAL_SECONDS
            self._spool.recover_orphans()
            self._spool.reserve()
            self._update_gauge()

    async def _settle_in_memory(self) -> int:
        return await self._settle_queue(self._in_memory) + await self._settle_queue(self._give_backs)

    async def _settle_queue(self, queue: deque[Settlement]) -> int:
        settled = 0
        for _ in range(0, len(queue), BATCH):
            batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
            try:
                settled += await self._settle_batch(batch)
            except BaseException:
                queue.extendleft(reversed(batch))
                raise
        return settled

    async def _settle_file(self, file: SpoolFile) -> int:
        settled = 0
        while (chunk := file.next_chunk()) is not None:
            try:
                settlements = list(self._decode_chunk(file, chunk))
            except NewerRelease as error:
                self._spool.release(file, reason=str(error))
                self._update_gauge()
                return settled
            settled += await self._settle_batch(settlements)
            file.advance(chunk)
        if not self._in_memory and not self._give_backs:
            self._spool.discard(file)
        return settled

    async def _settle_batch(self, settlements: Sequence[Settlement]) -> int:
        """Settles all of them at once. Raises MeterUnavailable, after which all of them are pending as before."""
        results = await asyncio.gather(*map(self._meter.settle, settlements), return_exceptions=True)
        for result in results:
            if isinstance(result, MeterUnavailable | asyncio.CancelledError):
                raise result
        refused = 0
        for settlement, result in zip(settlements, results, strict=True):
            if settlement.is_on_outage_credit and not isinstance(result, BaseException):
                self._outage_credit.release(settlement.request_id)
            if isinstance(result, Exception):
                self._refusal = result
                self._enqueue_in_memory(settlement)
                refused += 1
        return len(settlements) - refused

    def _enqueue_in_memory(self, settlement: Settlement) -> None:
        """The hold of a lost settlement is swept when this process has ended; the call is then charged nothing."""
        is_give_back = not settlement.charge and not settlement.record_prefix
        if len(self._in_memory) + len(self._give_backs) >= MAX_IN_MEMORY:
            lost = self._give_backs.popleft() if self._give_backs and not is_give_back else settlement
            metrics.SETTLEMENTS_LOST.inc()
            if (unlogged := self._log_pace.unlogged("settlement_lost")) is not None:
                _log.error("settlement_lost", request_id=lost.request_id, credits=lost.charge, unlogged=unlogged)
            if lost is settlement:
                return
        (self._give_backs if is_give_back else self._in_memory).append(settlement)

    def _decode_chunk(self, file: SpoolFile, chunk: Chunk) -> Iterator[Settlement]:
        for record in chunk.records:
            try:
                yield decode(record, self._meter.keys)
            except ValueError:
                file.is_damaged = True  # its checksum is right, but no settlement was written so

    def _update_gauge(self) -> None:
        metrics.SPOOL_ENTRIES.set(self.pending)
        metrics.SPOOL_NEWER_FILES.set(self._spool.newer)
