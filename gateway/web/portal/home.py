"""The start page of a customer: what is left, what it was used for, and what stopped calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

from starlette.responses import Response

from gateway.api.account.billing.own_subscription import OwnSubscription
from gateway.api.account.billing.subscriptions import get_my_subscription
from gateway.api.account.records import limits, usage
from gateway.api.account.records.refusals import RefusalQuery, refused_calls
from gateway.api.account.records.usage import CallAggregateQuery
from gateway.api.errors import NotFound
from gateway.api.schemas.usage_aggregates import CallAggregate
from gateway.clock import now
from gateway.web.charts import Series
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer
from gateway.web.portal.first_call import first_route, quote_of

DAYS = 30

customers: PageRoutes[Customer] = PageRoutes()


class Daily(NamedTuple):
    """The sums of each of the last days, those without calls included."""

    labels: Sequence[str]
    series: Sequence[Series]
    credits: int
    requests: int


@customers.get("")
async def show_home(page: Customer) -> Response:
    account = page.portal.account
    found = await limits.get_limits(page.me.id, None, account)
    subscription = await own_subscription(page)
    days_left = None if subscription is None else max(0, (subscription.current_period_end - now()).days)
    route, refused = first_route(page.portal), await refused_calls(page.me.id, account, query=RefusalQuery(limit=8))
    return page.visit.render(
        "portal/home.html",
        limits=found,
        subscription=subscription,
        days_left=days_left,
        daily=await _daily(page),
        route=route,
        quote=None if route is None else await quote_of(page, route),
        refusals=refused,
    )


async def own_subscription(page: Customer) -> OwnSubscription | None:
    """The current or last one."""
    try:
        return await get_my_subscription(page.me)
    except NotFound:
        return None


async def _daily(page: Customer) -> Daily:
    today = now().date()
    days = [today - timedelta(days=DAYS - 1 - back) for back in range(DAYS)]
    query = CallAggregateQuery.model_validate({"group_by": "day", "from": f"{days[0]}T00:00:00Z", "limit": 500})
    sums = await usage.sums(query, "day", page.me.id, page.portal.account)(None, 500)
    by_day: dict[date | None, CallAggregate] = {each.day: each for each in sums.data}
    credits = [by_day[day].credits_charged if day in by_day else 0 for day in days]
    requests = sum(each.requests for each in sums.data)
    return Daily([f"{day:%-d %b}" for day in days], [Series("credits", credits)], sum(credits), requests)
