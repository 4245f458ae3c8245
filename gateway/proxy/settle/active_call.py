"""One admitted call until it is settled: what it used, how it ended, what it is charged."""

from __future__ import annotations

from gateway.clock import monotonic_seconds
from gateway.proxy.admission.admitted_call import AdmittedCall
from gateway.proxy.admission.idempotency import ResponseCapture
from gateway.proxy.forward.upstream_response import NOT_REPORTED, UpstreamResponse
from gateway.proxy.metering.observers import FileObserver, UnitObserver, UploadedFile, observe_units
from gateway.proxy.settle.settlement import Settler
from gateway.proxy.settle.settlement_record import Settlement
from policies.model import Outcome
from policies.pricing.charges import Ending, charge, is_charged_status
from policies.pricing.units import Count, CountSource, PriceUnit
from policies.usage import records


class ActiveCall:
    """Counts what passes, and settles once: `is_settled` makes a second settlement do nothing."""

    __slots__ = (
        "_settler",
        "admitted_call",
        "capture",
        "charge",
        "elapsed_seconds",
        "file_observer",
        "forwarded_at",
        "is_settled",
        "outcome",
        "received_at",
        "reported",
        "request_bytes",
        "response_bytes",
        "route",
        "unit_observer",
        "upstream_seconds",
        "was_sent",
    )

    def __init__(
        self,
        admitted_call: AdmittedCall,
        settler: Settler,
        *,
        received_at: float,
        file_observer: FileObserver | None,
    ) -> None:
        self.admitted_call = admitted_call
        self.route = admitted_call.route
        self.is_settled = False
        self.outcome: Outcome | None = None
        self.charge = 0
        self.was_sent = True
        self.request_bytes = 0
        self.response_bytes = 0
        self.forwarded_at: float | None = None
        self.elapsed_seconds = 0.0
        self.upstream_seconds: float | None = None
        self.file_observer = file_observer
        self.unit_observer: UnitObserver | None = None
        self.capture = None if admitted_call.claim is None else ResponseCapture(admitted_call.claim)
        self.reported = NOT_REPORTED
        self._settler = settler
        self.received_at = received_at

    def known_charge(self, status: int) -> int | None:
        """The charge, if the response head decides it; None where units are still to be counted."""
        if self.reported.credits is None and not self.route.price.is_known_at_admission:
            return None
        return self._charge(Outcome.SUCCEEDED, status, units=None)

    def outcome_of(self, status: int) -> Outcome:
        """How a complete response of the upstream counts."""
        return Outcome.SUCCEEDED if is_charged_status(self.route, status) else Outcome.UPSTREAM_ERROR

    async def settle(self, outcome: Outcome, status: int | None, *, error_code: str | None = None) -> int | None:
        """Charges and records the call. Gives the balance; None if the call was settled before, or is queued."""
        if self.is_settled:
            return None
        self.is_settled = True
        self.outcome = outcome
        instant = monotonic_seconds()
        self.elapsed_seconds = instant - self.received_at
        if self.forwarded_at is not None:
            self.upstream_seconds = instant - self.forwarded_at
        units = self._units_used()
        self.charge = self._charge(outcome, status, units=units)
        call = self.admitted_call
        settlement = Settlement(
            call.caller.keys,
            call.request_id,
            self.charge,
            self._record_suffix(outcome, status, error_code, units),
            call.record_prefix,
            call.admission.epoch,
            None if self.capture is None else self.capture.finish(self.charge),
            call.is_on_outage_credit,
        )
        return await self._settler.settle(settlement)

    def observe_response(self, response: UpstreamResponse) -> None:
        """Takes what the upstream reports of the call, and counts units from here on if the price is by them."""
        self.reported = response.reported
        price = self.route.price
        if price.source is CountSource.RESPONSE:
            self.unit_observer = observe_units(price, response.content_type, response.content_encoding)

    def observe_chunk(self, chunk: bytes) -> None:
        """Counts a piece of the response on its way to the client."""
        self.response_bytes += len(chunk)
        if self.unit_observer is not None and chunk:
            self.unit_observer.feed(chunk)
        if self.capture is not None:
            self.capture.feed(chunk)

    def _units_used(self) -> Count | None:
        price = self.route.price
        if price.source is None and price.unit.seconds is not None:
            return price.unit.elapsed(self.upstream_seconds or 0.0)
        units = self.unit_observer.units() if self.unit_observer is not None else None
        return self.reported.tokens if units is None else units

    def _tokens_used(self, units: Count | None) -> int | None:
        if self.reported.tokens is not None:
            return self.reported.tokens
        return int(units) if units is not None and self.route.price.unit is PriceUnit.TOKEN else None

    def _charge(self, outcome: Outcome, status: int | None, *, units: Count | None) -> int:
        ending = Ending(outcome, status, self.reported.credits, self.was_sent)
        return charge(self.route, self.route.price, ending, held=self.admitted_call.hold, units=units).credits

    def _record_suffix(self, outcome: Outcome, status: int | None, error_code: str | None, units: Count | None) -> str:
        file = _NO_FILE if self.file_observer is None else self.file_observer.file()
        return records.suffix(
            outcome=outcome,
            status_code=status,
            error_code=error_code,
            credits_charged=self.charge,
            tokens_used=self._tokens_used(units),
            cost_usd=self.reported.cost_usd,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            file_size_bytes=file.size_bytes,
            response_time_ms=int(self.elapsed_seconds * 1000),
            upstream_time_ms=None if self.upstream_seconds is None else int(self.upstream_seconds * 1000),
            file=_NO_FILE_COLUMNS if file is _NO_FILE else _file_columns(file),
        )


def _file_columns(file: UploadedFile) -> str:
    name, content_type = records.text(file.name), records.text(file.content_type)
    return records.file_columns(metadata=None, file_name=name, file_sha256=file.sha256, content_type=content_type)


_NO_FILE = UploadedFile()
_NO_FILE_COLUMNS = _file_columns(_NO_FILE)
