"""The start page, live: today's calls, money and trouble; and the page of the installation behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from operator import add
from typing import Any, NamedTuple

from starlette.responses import Response

from gateway.clock import now
from gateway.web.charts import Series
from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.pages import PageRoutes
from policies.model import Outcome
from policies.wording import counted

pages: PageRoutes[Operator] = PageRoutes()

_DAYS_SHOWN = 14
# Behind by more, PostgreSQL cannot keep up, or its worker is gone.
_LAG_SECONDS = 30


class Finding(NamedTuple):
    """Something that an operator should look at; `path` is where, below the console."""

    text: str
    path: str = "/system"


@pages.get("")
async def show_today(page: Operator) -> Response:
    since = now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_DAYS_SHOWN - 1)
    overview, daily = await asyncio.gather(
        page.api.get("/overview"),
        page.api.get("/usage/daily", split="outcome", from_=since.isoformat(), limit=len(Outcome)),
    )
    labels = [f"{day[8:]}.{day[5:7]}." for day in daily["days"]]
    succeeded, other = [0] * len(labels), [0] * len(labels)
    for each in daily["series"]:
        sums = succeeded if each["value"] == "succeeded" else other
        sums[:] = map(add, sums, each["sums"])
    series = [Series("succeeded", succeeded), Series("other outcomes", other)]
    context = {"overview": overview, "labels": labels, "series": series, "warnings": warnings_of(overview["trouble"])}
    return page.render("today.html", **context)


def warnings_of(trouble: Mapping[str, Any]) -> list[Finding]:
    """What is wrong, the worst first."""
    found = [Finding(f"Calls are not admitted: {name} is missing.") for name in trouble["not_ready"]]
    found += [Finding(f"Upstream {name} has no target in service.") for name in trouble["open_breakers"]]
    found += [
        Finding(text.format(counted(trouble[name], noun) if noun else trouble[name]), path)
        for name, noun, text, path in _COUNTED
        if trouble[name] and (name != "journal_lag_seconds" or trouble[name] > _LAG_SECONDS)
    ]
    found += [
        Finding(f"The worker {worker} has quarantined {count} items.")
        for worker, count in trouble["quarantined"].items()
    ]
    return found


_COUNTED = (
    ("settlements_lost", "settlement", "{} was lost.", "/system"),
    ("reconcile_difference_credits", "credit", "The books differ by {}.", "/system"),
    ("journal_lag_seconds", "", "PostgreSQL is {:.0f} s behind the calls.", "/system"),
    ("poison_entries", "entry of the journal", "{} was set aside.", "/system"),
    ("outage_credit_calls", "call", "{} on outage credit is not settled yet.", "/system"),
    ("spooled_settlements", "settlement", "{} waits for Redis.", "/system"),
    ("webhooks_given_up", "webhook", "{} failed for good: it can be replayed.", "/money?list=events&status=failed"),
)


_IMPORTS_SHOWN = 5


@pages.get("/system")
async def show_system(page: Operator) -> Response:
    return await _system_page(page)


@pages.post("/system/reconcile")
async def reconcile(page: Operator) -> Response:
    """Begins to compare the books of all accounts; with `repair` it ends each difference, by the token once more."""
    repairs = page.form.is_checked("repair")
    if repairs and not await page.prove():
        return await _system_page(page, status=422)
    if await page.submit(lambda: page.api.post("/reconcile/runs", {"repair": repairs})) is None:
        return await _system_page(page, status=page.form.status)
    return page.visit.redirect("/system#books", "The books are being compared.")


@pages.post("/system/imports/{import_id}/cancel")
async def cancel_import(page: Operator) -> Response:
    await page.api.post(f"/imports/{segment(page.path('import_id'))}/cancel")
    notice = "The import stops after its current batch; the same command resumes it."
    return page.visit.redirect("/system#imports", notice)


@pages.post("/system/reconcile/{run_id}/cancel")
async def cancel_reconciliation(page: Operator) -> Response:
    await page.api.post(f"/reconcile/runs/{segment(page.path('run_id'))}/cancel")
    return page.visit.redirect("/system#books", "The comparison is canceled; what was repaired stays.")


async def _system_page(page: Operator, *, status: int = 200) -> Response:
    system, overview, poison, runs, imports = await asyncio.gather(
        page.api.get("/system"),
        page.api.get("/overview"),
        page.api.get("/poison-entries", cursor=page.param("cursor"), limit=20),
        page.api.get("/reconcile/runs"),
        page.api.get("/imports", limit=_IMPORTS_SHOWN),
    )
    trouble = overview["trouble"]
    context = {
        "imports": imports["data"],
        "system": system,
        "trouble": trouble,
        "poison": poison,
        "run": next(iter(runs["data"]), None),
        "form": page.form,
    }
    return page.render("system.html", status=status, warnings=warnings_of(trouble), **context)
