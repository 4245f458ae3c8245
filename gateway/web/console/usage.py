"""The usage explorer: calls, credits, cost and margin, split and filtered, with all of it in the address."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from starlette.responses import Response

from gateway.clock import now
from gateway.web.charts import MAX_SERIES, Series
from gateway.web.console.in_process import ApiRefused
from gateway.web.console.operator import Operator
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

SPLITS = {
    "endpoint": ("Route", "endpoint"),
    "model": ("Model", "model"),
    "plan": ("Plan", "plan_id"),
    "user": ("Account", "user_id"),
    "key": ("Key", "api_key_id"),
    "outcome": ("Outcome", "outcome"),
    "day": ("Day", "day"),
}
SPANS = {"1": "Today", "7": "7 days", "30": "30 days", "90": "90 days", "366": "A year"}
MEASURES = {"requests": "Calls", "credits_charged": "Credits", "tokens_used": "Tokens", "cost_usd": "Cost"}
_FILTERS = ("endpoint", "model", "plan_id", "outcome", "user_id")
_ROWS, _MONTHS = 25, 13
_NOTHING: Mapping[str, Any] = {"data": (), "next_cursor": None}
# A filter that is none, and more calls than can be summed while somebody waits: the page says so above its filters.
_TELLS = frozenset({400, 422})
_UNSPLIT = ("day", "user", "key")


@pages.get("/usage")
async def show_usage(page: Operator) -> Response:
    split = _one_of(page.param("split"), SPLITS, "endpoint")
    if split == "user" and page.param("user_id") is None:
        return page.visit.redirect("/usage/accounts")
    measure = _one_of(page.param("measure"), MEASURES, "credits_charged")
    span = _one_of(page.param("days"), SPANS, "30")
    within = {name: page.param(name) for name in _FILTERS} | {"from_": _since(int(span)).isoformat()}
    order = None if split == "day" else f"-{measure}"
    found, labels, series, problem = _NOTHING, list[str](), list[Series](), None
    try:
        if split == "key" and within["user_id"] is None:
            raise ApiRefused(422, {"detail": "Keys are shown of one account: give its id, or split by account first."})
        query = {**within, "group_by": split, "sort": order, "limit": _ROWS, "cursor": page.param("cursor")}
        found, (labels, series) = await asyncio.gather(
            page.api.get("/usage", **query), _chart(page, within, split, measure=measure)
        )
    except ApiRefused as refused:
        if refused.status not in _TELLS:
            raise
        problem = str(refused)
    rows = [{**row, "label": _label(row, split)} for row in found["data"]]
    form = Form(defaults={"split": split, "measure": measure, "days": span} | {n: within[n] for n in _FILTERS})
    return page.render(
        "usage.html",
        form=form,
        problem=problem,
        rows=rows,
        page={"next_cursor": found["next_cursor"]},
        split=split,
        splits=SPLITS,
        spans=SPANS,
        measures=MEASURES,
        measure=measure,
        labels=labels,
        series=series,
    )


@pages.get("/usage/accounts")
async def show_accounts(page: Operator) -> Response:
    """The accounts that were charged most in a month, from sums that are kept: calls are not read."""
    known = dict.fromkeys(_last_months())
    month = _one_of(page.param("month"), known, next(iter(known)))
    found = await page.api.get("/reports/top-users", from_=month, to=month, limit=_ROWS, cursor=page.param("cursor"))
    form = Form(defaults={"month": month})
    return page.render("usage_accounts.html", form=form, page=found, months=list(known), month=month)


def _last_months() -> Iterator[str]:
    """The present one first."""
    month = now().date().replace(day=1)
    for _ in range(_MONTHS):
        yield f"{month:%Y-%m}"
        month = (month - timedelta(days=1)).replace(day=1)


def _one_of(wanted: str | None, known: Mapping[str, Any], default: str) -> str:
    return wanted if wanted is not None and wanted in known else default


def _since(days: int) -> datetime:
    midnight = now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=days - 1 if days < 366 else 365)


def _label(row: Mapping[str, Any], split: str) -> str:
    value = row[SPLITS[split][1]]
    return "without" if value is None else str(value)


async def _chart(
    page: Operator, within: Mapping[str, Any], split: str, *, measure: str
) -> tuple[list[str], list[Series]]:
    """A bar for each day, stacked by what it is split by where that has few values."""
    parts = None if split in _UNSPLIT else split
    found = await page.api.get("/usage/daily", **within, measure=measure, split=parts, limit=MAX_SERIES)
    days = [date.fromisoformat(day) for day in found["days"]]
    whole = MEASURES[measure].lower()
    series = [
        Series(_name(each) if parts else whole, [_drawn(amount) for amount in each["sums"]]) for each in found["series"]
    ]
    return [f"{day:%d.%m.}" for day in days], series


def _name(series: Mapping[str, Any]) -> str:
    return "others" if series["is_rest"] else series["value"] or "without"


def _drawn(amount: int | str) -> float:
    return round(float(amount), 6) if isinstance(amount, str) else amount
