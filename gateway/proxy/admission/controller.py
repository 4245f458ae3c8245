"""Whether a call may pass: who asks, what the policies say of it, and one question to the meter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from gateway.clock import now
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.meter.admissions import Admission
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.idempotency import ClaimOutcome, IdempotencyClaim
from gateway.meter.meter import Meter
from gateway.meter.replies import Verdict
from gateway.proxy.admission import idempotency
from gateway.proxy.admission.account_loader import Warming
from gateway.proxy.admission.idempotency import Repeated
from gateway.proxy.admission.outage_credit import Float
from gateway.proxy.admission.principals import Caller, Principals
from gateway.proxy.admission.refusal_cache import Floods
from gateway.proxy.request.body import WholeBody
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.router import Match
from gateway.proxy.settle.settlement import Settlement
from policies.access import admission, key_budgets
from policies.access.key_budgets import Cap
from policies.model import Outcome, Plan, Refusal, Refused, Subscription
from policies.pricing import prices
from policies.usage import records

# An epoch to enter, a version that has moved, an account to load, a key to count; more in a row are an outage.
ATTEMPTS = 6


class NotAdmitted(Refused):
    """The meter said no. Carries its answer, so that the client is told what is left."""

    def __init__(self, caller: Caller, admission: Admission, refused: Refused) -> None:
        super().__init__(refused.code, refused.detail, **refused.extras)
        self.caller = caller
        self.admission = admission


class Indeterminate(Refused):
    """Redis went away while asking: the call may have been admitted, so its hold must be given back."""

    def __init__(self) -> None:
        refused = _unmetered()
        super().__init__(refused.code, refused.detail, **refused.extras)


class Clearance(NamedTuple):
    """A caller that the policies let through, and the subscription that pays."""

    caller: Caller
    subscription: Subscription


class Ask(NamedTuple):
    """What is asked of the gate: a request, its route, and what its body was found to hold.

    `said` are the columns of its record that come from what it says of itself, and of where it came from.
    """

    request_id: str
    inbound: Inbound
    match: Match
    key: bytes
    said: str
    items: int | None = None
    claim: IdempotencyClaim | None = None


def ask_of(
    request_id: str, inbound: Inbound, match: Match, *, key: bytes, body: WholeBody | None, repeats_by: str | None
) -> Ask:
    """What a request says of itself comes from its fields, else from a body that was read anyway.

    `repeats_by` is the digest of its Idempotency-Key; its body was read then.
    """
    if body is None:
        remembered = inbound.remembered
        if remembered.said is None:
            remembered.said = _said(inbound, None)
        return Ask(request_id, inbound, match, key, remembered.said)
    claim = None if repeats_by is None else idempotency.claim_of(repeats_by, inbound, body)
    return Ask(request_id, inbound, match, key, _said(inbound, body), items=body.items, claim=claim)


def _said(inbound: Inbound, body: WholeBody | None) -> str:
    def fact(field: bytes, member: str) -> str:
        value = inbound.text(field)
        return records.text(body.text(member) if value is None and body is not None else value)

    return records.part(
        fact(b"x-language-code", "language_code"),
        fact(b"x-category", "category"),
        fact(b"x-batch-id", "batch_id"),
        inbound.client_ip or None,
        inbound.client_request_id,
    )


class Ticket(NamedTuple):
    """An admitted call: whose it is and what is held for it."""

    ask: Ask
    caller: Caller
    subscription: Subscription
    held: int
    admission: Admission
    head: str


class Gate:
    def __init__(
        self,
        principals: Principals,
        meter: Meter,
        warming: Warming,
        *,
        owe: Callable[[Settlement], None],
        grace: timedelta,
        floating: Float | None = None,
    ) -> None:
        """`owe` settles later what may have been admitted unseen."""
        self._principals = principals
        self._meter = meter
        self._warming = warming
        self._owe = owe
        self._grace = grace
        self._float = floating or Float(None)
        self._floods = Floods()

    def clear(self, inbound: Inbound, match: Match, caller: Caller) -> Clearance | None:
        """Lets a caller through to a route; None where it would be refused by knowledge that may be old."""
        try:
            return self._check(inbound, match, caller)
        except Refused:
            return None

    async def check(self, inbound: Inbound, match: Match, key: bytes, *, caller: Caller) -> Clearance:
        """The same; raises Refused by the knowledge of this moment."""
        return self._check(inbound, match, await self._confirm(key, caller))

    async def admit(self, ask: Ask, clearance: Clearance) -> Ticket:
        """Holds the price of the call, or raises Refused or Repeated: then nothing was counted and nothing charged."""
        try:
            return await self._admit(ask, clearance)
        except Refused as refused:
            ticket = self._float_on(ask, clearance) if refused.code is Refusal.METERING_UNAVAILABLE else None
            if ticket is not None:
                return ticket
            if isinstance(refused, Indeterminate):
                self._owe(_given_back(ask, clearance.caller, refused.code))
            raise
        except asyncio.CancelledError:
            self._owe(_given_back(ask, clearance.caller, None))
            raise

    async def _admit(self, ask: Ask, clearance: Clearance) -> Ticket:
        for _ in range(ATTEMPTS):
            if ask.items is not None:
                clearance = await self._check_batch(ask, ask.items, clearance)
            caller, subscription = clearance
            held = _held(ask)
            required = prices.required(ask.match.route.price, held)
            if ask.claim is None and (said := self._floods.standing(caller)) is not None:
                raise NotAdmitted(caller, *said)
            head = _head(ask, caller)
            answer = await self._ask_meter(ask, caller, held=held, required=required, head=head)
            if answer.verdict is Verdict.ADMITTED:
                self._floods.ended(caller)
                self._float.saw(caller.principal.account.id, subscription.plan, answer)
                return Ticket(ask, caller, subscription, held, answer, head)
            if answer.verdict is Verdict.STALE:
                clearance = self._check(ask.inbound, ask.match, await self._principals.reload(ask.key))
            elif answer.verdict in (Verdict.NOT_LOADED, Verdict.BUDGET_NOT_LOADED):
                await self._warm(caller, answer.verdict)
            elif answer.verdict is Verdict.WRONG_EPOCH:
                continue  # the next attempt enters the new epoch
            elif answer.verdict is Verdict.EPOCH_NOT_OPEN:
                raise _unmetered()
            elif answer.verdict is Verdict.IDEMPOTENT_REPLAY:
                raise Repeated(ask.match.route, caller, answer)
            else:
                refused = _refusal(answer, max(held, 1), subscription.plan, caller.cap)
                self._floods.note(caller, answer, refused)
                raise NotAdmitted(caller, answer, refused)
        raise Refused(Refusal.ACCOUNTS_UNAVAILABLE, "This account keeps changing; try again shortly.", retry_after=1)

    def _float_on(self, ask: Ask, clearance: Clearance) -> Ticket | None:
        """Serves without Redis, where that is allowed. Redis may hold for the call unseen; settling ends that too.

        Not a call with an Idempotency-Key: only Redis knows whether it was made before. Nor one by a key with a cap:
        only Redis knows what the key has spent.
        """
        if ask.claim is not None or clearance.caller.cap is not None:
            return None
        caller, subscription = clearance
        held = _held(ask)
        answer = self._float.take(
            caller.principal.account.id,
            ask.request_id,
            plan=subscription.plan,
            limits=caller.limits,
            amount=held,
            required=prices.required(ask.match.route.price, held),
        )
        return None if answer is None else Ticket(ask, caller, subscription, held, answer, _head(ask, caller))

    def _check(self, inbound: Inbound, match: Match, caller: Caller) -> Clearance:
        principal = caller.principal
        subscription = admission.check_caller(
            principal.key,
            principal.account,
            match.route,
            now=now(),
            client_ip=inbound.client_ip,
            size_bytes=inbound.content_length,
            grace=self._grace,
            offered=self._principals.offered,
        )
        return Clearance(caller, subscription)

    async def _check_batch(self, ask: Ask, items: int, clearance: Clearance) -> Clearance:
        try:
            prices.check_batch(items, clearance.subscription.plan.max_products_per_batch)
        except Refused:
            clearance = self._check(ask.inbound, ask.match, await self._confirm(ask.key, clearance.caller))
            prices.check_batch(items, clearance.subscription.plan.max_products_per_batch)
        return clearance

    async def _confirm(self, key: bytes, caller: Caller) -> Caller:
        try:
            return await self._principals.confirm(key, caller)
        except MeterUnavailable:
            return caller  # may refuse wrongly for a moment, never admits wrongly

    async def _ask_meter(self, ask: Ask, caller: Caller, *, held: int, required: int, head: str) -> Admission:
        principal = caller.principal
        try:
            return await self._meter.admit(
                caller.keys,
                request_id=ask.request_id,
                account_version=principal.account_version,
                catalogue_version=principal.catalogue_version,
                amount=held,
                required=required,
                limits=caller.limits,
                head=head,
                claim=ask.claim,
                cap=caller.cap,
            )
        except NotSent:
            raise _unmetered() from None
        except MeterUnavailable:
            raise Indeterminate from None

    async def _warm(self, caller: Caller, verdict: Verdict) -> None:
        try:
            if verdict is Verdict.BUDGET_NOT_LOADED and caller.cap is not None:
                await self._warming.count(caller.keys, caller.cap)
            else:
                await self._warming.warm(caller.keys)
        except DatabaseUnavailable:
            raise Refused(
                Refusal.ACCOUNTS_UNAVAILABLE, "The account's balance cannot be read; try again shortly.", retry_after=1
            ) from None
        except MeterUnavailable:
            raise _unmetered() from None


def _given_back(ask: Ask, caller: Caller, code: str | None) -> Settlement:
    """The settlement of a call that may have been admitted unseen: nothing charged; nothing happens if it was not."""
    tail = records.tail(Outcome.ABANDONED, None, code, 0, *[None] * (len(records.TAIL_COLUMNS) - 4))
    kept = None if ask.claim is None else ClaimOutcome(ask.claim, None)
    return Settlement(caller.keys, ask.request_id, 0, tail, kept=kept)


def _unmetered() -> Refused:
    return Refused(
        Refusal.METERING_UNAVAILABLE, "Calls cannot be metered at the moment; try again shortly.", retry_after=1
    )


def _refusal(admitted: Admission, required: int, plan: Plan, cap: Cap | None) -> Refused:
    if admitted.verdict is Verdict.RATE_LIMITED:
        wait = admitted.retry_after_seconds
        return admission.rate_limited(plan, admitted.violated, retry_after_seconds=wait)
    if admitted.verdict is Verdict.TOO_MANY_IN_FLIGHT:
        return admission.too_many_in_flight(plan)
    if admitted.verdict is Verdict.INSUFFICIENT_CREDITS:
        return admission.insufficient_credits(required, admitted.balance)
    if admitted.verdict is Verdict.KEY_BUDGET_EXHAUSTED and cap is not None:
        return key_budgets.exhausted(cap, required, available=admitted.budget_remaining)
    return idempotency.refusal(admitted.verdict)


def _held(ask: Ask) -> int:
    held = ask.match.held
    return prices.hold(ask.match.route.price, ask.items) if held is None else held


def _head(ask: Ask, caller: Caller) -> str:
    """A call that counts against a cap is of the period that the cap is of, also where our clock is behind."""
    moment = time.time_ns() // 1000
    if caller.cap is not None and moment < caller.cap.since:
        moment = caller.cap.since
    return records.head(
        ask.request_id,
        moment,
        caller.record_part,
        ask.match.record_part,
        1 if ask.items is None else ask.items,
        ask.said,
    )
