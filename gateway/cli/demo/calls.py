"""The calls of a day: drawn from a seed, priced as the proxy prices them, as lines that the usage writer reads."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil
from uuid import UUID

from gateway.cli.demo.customers import MIXES, Customer
from policies.model import Outcome, Route
from policies.pricing import model_costs
from policies.pricing.price_list import PriceList
from policies.pricing.prices import cost
from policies.usage.counts import Usage, UsageClass, UsageSource
from policies.usage.records import prefix_of, suffix_of

_WEEKEND = 0.35
# The share of a day's calls in each hour, in UTC: Europe works from 7 to 17.
_HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 12, 14, 13, 11, 10, 12, 13, 12, 9, 6, 4, 3, 3, 2, 2, 1)
# Of a day's calls so many are there however little of it has passed: in the evening of New York it is midnight in UTC.
_LEAST_OF_TODAY = 0.2
_FAILURES: Sequence[tuple[Outcome, int]] = (
    (Outcome.UPSTREAM_ERROR, 500),
    (Outcome.UPSTREAM_ERROR, 429),
    (Outcome.UPSTREAM_TIMEOUT, 504),
    (Outcome.UPSTREAM_UNREACHABLE, 502),
)
_FAILURE_RATE = 0.012
_ESTIMATED_RATE = 0.006
_NO_USAGE = Usage()
_LANGUAGES = ("en", "en", "en", "de", "fr", "es")
_FILES = ("orders.csv", "survey.csv", "report.txt", "inventory.csv", "minutes.txt")


@dataclass(slots=True)
class Caller:
    """An account as its day of calls needs it; `credits` is what it may spend."""

    customer: Customer
    user_id: UUID
    subscription_id: UUID
    key_ids: Sequence[UUID]
    credits: int = 0
    refused: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Priced:
    """What a call used and costs."""

    credits: int
    items: int = 1
    model: str | None = None
    usage: Usage = _NO_USAGE
    cost_usd: Decimal | None = None


def draw_day(caller: Caller, routes: Mapping[str, Route], day: datetime, until: datetime, *, seed: int) -> None:
    """Adds the lines of one day, before `until`; a call that the account cannot pay is counted as refused."""
    dice = random.Random(f"{seed}/{caller.customer.email}/{day:%Y-%m-%d}")  # noqa: S311 - a demo, not a secret
    share = _WEEKEND if day.weekday() > 4 else 1.0
    wanted = caller.customer.calls * share * dice.uniform(0.75, 1.25)
    count = int(wanted) + (dice.random() < wanted % 1)
    for instant in _before(until, sorted(_instant(dice, day) for _ in range(count)), day):
        _draw_call(dice, caller, routes, instant)


def shrunk(instant: datetime, day: datetime, until: datetime) -> datetime:
    """As far into what has passed of the day as `instant` is into the whole."""
    return day + (instant - day) * ((until - day) / timedelta(days=1))


def _before(until: datetime, instants: Sequence[datetime], day: datetime) -> Sequence[datetime]:
    least = instants[: ceil(len(instants) * _LEAST_OF_TODAY)]
    passed = [instant for instant in instants if instant < until]
    return passed if len(passed) >= len(least) else [shrunk(instant, day, until) for instant in least]


def _instant(dice: random.Random, day: datetime) -> datetime:
    hour = dice.choices(range(24), _HOURS)[0]
    return day + timedelta(hours=hour, microseconds=dice.randrange(3_600_000_000))


def _draw_call(dice: random.Random, caller: Caller, routes: Mapping[str, Route], instant: datetime) -> None:
    mix = MIXES[caller.customer.mix]
    name = dice.choices(list(mix.routes), list(mix.routes.values()))[0]
    route = routes.get(name)
    priced = None if route is None else _priced(dice, route, mix.models.get(name, ()))
    if route is None or priced is None:
        return  # the configuration has been changed
    if priced.credits > caller.credits:
        caller.refused += 1
        return
    outcome, status = (Outcome.SUCCEEDED, 200) if dice.random() > _FAILURE_RATE else dice.choice(_FAILURES)
    charged = priced.credits if outcome is Outcome.SUCCEEDED else 0
    caller.credits -= charged
    prefix = _prefix(dice, caller, route, instant, items=priced.items)
    suffix = _suffix(dice, route, priced, outcome=outcome, status=status, charged=charged)
    caller.lines.append(f"{prefix}\t{suffix}\t{caller.credits}\n")


def _priced(dice: random.Random, route: Route, models: Sequence[str]) -> _Priced | None:
    """None for a model that the price list does not name."""
    price = route.price
    if not isinstance(price, PriceList):
        items = dice.choice((1, 1, 2, 3, 5, 8)) if price.is_counted_in_request else 1
        return _Priced(cost(price, items), items)
    model = dice.choice(models)
    found = price.find(model)
    if found is None:
        return None
    usage = Usage(_counts(dice, is_embedding=model.startswith("text-embedding")))
    usd = None if price.costs is None else model_costs.cost_usd(price.costs, usage, served=model, asked=model)
    return _Priced(model_costs.cost(price, found, usage).credits, 1, model, usage, usd)


def _counts(dice: random.Random, *, is_embedding: bool) -> dict[UsageClass, int]:
    given = int(dice.lognormvariate(7.2, 0.8))
    if is_embedding:
        return {UsageClass.INPUT: given, UsageClass.OUTPUT: 0}
    cached = int(given * dice.uniform(0.4, 0.9)) if dice.random() < 0.4 else 0
    return {
        UsageClass.INPUT: given,
        UsageClass.CACHED_INPUT: cached,
        UsageClass.OUTPUT: int(dice.lognormvariate(5.9, 0.7)),
    }


def _prefix(dice: random.Random, caller: Caller, route: Route, instant: datetime, *, items: int) -> str:
    """The request id is a UUIDv7 of the instant."""
    high = int(instant.timestamp() * 1000) << 16 | 0x7000 | dice.getrandbits(12)
    return prefix_of(
        {
            "request_id": UUID(int=high << 64 | 1 << 63 | dice.getrandbits(62)),
            "created_at": int(instant.timestamp() * 1_000_000),
            "user_id": caller.user_id,
            "api_key_id": dice.choice(caller.key_ids),
            "subscription_id": caller.subscription_id,
            "plan_id": caller.customer.plan,
            "endpoint": route.name,
            "method": "POST",
            "path": route.path.replace("*", "gemini-2.5-flash"),
            "usage_type": route.usage_type,
            "product_count": items,
            "language_code": dice.choice(_LANGUAGES),
            "client_ip": f"203.0.113.{dice.randrange(1, 250)}",
        }
    )


def _suffix(dice: random.Random, route: Route, priced: _Priced, *, outcome: Outcome, status: int, charged: int) -> str:
    counts, is_done = priced.usage.counts, outcome is Outcome.SUCCEEDED
    elapsed = int(dice.lognormvariate(6.6 if counts else 4.3, 0.6))
    columns: dict[str, object] = {
        "outcome": outcome,
        "status_code": status,
        "error_code": None if is_done or outcome is Outcome.UPSTREAM_ERROR else outcome,
        "credits_charged": charged,
        "request_bytes": dice.randrange(200, 9000),
        "response_bytes": dice.randrange(300, 12000),
        "response_time_ms": elapsed + dice.randrange(1, 4),
        "upstream_time_ms": elapsed,
    }
    if route.usage_type == "analysis":
        columns |= {"file_name": dice.choice(_FILES), "file_size_bytes": columns["request_bytes"]}
        columns |= {"file_sha256": f"{dice.getrandbits(256):064x}", "content_type": "text/csv"}
    if priced.model is not None and is_done:
        columns |= _usage_columns(dice, priced)
    return suffix_of(columns)


def _usage_columns(dice: random.Random, priced: _Priced) -> dict[str, object]:
    counts = priced.usage.counts
    source = UsageSource.ESTIMATED if dice.random() < _ESTIMATED_RATE else UsageSource.REPORTED
    return {
        "model": priced.model,
        "tokens_used": priced.usage.total,
        "input_tokens": counts[UsageClass.INPUT],
        "cached_input_tokens": counts.get(UsageClass.CACHED_INPUT),
        "output_tokens": counts[UsageClass.OUTPUT],
        "usage_source": source,
        "cost_usd": None if priced.cost_usd is None else round(priced.cost_usd, 6),
    }
