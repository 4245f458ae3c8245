"""Whether a call may pass: the policies decide by what is cached of its caller, then Redis decides by one script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Literal

from gateway.clock import now
from gateway.ledger.db.session import DatabaseUnavailable
from gateway.meter.admissions import Admission
from gateway.meter.client.errors import MeterUnavailable, NotSent
from gateway.meter.idempotency import ClaimOutcome
from gateway.meter.meter import Meter
from gateway.meter.replay_buffer import Settlement
from gateway.meter.replies import Verdict
from gateway.proxy.admission import idempotency
from gateway.proxy.admission.account_loader import AccountLoader
from gateway.proxy.admission.admitted_call import AdmissionRequest, AdmittedCall, render_record_prefix
from gateway.proxy.admission.caller import Authorization, Caller, PassedRoute
from gateway.proxy.admission.idempotency import IdempotentReplay, ReplayPace
from gateway.proxy.admission.outage_credit import OutageCredit
from gateway.proxy.admission.principal_cache import PrincipalCache
from gateway.proxy.admission.refusal_cache import RefusalCache
from gateway.proxy.request.inbound import Inbound
from gateway.proxy.router import RouteMatch
from policies.access import key_budgets
from policies.access.admission import (
    AccountSnapshot,
    check_request,
    check_snapshot,
    insufficient_credits,
    paying_subscription,
    rate_limited,
    too_many_in_flight,
)
from policies.access.authorization import check_size, max_body_bytes
from policies.access.key_budgets import Cap
from policies.model import Plan, Refusal, Refused
from policies.pricing import quotes
from policies.pricing.price_list import PriceList
from policies.pricing.quotes import Quote, quote_by_list, quote_plain
from policies.usage import records

# An epoch to enter, a version that has moved, an account to load, a key to count; more in a row are an outage.
ATTEMPTS = 6
_ADMITTED = Verdict.ADMITTED  # looking up a member takes 50 ns


class NotAdmitted(Refused):
    """Redis refused the call. Carries its reply, for the limits and credits in the response."""

    def __init__(self, caller: Caller, admission: Admission, refused: Refused) -> None:
        super().__init__(refused.code, refused.detail, **refused.extras)
        self.caller = caller
        self.admission = admission


class AdmissionController:
    def __init__(
        self,
        principals: PrincipalCache,
        meter: Meter,
        account_loader: AccountLoader,
        *,
        enqueue_settlement: Callable[[Settlement], None],
        grace: timedelta,
        outage_credit: OutageCredit | None = None,
        stored_for: Literal["paid_plans", "all_plans", "nobody"] = "all_plans",
    ) -> None:
        """`enqueue_settlement` settles later what may have been admitted unseen.

        `stored_for` says whose responses are stored for their Idempotency-Key.
        """
        self._principals = principals
        self._meter = meter
        self._account_loader = account_loader
        self._enqueue_settlement = enqueue_settlement
        self._grace = grace
        self._outage_credit = outage_credit or OutageCredit(None)
        self._refusal_cache = RefusalCache()
        self._replay_pace = ReplayPace()
        self._stored_for = stored_for

    def authorize_cached(self, inbound: Inbound, match: RouteMatch, caller: Caller) -> Authorization | None:
        """Authorizes a caller for a route by what is cached; None where that would refuse it, for it may be old.

        A caller whom one subscription lets through whenever it calls is checked once for each route, and the size of
        its bodies each time.
        """
        route, subscription = match.route, caller.lasting_subscription
        passed = caller.passed_routes.get(route.name)
        try:
            if subscription is None or passed is None or passed.route is not route:
                authorization = self._authorize(inbound, match, caller)
                caller.passed_routes[route.name] = PassedRoute(route, authorization.max_body_bytes)
                return authorization
            if inbound.content_length:
                check_size(inbound.content_length, passed.max_body_bytes)
        except Refused:
            return None
        return Authorization(caller, subscription, passed.max_body_bytes)

    async def authorize(self, inbound: Inbound, match: RouteMatch, key: bytes, *, caller: Caller) -> Authorization:
        """Authorizes a caller for a route by what is known at this moment; raises Refused."""
        return self._authorize(inbound, match, await self._confirm(key, caller))

    async def check_before_body(self, authorization: Authorization, key: bytes) -> None:
        """Raises Refused where windows or calls in flight refuse the call by now, so that no body is read for it.

        Changes nothing. What cannot be told at the moment is left to the admission.
        """
        caller, limits = authorization.caller, authorization.caller.limits
        if (cached := self._refusal_cache.find(caller)) is not None:
            raise NotAdmitted(caller, *cached)
        if limits.in_flight is None and not any(limit is not None for limit in limits.per_window):
            return
        try:
            snapshot = await self._meter.account_snapshot(caller.keys, limits)
        except MeterUnavailable:
            return
        if snapshot is None:
            return
        try:
            check_snapshot(snapshot, limits, authorization.plan, required=0)
        except Refused as refused:
            if await self._confirm(key, caller) is caller:
                raise NotAdmitted(caller, _admission_of(snapshot), refused) from None

    async def admit(self, request: AdmissionRequest, authorization: Authorization) -> AdmittedCall:
        """Holds the price of the call. Raises Refused or IdempotentReplay: then nothing is counted or charged."""
        if request.claim is not None:
            self._replay_pace.check(authorization.caller.account_id)
        for _ in range(ATTEMPTS):
            quote = request.match.quote
            if quote is None:
                try:
                    quote = self._quote(request, authorization.subscription.plan)
                except Refused:
                    authorization, quote = await self._quote_again(request, authorization.caller)
            caller, plan = authorization.caller, authorization.subscription.plan
            if plan.max_credits_per_call is not None:
                quote = quotes.within_plan(quote, plan.max_credits_per_call)
            refusals = self._refusal_cache
            if refusals.by_key and request.claim is None and (cached := refusals.find(caller)) is not None:
                raise NotAdmitted(caller, *cached)
            prefix = render_record_prefix(request, caller, quote)
            try:
                admission = await self._meter.admit(
                    caller.keys,
                    request_id=request.request_id,
                    account_version=caller.principal.account_version,
                    catalogue_version=caller.principal.catalogue_version,
                    amount=quote.hold,
                    required=quote.required,
                    limits=caller.limits,
                    prefix=prefix,
                    claim=request.claim,
                    cap=caller.cap,
                )
                if admission.verdict is not _ADMITTED:
                    authorization = await self._prepare_next_attempt(request, authorization, quote, admission=admission)
                    continue
            except MeterUnavailable as error:
                return self._admit_without_redis(request, authorization, quote, prefix=prefix, error=error)
            except asyncio.CancelledError:
                self._enqueue_settlement(_release(request, caller, None))
                raise
            refusals.by_key.pop(caller.digest, None)
            self._outage_credit.record_admission(caller.account_id, plan, admission)
            request_id, inbound, match, _, _, _, claim = request
            route, path, upstream_path = match.route, match.path, match.upstream_path
            max_bytes = authorization.max_body_bytes
            admitted_call = AdmittedCall(
                request_id,
                inbound,
                route,
                path,
                upstream_path,
                claim,
                caller,
                plan,
                max_bytes,
                quote,
                admission,
                prefix,
            )
            return admitted_call if claim is None else self._with_storage(admitted_call)
        raise await self._give_up(authorization.caller)

    async def _give_up(self, caller: Caller) -> Refused:
        """The refusal after the last attempt.

        Begins an epoch if Redis knows of a change that PostgreSQL has lost: every later call of the account would fail.
        """
        with suppress(DatabaseUnavailable, MeterUnavailable):
            await self._account_loader.check_history(caller.keys)
        detail = "This account keeps changing; try again shortly."
        return Refused(Refusal.ACCOUNTS_UNAVAILABLE, detail, retry_after=1)

    async def _prepare_next_attempt(
        self, request: AdmissionRequest, authorization: Authorization, quote: Quote, *, admission: Admission
    ) -> Authorization:
        """Loads what Redis lacks, or raises what ends the admission; gives the authorization of the next attempt.

        Raises NotSent where Redis cannot serve: the attempt has held nothing.
        """
        caller, plan = authorization.caller, authorization.plan
        match admission.verdict:
            case Verdict.STALE:
                caller = await self._principals.reload(request.key)
                return self._authorize(request.inbound, request.match, caller)
            case Verdict.NOT_LOADED | Verdict.BUDGET_NOT_LOADED:
                await self._load(caller, admission.verdict)
            case Verdict.WRONG_EPOCH:
                pass  # the next attempt enters the new epoch
            case Verdict.EPOCH_NOT_OPEN:
                raise NotSent("the epoch loads no account yet")
            case Verdict.IDEMPOTENT_REPLAY:
                self._replay_pace.count(caller.account_id)
                raise IdempotentReplay(request.route, caller, admission)
            case _:
                if admission.verdict is Verdict.KEY_REUSED:
                    self._replay_pace.count(caller.account_id)
                is_stored = idempotency.stores_responses(self._stored_for, plan)
                refused = _refusal(admission, max(quote.hold, 1), plan, cap=caller.cap, is_stored=is_stored)
                self._refusal_cache.record(caller, admission, refused)
                raise NotAdmitted(caller, admission, refused)
        return authorization

    def _admit_without_redis(
        self,
        request: AdmissionRequest,
        authorization: Authorization,
        quote: Quote,
        *,
        prefix: str,
        error: MeterUnavailable,
    ) -> AdmittedCall:
        """Admits on outage credit where that is allowed, else raises Refused.

        Not a call with an Idempotency-Key: only Redis knows whether it was made before. Nor one by a key with a cap:
        only Redis knows what the key has spent. After most errors Redis may hold for the call unseen; settling ends
        that too.
        """
        caller, plan, match, admission = authorization.caller, authorization.plan, request.match, None
        if request.claim is None and caller.cap is None:
            admission = self._outage_credit.admit(
                caller.account_id,
                request.request_id,
                plan=plan,
                limits=caller.limits,
                amount=quote.hold,
                required=quote.required,
            )
        if admission is None:
            if not isinstance(error, NotSent):
                self._enqueue_settlement(_release(request, caller, Refusal.METERING_UNAVAILABLE))
            raise _metering_unavailable() from None
        return AdmittedCall(
            request_id=request.request_id,
            inbound=request.inbound,
            route=match.route,
            path=match.path,
            upstream_path=match.upstream_path,
            claim=None,
            caller=caller,
            plan=plan,
            max_body_bytes=authorization.max_body_bytes,
            quote=quote,
            admission=admission,
            record_prefix=prefix,
            is_on_outage_credit=True,
        )

    def _with_storage(self, admitted_call: AdmittedCall) -> AdmittedCall:
        is_stored = idempotency.stores_responses(self._stored_for, admitted_call.plan)
        return admitted_call._replace(stores_response=is_stored)

    def _authorize(self, inbound: Inbound, match: RouteMatch, caller: Caller) -> Authorization:
        key, account, subscription = caller.principal.key, caller.principal.account, caller.lasting_subscription
        if subscription is None:
            subscription = paying_subscription(key, account, now=now(), client_ip=inbound.client_ip, grace=self._grace)
        route, plan, offered = match.route, subscription.plan, self._principals.catalogue.features
        check_request(route, key, plan, size_bytes=inbound.content_length, offered=offered)
        return Authorization(caller, subscription, max_body_bytes(route, plan))

    async def _quote_again(self, request: AdmissionRequest, caller: Caller) -> tuple[Authorization, Quote]:
        """The same by what is known of the caller at this moment; raises Refused."""
        authorization = self._authorize(request.inbound, request.match, await self._confirm(request.key, caller))
        return authorization, self._quote(request, authorization.plan)

    def _quote(self, request: AdmissionRequest, plan: Plan) -> Quote:
        """The quote of a call that its body prices; raises Refused where the plan does not allow what it asks for."""
        price, asked = request.match.route.price, request.asked
        if isinstance(price, PriceList):
            return quote_by_list(price, plan, asked.model_request, offered=self._principals.catalogue.features)
        return quote_plain(price, plan, units=asked.units)

    async def _confirm(self, key: bytes, caller: Caller) -> Caller:
        try:
            return await self._principals.confirm(key, caller)
        except MeterUnavailable:
            return caller  # may refuse wrongly for a moment, never admits wrongly

    async def _load(self, caller: Caller, verdict: Verdict) -> None:
        try:
            if verdict is Verdict.BUDGET_NOT_LOADED and caller.cap is not None:
                await self._account_loader.count_budget(caller.keys, caller.cap)
            else:
                await self._account_loader.load(caller.keys)
        except DatabaseUnavailable:
            raise Refused(
                Refusal.ACCOUNTS_UNAVAILABLE, "The account's balance cannot be read; try again shortly.", retry_after=1
            ) from None
        except MeterUnavailable as error:
            raise NotSent(str(error)) from None  # the admission, which follows


def _admission_of(snapshot: AccountSnapshot) -> Admission:
    """The admission that would refuse a call as things stand."""
    verdict = Verdict.RATE_LIMITED if snapshot.violated else Verdict.TOO_MANY_IN_FLIGHT
    wait = snapshot.retry_after_seconds
    return Admission(verdict, snapshot.balance, snapshot.used, snapshot.reset_seconds, wait, snapshot.violated)


def _release(request: AdmissionRequest, caller: Caller, code: str | None) -> Settlement:
    """The settlement of a call that may have been admitted unseen: at no charge, and without effect if it was not."""
    suffix = records.abandoned_suffix(code)
    claim_outcome = None if request.claim is None else ClaimOutcome(request.claim, None)
    return Settlement(caller.keys, request.request_id, 0, suffix, claim_outcome=claim_outcome)


def _metering_unavailable() -> Refused:
    return Refused(
        Refusal.METERING_UNAVAILABLE, "Calls cannot be metered at the moment; try again shortly.", retry_after=1
    )


def _refusal(admission: Admission, required: int, plan: Plan, *, cap: Cap | None, is_stored: bool) -> Refused:
    if admission.verdict is Verdict.RATE_LIMITED:
        wait = admission.retry_after_seconds
        return rate_limited(plan, admission.violated, retry_after_seconds=wait)
    if admission.verdict is Verdict.TOO_MANY_IN_FLIGHT:
        return too_many_in_flight(plan)
    if admission.verdict is Verdict.INSUFFICIENT_CREDITS:
        return insufficient_credits(required, admission.balance + plan.overage_credits)
    if admission.verdict is Verdict.KEY_BUDGET_EXHAUSTED and cap is not None:
        return key_budgets.exhausted(cap, required, available=admission.budget_remaining)
    return idempotency.refusal(admission.verdict, is_stored=is_stored)
