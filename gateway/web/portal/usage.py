"""What calls used: sums by day, key, route or model, each call with its receipt, and all of it as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, NamedTuple
from uuid import UUID

from starlette.responses import Response

from gateway.api.account import keys
from gateway.api.account.keys import OwnKeyQuery
from gateway.api.account.records import usage
from gateway.api.account.records.refusals import RefusalQuery, refused_calls
from gateway.api.account.records.usage import CallAggregateQuery
from gateway.api.schemas.usage_aggregates import CallAggregate
from gateway.web.charts import Series
from gateway.web.formats import NOTHING, words, zone
from gateway.web.forms import Form, in_address
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer
from policies.model import Outcome

ROWS, GROUPS, MAX_KEYS, BARS, MAX_REFUSALS = 25, 100, 200, 12, 500
DAYS = 367  # of UTC, which a span of 366 days can touch
REFUSAL_DAYS = ("7", "30", "90")
# How calls are grouped: the name in the address, the dimension of the API, the heading of the column.
GROUPINGS = {"day": ("day", "Day"), "key": ("key", "Key"), "route": ("endpoint", "Route"), "model": ("model", "Model")}
_FILTERS = ("from", "to", "api_key_id", "endpoint", "model", "outcome")

customers: PageRoutes[Customer] = PageRoutes()


class Group(NamedTuple):
    name: str
    sums: CallAggregate


@customers.get("/usage")
async def show_usage(page: Customer) -> Response:
    params = page.visit.request.query_params
    by = params["by"] if params.get("by") in GROUPINGS else "day"
    form = Form({name: [value] for name, value in params.items()})
    key_names = await _key_names(page)
    found = await form.submit(lambda: _found(page, by, key_names))
    return page.visit.render(
        "portal/usage.html",
        status=form.status,
        form=form,
        by=by,
        groupings=GROUPINGS,
        key_names=key_names,
        outcomes=[(each.value, words(each.value)) for each in Outcome],
        routes=list(page.portal.account.routes),
        **(found or {"groups": (), "calls": None}),
    )


@customers.get("/usage.csv")
async def download_usage(page: Customer) -> Response:
    query = _query(page)
    return usage.as_csv(usage.calls(query, page.me.id, page.portal.account))


@customers.get("/refusals")
async def show_refusals(page: Customer) -> Response:
    """Counted by route and reason, for as many days as the address says."""
    asked = page.visit.request.query_params.get("days", "")
    days = int(asked) if asked in REFUSAL_DAYS else int(REFUSAL_DAYS[1])
    found = await refused_calls(page.me.id, page.portal.account, query=RefusalQuery(days=days, limit=MAX_REFUSALS))
    return page.visit.render("portal/refusals.html", refusals=found, days=days, spans=REFUSAL_DAYS)


def _query(page: Customer) -> CallAggregateQuery:
    """The filters of the address, whose days are those of the customer. Raises AddressRefused."""
    params, where = page.visit.request.query_params, zone(page.me.user.time_zone)
    wanted = {name: params[name] for name in _FILTERS if params.get(name)}
    for name, later in (("from", 0), ("to", 1)):
        if name in wanted:
            wanted[name] = _midnight(wanted[name], where, later=later)
    return in_address(CallAggregateQuery, {**wanted, "limit": ROWS, "cursor": params.get("cursor")})


def _midnight(day: str, where: tzinfo, *, later: int) -> str:
    """The beginning of a day, or of so many later; what is no day comes as it was written, for the API to refuse."""
    try:
        begins = datetime.combine(date.fromisoformat(day), time(), where) + timedelta(days=later)
    except (ValueError, OverflowError):
        return day
    return begins.astimezone(UTC).isoformat()


async def _found(page: Customer, by: str, key_names: Mapping[UUID, str]) -> Mapping[str, Any]:
    query = _query(page)
    groups = await _groups(page, query, by, key_names)
    found = await usage.calls(query, page.me.id, page.portal.account)(query.cursor, ROWS)
    labels, credits = _daily(groups) if by == "day" else _largest(groups)
    return {"groups": groups, "calls": found, "labels": labels, "series": [Series("credits", credits)]}


async def _groups(page: Customer, query: CallAggregateQuery, by: str, key_names: Mapping[UUID, str]) -> Sequence[Group]:
    sort, limit = (None, DAYS) if by == "day" else ("-credits_charged", GROUPS)
    next_page = usage.sums(query, GROUPINGS[by][0], page.me.id, page.portal.account, sort=sort)
    found = (await next_page(None, limit)).data
    return [Group(_name(sums, by, key_names), sums) for sums in found]


def _name(sums: CallAggregate, by: str, key_names: Mapping[UUID, str]) -> str:
    if by == "day":
        return f"{sums.day:%-d %b}" if sums.day else NOTHING
    if by == "key":
        return key_names.get(sums.api_key_id, str(sums.api_key_id)) if sums.api_key_id else NOTHING
    return (sums.endpoint if by == "route" else sums.model) or NOTHING


def _largest(groups: Sequence[Group]) -> tuple[list[str], list[int]]:
    shown = groups[:BARS]
    return [each.name for each in shown], [each.sums.credits_charged for each in shown]


def _daily(groups: Sequence[Group]) -> tuple[list[str], list[int]]:
    """With the days on which nothing was called."""
    credits = {each.sums.day: each.sums.credits_charged for each in groups if each.sums.day}
    if not credits:
        return [], []
    first, last = min(credits), max(credits)
    days = [first + timedelta(days=at) for at in range((last - first).days + 1)]
    return [f"{day:%-d %b}" for day in days], [credits.get(day, 0) for day in days]


async def _key_names(page: Customer) -> dict[UUID, str]:
    """Of those that work first, and of those that are revoked."""
    found = [await keys.list_keys(OwnKeyQuery(limit=MAX_KEYS, revoked=revoked), page.me) for revoked in (False, True)]
    return {key.id: f"{key.name} (…{key.last4})" for some in found for key in some.data}
