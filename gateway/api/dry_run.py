"""Dry runs of calls: the checks of a real call against the present state, which they only read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from pydantic import Field

from gateway.api.schemas.billing_records import ShownAs
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.http.problem_types import STATUS
from gateway.ledger.accounts import principals
from gateway.ledger.db.errors import NotFound
from gateway.ledger.db.session import Database
from gateway.ledger.usage.key_budgets import credits_spent
from gateway.meter.meter import Meter
from policies.access import admission, key_budgets
from policies.access.admission import AccountSnapshot
from policies.access.key_budgets import Cap
from policies.access.limits import WINDOW_SECONDS, WINDOWS, Limits, limits_of
from policies.billing.money import CreditValue
from policies.model import Account, FeatureValue, Key, Refused, Route
from policies.pricing.forecasts import Facts, Forecast, forecast

KEY_CREDITS_LEFT = (
    "What the credit cap of the key leaves it in this period, less what calls under way hold; null without one."
)
UNLIMITED = Limits((None, None, None), None)


class LimitState(ResponseModel):
    """A window of the plan with a limit; `reset_seconds` until more of it is free."""

    name: str
    limit: int
    used: int
    remaining: int
    window_seconds: int
    reset_seconds: int


class DryRunResult(ResponseModel):
    """The answer to a dry run. `credits` is what the call would cost, `hold` what would be set aside while it runs.

    Where it would not be admitted, `code`, `status` and `detail` are those of the refusal it would meet first.
    """

    admitted: bool
    code: str | None
    status: int | None
    detail: str | None
    credits: int
    credits_shown_as: ShownAs | None
    hold: int
    price: str
    balance: int
    key_credits_left: int | None = Field(description=KEY_CREDITS_LEFT)
    in_flight: int
    in_flight_limit: int | None
    limits: list[LimitState]


class DryRun:
    """Reads accounts in PostgreSQL and Redis, and changes neither."""

    def __init__(
        self, database: Database, meter: Meter, *, grace: timedelta, credit_value: CreditValue | None = None
    ) -> None:
        self._database = database
        self._credit_value = credit_value
        self._meter = meter
        self._grace = grace

    async def run(self, account: Account, key: Key | None, *, route: Route | None, facts: Facts) -> DryRunResult:
        """A call by `key`, or by the account itself, to `route`, or to none in particular.

        Raises MeterUnavailable, DatabaseUnavailable, NotFound for an account deleted meanwhile.
        """
        limits, cap = limits_in_force(account), key_budgets.cap_of(key, account.subscription)
        snapshot, offered = await self._look(account.id, limits, cap)
        plan = None if account.subscription is None else account.subscription.plan
        cost = forecast(route, facts, plan, offered=offered)
        refused = None
        try:
            self._check(account, key, route, facts=facts, offered=offered, snapshot=snapshot, cost=cost)
        except Refused as found:
            refused = found
        key_left = key_budgets.left_to_key(cap, snapshot.spent)
        shown_as = ShownAs.of_call(self._credit_value, cost.credits)
        return _result(refused, cost, snapshot, limits=limits, key_left=key_left, shown_as=shown_as)

    async def snapshot(self, account: Account, cap: Cap | None = None) -> AccountSnapshot:
        """The use of the limits and the balance. Raises as `run` does."""
        snapshot, _ = await self._look(account.id, limits_in_force(account), cap)
        return snapshot

    async def _look(
        self, user_id: UUID, limits: Limits, cap: Cap | None
    ) -> tuple[AccountSnapshot, Mapping[str, Mapping[str, FeatureValue]]]:
        async with self._database.read() as connection:
            known = await principals.get_balance(connection, user_id)
            catalogue = await principals.get_catalogue(connection)
            spent = None if cap is None else await credits_spent(connection, user_id, cap)
        if known is None:
            raise NotFound("user", user_id)
        loaded = await self._meter.account_snapshot(self._meter.keys(user_id), limits, cap)
        # Cold: nothing is running, nothing was counted lately, and a call would load this balance. The same of a key.
        found = loaded or _at_rest(known.current_credits, limits)
        return found if found.spent is not None else found._replace(spent=spent), catalogue.features

    def _check(
        self,
        account: Account,
        key: Key | None,
        route: Route | None,
        *,
        facts: Facts,
        offered: Mapping[str, Mapping[str, FeatureValue]],
        snapshot: AccountSnapshot,
        cost: Forecast,
    ) -> None:
        subscription = admission.check_caller(
            key,
            account,
            route,
            now=now(),
            client_ip=facts.client_ip,
            size_bytes=facts.body_bytes,
            grace=self._grace,
            offered=offered,
        )
        plan = subscription.plan
        if cost.refused is not None:
            raise cost.refused
        if route is not None and route.serves_models:
            return  # it is no call, and counts in no limit
        cap = key_budgets.cap_of(key, subscription)
        admission.check_snapshot(snapshot, limits_of(plan), plan, required=cost.required, cap=cap)


def limits_in_force(account: Account) -> Limits:
    return UNLIMITED if account.subscription is None else limits_of(account.subscription.plan)


def limit_states(snapshot: AccountSnapshot, limits: Limits) -> list[LimitState]:
    """The windows that have a limit, shortest first."""
    return [
        LimitState(
            name=str(window),
            limit=limit,
            used=used,
            remaining=max(0, limit - used),
            window_seconds=WINDOW_SECONDS[window],
            reset_seconds=reset,
        )
        for window, limit, used, reset in zip(
            WINDOWS, limits.per_window, snapshot.used, snapshot.reset_seconds, strict=True
        )
        if limit is not None
    ]


def _at_rest(balance: int, limits: Limits) -> AccountSnapshot:
    """An account that has done nothing lately; a limit of 0 has no room even so."""
    violated = tuple(window for window, limit in zip(WINDOWS, limits.per_window, strict=True) if limit == 0)
    retry_after = max((WINDOW_SECONDS[window] for window in violated), default=0)
    seconds = tuple(WINDOW_SECONDS[window] for window in WINDOWS)
    return AccountSnapshot(balance, 0, (0,) * len(WINDOWS), seconds, retry_after, violated)


def _result(
    refused: Refused | None,
    cost: Forecast,
    snapshot: AccountSnapshot,
    *,
    limits: Limits,
    key_left: int | None,
    shown_as: ShownAs | None,
) -> DryRunResult:
    return DryRunResult(
        admitted=refused is None,
        code=None if refused is None else str(refused.code),
        status=None if refused is None else STATUS[refused.code],
        detail=None if refused is None else refused.detail,
        credits=cost.credits,
        credits_shown_as=shown_as,
        hold=cost.hold,
        price=cost.price,
        balance=snapshot.balance,
        key_credits_left=key_left,
        in_flight=snapshot.in_flight,
        in_flight_limit=limits.in_flight,
        limits=limit_states(snapshot, limits),
    )
