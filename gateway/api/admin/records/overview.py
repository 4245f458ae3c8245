"""Today at a glance: calls, money and trouble, from PostgreSQL and from the series of all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.api.admin.dependencies import AdminDependencies, DependenciesDep, UnitOfWorkDep
from gateway.api.admin.records.series import Series, read_series
from gateway.api.schemas.pages import ResponseModel
from gateway.clock import now
from gateway.ledger.payments import webhook_events
from gateway.ledger.usage import analytics, today
from gateway.ledger.usage.analytics import Dimension, UsageGroup
from gateway.ledger.usage.figures import end_of_hour
from gateway.ledger.usage.history import UsageFilter
from gateway.ledger.usage.today import MoneyCount
from policies.billing.money import margin
from policies.model import Outcome, Route
from policies.usage.counts import UsageSource

router = APIRouter(prefix="/overview", tags=["overview"])

_GROUPS = 500


class EndpointCounts(ResponseModel):
    endpoint: str
    calls: int
    failed: int = Field(description="Calls that did not end as `succeeded`.")
    credits_charged: int


class UpstreamCounts(ResponseModel):
    upstream: str
    calls: int
    errors: dict[str, int] = Field(description="Failed calls by their outcome.")


class MoneyCounts(ResponseModel):
    transaction_type: str
    status: str
    currency: str
    count: int
    amount: Decimal


class Trouble(ResponseModel):
    """What serves in a degraded way, or waits for somebody. Null where it cannot be told at the moment."""

    not_ready: list[str] = Field(description="What keeps calls from being admitted, by /readyz.")
    open_breakers: list[str] = Field(description="Upstreams without a target in service.")
    journal_entries: int | None
    journal_lag_seconds: float | None
    spooled_settlements: int | None = Field(description="Settlements that Redis has not taken yet.")
    outage_credit_calls: int | None = Field(description="Calls on outage credit that are not settled yet.")
    settlements_lost: int | None
    poison_entries: int | None
    quarantined: dict[str, int] = Field(description="Accounts that a worker has quarantined, by worker.")
    reconcile_difference_credits: int | None
    webhooks_waiting: int
    webhooks_given_up: int


class Overview(ResponseModel):
    since: datetime = Field(description="Midnight in UTC.")
    calls: int
    succeeded: int
    credits_charged: int
    revenue_usd: Decimal | None = Field(description="The credits as money, by `credits.shown_as`.")
    cost_usd: Decimal
    margin_usd: Decimal | None
    usage_estimated: int = Field(description="Calls whose usage was not reported and was estimated.")
    usage_missing: int = Field(description="Calls whose usage is not known at all.")
    refusals: dict[str, int] = Field(description="Refused requests of known keys, by code.")
    endpoints: list[EndpointCounts]
    upstreams: list[UpstreamCounts]
    money: list[MoneyCounts]
    trouble: Trouble


@router.get("", summary="Calls, credits, money and trouble of today")
async def get_overview(unit_of_work: UnitOfWorkDep, dependencies: DependenciesDep) -> Overview:
    """Since midnight in UTC, some seconds behind the calls themselves."""
    since = now().replace(hour=0, minute=0, second=0, microsecond=0)
    async with unit_of_work.read() as connection:
        refusals = await today.count_refusals(connection, since)
        money = await today.count_money(connection, since)
        events = await webhook_events.counts(connection)
        wanted = UsageFilter(since=since, until=end_of_hour(now()))  # of whole hours, which are summed already
        calls = await _groups(connection, wanted, Dimension.ENDPOINT, Dimension.OUTCOME)
        unreported = {}
        for source in (UsageSource.ESTIMATED, UsageSource.MISSING):
            groups = await _groups(connection, replace(wanted, usage_source=source))
            unreported[str(source)] = sum(group.requests for group in groups)
    series = await read_series(dependencies.metrics_text)
    trouble = _trouble(series, missing=await dependencies.readiness(), events=events)
    return _overview(calls, money, dependencies, since=since, refusals=refusals, unreported=unreported, trouble=trouble)


async def _groups(connection: AsyncConnection, wanted: UsageFilter, *by: Dimension) -> Sequence[UsageGroup]:
    page = await analytics.group_usage(connection, wanted, by or (Dimension.OUTCOME,), limit=_GROUPS)
    return page.data


def _overview(
    calls: Sequence[UsageGroup],
    money: Sequence[MoneyCount],
    dependencies: AdminDependencies,
    *,
    since: datetime,
    refusals: Mapping[str, int],
    unreported: Mapping[str, int],
    trouble: Trouble,
) -> Overview:
    credits = sum(count.credits_charged for count in calls)
    cost = sum((count.cost_usd for count in calls), Decimal(0))
    earned = margin(credits, cost, dependencies.credit_value)
    return Overview(
        since=since,
        calls=sum(count.requests for count in calls),
        succeeded=_sum_by(calls, "outcome")[Outcome.SUCCEEDED],
        credits_charged=credits,
        revenue_usd=earned.revenue_usd,
        cost_usd=cost,
        margin_usd=earned.margin_usd,
        usage_estimated=unreported[UsageSource.ESTIMATED],
        usage_missing=unreported[UsageSource.MISSING],
        refusals=dict(refusals),
        endpoints=_by_endpoint(calls),
        upstreams=_by_upstream(calls, dependencies.routes),
        money=[MoneyCounts.model_validate(count) for count in money],
        trouble=trouble,
    )


def _sum_by(calls: Sequence[UsageGroup], name: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for count in calls:
        sums[getattr(count, name)] += count.requests
    return sums


def _by_endpoint(calls: Sequence[UsageGroup]) -> list[EndpointCounts]:
    made = _sum_by(calls, "endpoint")
    failed = _sum_by([count for count in calls if count.outcome != Outcome.SUCCEEDED], "endpoint")
    credits: Counter[str] = Counter()
    for count in calls:
        credits[count.endpoint or ""] += count.credits_charged
    return [
        EndpointCounts(endpoint=name, calls=number, failed=failed[name], credits_charged=credits[name])
        for name, number in made.most_common()
    ]


def _by_upstream(calls: Sequence[UsageGroup], routes: Mapping[str, Route]) -> list[UpstreamCounts]:
    """Calls of a route that is no longer served count for no upstream."""
    made: Counter[str] = Counter()
    errors: dict[str, Counter[str]] = {}
    for count in calls:
        route = routes.get(count.endpoint or "")
        if route is None:
            continue
        made[route.upstream] += count.requests
        if count.outcome != Outcome.SUCCEEDED:
            errors.setdefault(route.upstream, Counter())[count.outcome or ""] += count.requests
    return [
        UpstreamCounts(upstream=name, calls=number, errors=dict(errors.get(name, {})))
        for name, number in made.most_common()
    ]


def _trouble(series: Series, *, missing: Mapping[str, str], events: Mapping[str, int]) -> Trouble:
    breakers = series.by("gateway_upstream_breaker_open", "upstream")
    parked = series.by("gateway_worker_parked", "worker")
    return Trouble(
        not_ready=sorted(missing),
        open_breakers=[name for name, value in breakers.items() if value],
        journal_entries=_whole(series, "gateway_journal_entries"),
        journal_lag_seconds=series.value("gateway_journal_lag_seconds"),
        spooled_settlements=_whole(series, "gateway_spool_entries"),
        outage_credit_calls=_whole(series, "gateway_float_unsettled"),
        settlements_lost=_whole(series, "gateway_settlements_lost_total"),
        poison_entries=_whole(series, "gateway_journal_poison_total"),
        quarantined={name: int(value) for name, value in parked.items() if value},
        reconcile_difference_credits=_whole(series, "gateway_reconcile_difference_credits"),
        webhooks_waiting=events["waiting"],
        webhooks_given_up=events["given_up"],
    )


def _whole(series: Series, name: str) -> int | None:
    found = series.value(name)
    return None if found is None else int(found)
