"""One admitted call, from its ticket to its only settlement: what it used, how it ended, what it is charged."""

from __future__ import annotations

from gateway.clock import monotonic_seconds
from gateway.proxy.admission.controller import Ticket
from gateway.proxy.admission.idempotency import Keeping
from gateway.proxy.forward.upstream_response import NOT_REPORTED, Answer
from gateway.proxy.metering.observers import File, FileObserver, UnitObserver, observe_units
from gateway.proxy.settle.settlement import Settlement, Settler
from policies.model import Outcome
from policies.pricing.charges import Ending, charge, is_charged_status
from policies.pricing.units import Count, CountSource, PriceUnit
from policies.usage import records


class Call:
    """Counts what passes and settles once. `is_settled` guards the second settlement, whoever asks for it."""

    __slots__ = (
        "_settler",
        "charged",
        "elapsed_seconds",
        "files",
        "forwarded_at",
        "is_settled",
        "keeping",
        "outcome",
        "received_at",
        "reported",
        "request_bytes",
        "response_bytes",
        "ticket",
        "units",
        "upstream_seconds",
        "was_sent",
    )

    def __init__(self, ticket: Ticket, settler: Settler, *, received_at: float, files: FileObserver | None) -> None:
        self.ticket = ticket
        self.is_settled = False
        self.outcome: Outcome | None = None
        self.charged = 0
        self.was_sent = True
        self.request_bytes = 0
        self.response_bytes = 0
        self.forwarded_at: float | None = None
        self.elapsed_seconds = 0.0
        self.upstream_seconds: float | None = None
        self.files = files
        self.units: UnitObserver | None = None
        self.keeping = None if ticket.ask.claim is None else Keeping(ticket.ask.claim)
        self.reported = NOT_REPORTED
        self._settler = settler
        self.received_at = received_at

    def known_charge(self, status: int) -> int | None:
        """The charge as far as the response head decides it: not where units are still to be counted."""
        if self.reported.credits is None and not self.ticket.ask.match.route.price.is_known_at_admission:
            return None
        return self._charge(Outcome.SUCCEEDED, status, units=None)

    def outcome_of(self, status: int) -> Outcome:
        """How a complete answer of the upstream counts."""
        charged = is_charged_status(self.ticket.ask.match.route, status)
        return Outcome.SUCCEEDED if charged else Outcome.UPSTREAM_ERROR

    async def settle(self, outcome: Outcome, status: int | None, *, error_code: str | None = None) -> int | None:
        """Charges and records the call; gives the balance, or None where it was settled before or is owed."""
        if self.is_settled:
            return None
        self.is_settled = True
        self.outcome = outcome
        instant = monotonic_seconds()
        self.elapsed_seconds = instant - self.received_at
        if self.forwarded_at is not None:
            self.upstream_seconds = instant - self.forwarded_at
        units = self._units_used()
        self.charged = self._charge(outcome, status, units=units)
        settlement = Settlement(
            self.ticket.caller.keys,
            self.ticket.ask.request_id,
            self.charged,
            self._tail(outcome, status, error_code, units),
            self.ticket.head,
            self.ticket.admission.epoch,
            None if self.keeping is None else self.keeping.kept(self.charged),
        )
        return await self._settler.settle(settlement)

    def observe_response(self, answer: Answer) -> None:
        """Takes what the upstream reports of itself, and sets up counting where the price asks for it."""
        self.reported = answer.reported
        price = self.ticket.ask.match.route.price
        if price.source is CountSource.RESPONSE:
            self.units = observe_units(price, answer.content_type, answer.content_encoding)

    def passed(self, chunk: bytes) -> None:
        """Notes a piece of the answer on its way to the client."""
        self.response_bytes += len(chunk)
        if self.units is not None and chunk:
            self.units.feed(chunk)
        if self.keeping is not None:
            self.keeping.feed(chunk)

    def _units_used(self) -> Count | None:
        price = self.ticket.ask.match.route.price
        if price.source is None and price.unit.seconds is not None:
            return price.unit.elapsed(self.upstream_seconds or 0.0)
        units = self.units.units() if self.units is not None else None
        return self.reported.tokens if units is None else units

    def _charge(self, outcome: Outcome, status: int | None, *, units: Count | None) -> int:
        route = self.ticket.ask.match.route
        ending = Ending(outcome, status, self.reported.credits, self.was_sent)
        return charge(route, route.price, ending, held=self.ticket.held, units=units).credits

    def _tail(self, outcome: Outcome, status: int | None, error_code: str | None, units: Count | None) -> str:
        file = _NO_FILE if self.files is None else self.files.file()
        is_token_priced = self.ticket.ask.match.route.price.unit is PriceUnit.TOKEN
        tokens = (
            self.reported.tokens
            if self.reported.tokens is not None
            else int(units)
            if is_token_priced and units is not None
            else None
        )
        return records.tail(
            outcome,
            status,
            error_code,
            self.charged,
            tokens,
            self.reported.cost_usd,
            self.request_bytes,
            self.response_bytes,
            file.size_bytes,
            int(self.elapsed_seconds * 1000),
            None if self.upstream_seconds is None else int(self.upstream_seconds * 1000),
            _NOTHING_SAID if file is _NO_FILE else _said_of(file),
        )


def _said_of(file: File) -> str:
    """The last columns, from the metadata on, of which there are none yet."""
    return records.part(None, records.text(file.name), file.sha256, records.text(file.content_type))


_NO_FILE = File()
_NOTHING_SAID = _said_of(_NO_FILE)
