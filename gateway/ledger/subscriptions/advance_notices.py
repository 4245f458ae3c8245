"""Subscriptions whose owners are told beforehand: of the end of a trial, a renewal after long, and the end of access.

Each is found until it was announced, which is once for each end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, case, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.catalogue import plan_versions, plans
from gateway.ledger.db.tables import notices, subscriptions
from gateway.ledger.subscriptions.allowances import plan_of
from gateway.ledger.subscriptions.subscriptions import StoredSubscription, announce, get_existing
from policies.billing.invoicing import first_price
from policies.billing.money import plain
from policies.billing.news import ACCESS_ENDS, RENEWS, TRIAL_ENDS
from policies.model import SubscriptionStatus as Status

_AHEAD = timedelta(days=3)
# Laws on renewals of a year want them announced some weeks before, and not much earlier.
_RENEWAL_AHEAD = timedelta(days=21)
_LONG_PERIOD = timedelta(days=180)
_s = subscriptions.c


async def announce_trials(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Of trials that go on as paid plans."""
    end = _s.current_period_end
    found = await _list(connection, _is_ahead(end, now, _AHEAD), kind=TRIAL_ENDS, end=end, limit=limit, of=_TRIAL)
    for each in found:
        await announce(connection, each, TRIAL_ENDS, once=_once(TRIAL_ENDS, each, each.current_period_end))
    return len(found)


async def announce_renewals(connection: AsyncConnection, *, now: datetime, limit: int) -> int:
    """Of periods so long that one may have forgotten them."""
    end = _s.current_period_end
    found = await _list(connection, _is_ahead(end, now, _RENEWAL_AHEAD), kind=RENEWS, end=end, limit=limit, of=_LONG)
    for each in found:
        terms = await _next_terms(connection, each)
        await announce(connection, each, RENEWS, once=_once(RENEWS, each, each.current_period_end), **terms)
    return len(found)


async def announce_ends(connection: AsyncConnection, *, now: datetime, grace: timedelta, limit: int) -> int:
    """Of access that ends because its owner cancelled some time ago, or because nobody has paid within the grace."""
    unpaid_since = func.coalesce(_s.past_due_since, _s.current_period_end)
    ahead = or_(
        and_(_was_cancelled_before(_AHEAD), _is_ahead(_s.current_period_end, now, _AHEAD)),
        and_(_s.status == Status.PAST_DUE, _is_ahead(unpaid_since, now - grace, _AHEAD)),
    )
    unpaid_until = unpaid_since + cast(literal(grace), INTERVAL)
    ends_at = case((_s.status == Status.PAST_DUE, unpaid_until), else_=_s.current_period_end)
    found = await _list(connection, ahead, kind=ACCESS_ENDS, end=ends_at, limit=limit, of=None)
    for each in found:
        is_unpaid = each.status is Status.PAST_DUE
        end = (each.past_due_since or each.current_period_end) + grace if is_unpaid else each.current_period_end
        more = {"access_ends_at": end.isoformat(), "is_unpaid": is_unpaid}
        await announce(connection, each, ACCESS_ENDS, once=_once(ACCESS_ENDS, each, end), **more)
    return len(found)


_TRIAL = and_(_s.status == Status.TRIALING, ~_s.cancel_at_period_end)
_LONG = and_(
    _s.status == Status.ACTIVE, ~_s.cancel_at_period_end, _s.current_period_end - _s.current_period_start > _LONG_PERIOD
)


async def _list(
    connection: AsyncConnection,
    ahead: ColumnElement[bool],
    *,
    kind: str,
    end: ColumnElement[Any],
    limit: int,
    of: ColumnElement[bool] | None,
) -> list[StoredSubscription]:
    """Without those whose `end` was announced: what `_once` gives for it, in SQL."""
    day = func.to_char(func.timezone("UTC", end), "YYYY-MM-DD")
    once = literal(f"{kind.partition('.')[2]}:", Text).concat(cast(_s.id, Text)).concat(":").concat(day)
    is_told = select(notices.c.id).where(notices.c.user_id == _s.user_id, notices.c.once == once)
    query = select(_s.id).where(ahead, ~is_told.exists(), *([] if of is None else [of]))
    found = await connection.scalars(query.order_by(_s.current_period_end).limit(limit))
    return [await get_existing(connection, each) for each in found.all()]


def _is_ahead(moment: ColumnElement[Any], now: datetime, span: timedelta) -> ColumnElement[bool]:
    return and_(moment > now, moment <= now + span)


def _was_cancelled_before(span: timedelta) -> ColumnElement[bool]:
    """Who cancels shortly before the end was told of it then."""
    in_time = _s.current_period_end - cast(literal(span), INTERVAL)
    return and_(
        _s.cancel_at_period_end,
        _s.status.in_((Status.ACTIVE, Status.TRIALING)),
        func.coalesce(_s.canceled_at, _s.current_period_start) < in_time,
    )


async def _next_terms(connection: AsyncConnection, subscription: StoredSubscription) -> Mapping[str, Any]:
    """What the renewal charges; None where usage, tiers or a change of plan tell it only then."""
    plan = await plan_of(connection, subscription)
    if await plan_versions.is_kept_for_period(connection, subscription.id):
        plan = await plans.get(connection, subscription.plan_id) or plan
    terms = plan.terms
    is_known = terms.pricing_model in ("flat", "per_seat") and subscription.next_plan_id is None
    price = plain(first_price(terms.pricing)) if is_known else None
    return {"price": price, "currency": terms.currency}


def _once(kind: str, subscription: StoredSubscription, end: datetime) -> str:
    return f"{kind.partition('.')[2]}:{subscription.id}:{end:%Y-%m-%d}"
