"""One admitted call until it is settled: what it used, how it ended, what it is charged."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any

from gateway.clock import monotonic_seconds
from gateway.meter.replay_buffer import Settlement
from gateway.proxy.admission.admitted_call import AdmittedCall
from gateway.proxy.admission.idempotency import ResponseCapture
from gateway.proxy.forward.upstream_response import NOT_REPORTED, UpstreamResponse
from gateway.proxy.metering.readers.reading import ResponseReading
from gateway.proxy.metering.usage_events import UsageEventRemover, open_remover
from gateway.proxy.metering.usage_meter import NOT_MEASURED, UsageMeter, open_meter
from gateway.proxy.request.body import StreamedBody
from gateway.proxy.request.uploads import FileObserver, UploadedFile
from gateway.proxy.settle.settlement import Settler
from gateway.upstream.request_head import Request
from policies.model import Outcome
from policies.pricing import model_costs
from policies.pricing.charges import (
    MAX_CHARGE,
    UNCHARGED,
    Charge,
    Ending,
    Metered,
    bounded,
    charge,
    charge_by_list,
    charge_fixed,
    charge_free,
    charge_tokens,
    charged_statuses,
)
from policies.pricing.model_costs import Flag
from policies.pricing.price import Price
from policies.pricing.price_list import PriceList
from policies.pricing.units import Count, PriceUnit
from policies.usage import records
from policies.usage.counts import MissingReason, Usage, UsageSource
from policies.usage.recorded import NO_USAGE, UsageRecord, usage_record

# Ends a stream of events of OpenAI's; client libraries close their connection after it. Text within an event holds no
# line end, so it cannot pass for this one.
_LAST_EVENT = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\]\s*\Z")
_LAST_EVENT_BYTES = 20
# Looking up a member takes 50 ns.
_SUCCEEDED, _CLIENT_ABORTED, _UPSTREAM_ERROR = Outcome.SUCCEEDED, Outcome.CLIENT_ABORTED, Outcome.UPSTREAM_ERROR
_NO_USAGE_SOURCE, _TOKEN = UsageSource.NONE, PriceUnit.TOKEN


class ActiveCall:
    """Counts what passes, and settles once: `is_settled` makes a second settlement do nothing.

    `request` is the one towards the upstream, once it is made, and `upload` its body where that is streamed.
    """

    __slots__ = (
        "_settler",
        "admitted_call",
        "capture",
        "charge",
        "elapsed_seconds",
        "file_observer",
        "flags",
        "forwarded_at",
        "has_delivered_all",
        "hides_usage",
        "is_complete",
        "is_cost_unknown",
        "is_settled",
        "last_bytes",
        "missing",
        "outcome",
        "received_at",
        "reported",
        "request",
        "request_bytes",
        "response_bytes",
        "route",
        "upload",
        "upstream_request_id",
        "upstream_seconds",
        "usage_event_remover",
        "usage_meter",
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
        self.flags: tuple[Flag, ...] = ()
        self.request: Request | None = None
        self.upload: StreamedBody | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.forwarded_at: float | None = None
        self.elapsed_seconds = 0.0
        self.upstream_seconds: float | None = None
        self.file_observer = file_observer
        self.usage_meter: UsageMeter | None = None
        self.usage_event_remover: UsageEventRemover | None = None
        self.missing: MissingReason | None = None
        self.is_cost_unknown = False
        self.hides_usage = False
        self.is_complete = False
        self.last_bytes = b""
        self.has_delivered_all = False
        claim, is_stored = admitted_call.claim, admitted_call.stores_response
        self.capture = None if claim is None else ResponseCapture(claim, is_stored=is_stored)
        self.reported = NOT_REPORTED
        self.upstream_request_id: str | None = None
        self._settler = settler
        self.received_at = received_at

    def known_charge(self, status: int) -> int | None:
        """The charge, if the response head decides it; None where usage is still to be measured."""
        if self.reported.credits is None and not self.route.price.is_fixed:
            return None
        charge, call = self._charge(Outcome.SUCCEEDED, status, NOT_MEASURED), self.admitted_call
        return bounded(charge, call.plan.max_credits_per_call, is_cut=call.quote.is_cut).credits

    def observe_disconnect(self) -> None:
        """Notes whether the client had all content when it left, as client libraries do after the last event."""
        reading = NOT_MEASURED if self.usage_meter is None else self.usage_meter.reading()
        self.has_delivered_all = (
            reading.is_complete
            or reading.is_error  # which client libraries raise, and close
            or _LAST_EVENT.search(self.last_bytes, len(self.last_bytes) - _LAST_EVENT_BYTES) is not None
        )

    def settle(
        self, outcome: Outcome | None, status: int | None, *, error_code: str | None = None, is_refused: bool = False
    ) -> Coroutine[Any, Any, int | None]:
        """Charges and records the call. Gives the balance; None if the call was settled before, or is queued.

        Without an `outcome` the response is complete, and counts by its status. A call that the gateway refused before
        the upstream answered is charged nothing.
        """
        if self.is_settled:
            return _nothing()
        self.is_settled = True
        if self.upload is not None:
            self.request_bytes = self.upload.size_bytes
        reading = NOT_MEASURED if self.usage_meter is None else self.usage_meter.reading()
        if outcome is None or (outcome is _CLIENT_ABORTED and self.has_delivered_all and status is not None):
            outcome = _SUCCEEDED if status in charged_statuses(self.route.charge_on) else _UPSTREAM_ERROR
        if reading.is_error and outcome is _SUCCEEDED:
            outcome = _UPSTREAM_ERROR
        self.outcome = outcome
        instant = monotonic_seconds()
        self.elapsed_seconds = instant - self.received_at
        if self.forwarded_at is not None:
            self.upstream_seconds = instant - self.forwarded_at
        charge, call = UNCHARGED if is_refused else self._charge(outcome, status, reading), self.admitted_call
        if call.plan.max_credits_per_call is not None or charge.credits > MAX_CHARGE:
            charge = bounded(charge, call.plan.max_credits_per_call, is_cut=call.quote.is_cut)
        self.charge, self.flags = charge.credits, charge.flags
        if charge.source in _UNREPORTED:
            self.missing = _missing(outcome, reading, charge)
        settlement = Settlement(
            call.caller.keys,
            call.request_id,
            self.charge,
            self._record_suffix(outcome, status, error_code, reading=reading, charge=charge),
            call.record_prefix,
            call.admission.epoch,
            None if self.capture is None else self.capture.finish(self.charge),
            call.is_on_outage_credit,
        )
        return self._settler.settle(settlement)

    def observe_response(self, response: UpstreamResponse) -> None:
        """Takes what the upstream reports of the call, and measures its usage from here on if the price is by it."""
        self.reported = response.reported
        call = self.admitted_call
        if response.request_id != (call.inbound.client_request_id or call.request_id):  # else it is an echo
            self.upstream_request_id = response.request_id
        price = self.route.price
        if not price.is_fixed and not call.quote.is_retrieval:
            self.usage_meter = open_meter(
                price, response.content_type, response.content_encoding, response.token_counts
            )
        if self.hides_usage:
            self.usage_event_remover = open_remover(response.content_type, response.content_encoding)

    def observe_chunk(self, chunk: bytes) -> bytes:
        """Measures a piece of the response; gives what of it the client gets."""
        if self.usage_meter is not None and chunk:
            self.usage_meter.feed(chunk)
            if self.usage_event_remover is not None:
                chunk = self.usage_event_remover.feed(chunk)
        self.response_bytes += len(chunk)
        if chunk:
            tail = chunk if len(chunk) > _LAST_EVENT_BYTES else self.last_bytes + chunk  # the network may cut an event
            self.last_bytes = tail[-_LAST_EVENT_BYTES - 1 :]  # not the chunk, which would stay in memory
        if self.capture is not None:
            self.capture.feed(chunk)
        return chunk

    def observe_end(self, chunk: bytes) -> bytes:
        """Measures the last piece of a complete response; gives what of it the client gets."""
        if self.usage_meter is None and self.capture is None:
            self.response_bytes += len(chunk)
            return chunk
        self.is_complete = True
        passed = self.observe_chunk(chunk)
        if self.usage_event_remover is not None and (rest := self.usage_event_remover.finish()):
            self.response_bytes += len(rest)
            passed += rest
            if self.capture is not None:
                self.capture.feed(rest)
        if self.capture is not None:
            self.capture.is_complete = True
        return passed

    def _charge(self, outcome: Outcome, status: int | None, reading: ResponseReading) -> Charge:
        price, quote, reported = self.route.price, self.admitted_call.quote, self.reported.credits
        was_sent = status is not None or self._was_sent()
        if isinstance(price, Price) and price.is_fixed:
            return charge_fixed(
                self.route,
                price,
                outcome,
                status,
                held=quote.hold,
                reported_credits=reported,
                was_sent=was_sent,
                asked_units=quote.units,
            )
        usage, text_bytes, is_complete, model_price = (
            reading.usage,
            reading.text_bytes,
            reading.is_complete,
            quote.model_price,
        )
        if (
            isinstance(price, PriceList)
            and model_price is not None
            and outcome is _SUCCEEDED
            and reported is None
            and price.unit is _TOKEN
        ):
            return charge_tokens(
                price, model_price, usage, quote.body_bytes, text_bytes=text_bytes, is_final=is_complete
            )
        is_whole = self.is_complete or reading.units is None
        ending = Ending(outcome, status, reported, was_sent, reading.is_error, is_whole)
        if not isinstance(price, PriceList):
            units = self._units_used(price, reading.units)
            return charge(self.route, price, ending, held=quote.hold, units=units, asked_units=quote.units)
        if quote.model_price is None:
            return charge_free(self.route, price, ending)
        cost_usd = self.reported.cost_usd
        if price.unit is PriceUnit.USD and cost_usd is not None and (usage is None or usage.cost_usd is None):
            usage = (usage or Usage())._replace(cost_usd=cost_usd)
        metered = Metered(usage, quote.body_bytes, text_bytes, is_final=is_complete)
        return charge_by_list(self.route, price, quote.model_price, ending, held=quote.hold, metered=metered)

    def _was_sent(self) -> bool:
        """Whether the upstream had the whole request."""
        is_begun = self.request is not None and self.request.is_sent
        return is_begun and (self.upload is None or self.upload.is_complete)

    def _units_used(self, price: Price, measured: Count | None) -> Count | None:
        if price.unit is PriceUnit.CALL:
            return None
        if price.source is None and price.unit.seconds is not None:
            return price.unit.elapsed(self.upstream_seconds or 0.0)
        if measured is not None:
            return measured
        if price.unit is PriceUnit.USD:
            return self.reported.cost_usd
        return self.reported.tokens if price.unit is _TOKEN else None

    def _tokens_used(self, reading: ResponseReading, charge: Charge) -> int | None:
        if self.reported.tokens is not None:
            return self.reported.tokens
        usage = reading.usage if charge.usage is None else charge.usage
        if usage is not None:
            return usage.total
        price = self.route.price
        is_token_priced = isinstance(price, Price) and price.unit is PriceUnit.TOKEN
        return int(reading.units) if is_token_priced and reading.units is not None else None

    def _record_suffix(
        self, outcome: Outcome, status: int | None, error_code: str | None, *, reading: ResponseReading, charge: Charge
    ) -> str:
        file = _NO_FILE if self.file_observer is None else self.file_observer.file()
        asked, cost_usd, upstream_id = self.admitted_call.quote.model, self.reported.cost_usd, self.upstream_request_id
        is_plain = charge.source is _NO_USAGE_SOURCE and not charge.flags
        is_plain = is_plain and asked is None and cost_usd is None and upstream_id is None
        usage = NO_USAGE if is_plain else self._usage_record(reading, charge)
        return records.suffix(
            outcome=outcome,
            status_code=status,
            error_code=error_code,
            credits_charged=self.charge,
            tokens_used=self.reported.tokens if reading is NOT_MEASURED else self._tokens_used(reading, charge),
            cost_usd=usage.cost_usd,
            usage=usage.columns,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            file_size_bytes=file.size_bytes,
            response_time_ms=int(self.elapsed_seconds * 1000),
            upstream_time_ms=None if self.upstream_seconds is None else int(self.upstream_seconds * 1000),
            metadata=usage.metadata,
            file=_NO_FILE_COLUMNS if file is _NO_FILE else _file_columns(file),
        )

    def _usage_record(self, reading: ResponseReading, charge: Charge) -> UsageRecord:
        asked, cost_usd = self.admitted_call.quote.model, self.reported.cost_usd
        if cost_usd is None and reading.usage is not None:
            cost_usd = reading.usage.cost_usd
        price = self.route.price
        if cost_usd is None and isinstance(price, PriceList) and price.costs is not None:
            cost_usd = model_costs.cost_usd(price.costs, charge.usage, served=reading.model, asked=asked)
            self.is_cost_unknown = cost_usd is None and self.outcome in _ANSWERED
        return usage_record(
            charge.source,
            charge.usage,
            asked=asked,
            served=reading.model,
            cost_usd=cost_usd,
            flags=charge.flags,
            upstream_request_id=self.upstream_request_id,
        )


_UNREPORTED = frozenset({UsageSource.ESTIMATED, UsageSource.MISSING})
_ANSWERED = frozenset({Outcome.SUCCEEDED, Outcome.CLIENT_ABORTED})  # others cost what they report, mostly nothing


async def _nothing() -> None:
    """What a second settlement gives."""


def _missing(outcome: Outcome, reading: ResponseReading, charge: Charge) -> MissingReason | None:
    """Why the usage that the charge needs was not reported; None where nothing is charged by it."""
    if outcome is Outcome.CLIENT_ABORTED:
        return MissingReason.LEFT if charge.credits or charge.usage is not None else None
    return (reading.missing or MissingReason.ABSENT) if outcome is Outcome.SUCCEEDED else None


def _file_columns(file: UploadedFile) -> str:
    name, content_type = records.text(file.name), records.text(file.content_type)
    return records.file_columns(file_name=name, file_sha256=file.sha256, content_type=content_type)


_NO_FILE = UploadedFile()
_NO_FILE_COLUMNS = _file_columns(_NO_FILE)
