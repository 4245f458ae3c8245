"""Plans, prices and permissions: what is offered, and changes of it, shown as a difference before they are saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from starlette.responses import Response

from gateway.web.console.in_process import segment
from gateway.web.console.operator import Operator
from gateway.web.formats import number, words
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()


class Unreadable(ValueError):  # noqa: N818 - named for the condition
    """A field of several lines has one that means nothing."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Change(NamedTuple):
    field: str
    before: object
    after: object

    def told(self) -> Iterator[tuple[str, str, str]]:
        """What is changed, before and after, for people: of a mapping what differs of it."""
        if not isinstance(self.before, dict) or not isinstance(self.after, dict):
            yield words(self.field), _told(self.before), _told(self.after)
            return
        for name in {**self.before, **self.after}:
            if (before := self.before.get(name)) != (after := self.after.get(name)):
                yield f"{words(self.field)}: {words(name)}", _told(before), _told(after)


NUMBERS = (
    *("credits_per_period", "trial_period_days", "requests_per_minute", "requests_per_hour", "max_api_calls_per_day"),
    *("max_products_per_batch", "max_concurrent_requests", "max_file_size_bytes", "max_credits_per_call", "sort_order"),
)
TEXTS = ("name", "description", "price", "stripe_price_id", "lemon_squeezy_variant_id")
FLAGS = ("credits_rollover", "is_active")
_COUNTS = ("units", "input_tokens", "cached_input_tokens", "output_tokens")
_NULLABLE = frozenset(NUMBERS[2:-1]) | frozenset(TEXTS[3:]) | {"description", "overage"}
# Whom a change is for; empty leaves it to the rules of the API.
SUBSCRIBERS = {
    "": "By what changes: prices for the next period, all else at once",
    "migrate": "For everyone, at once",
    "keep": "For new subscribers only",
}


@pages.get("/plans")
async def show_plans(page: Operator) -> Response:
    return await _plans_page(page)


@pages.post("/permissions")
async def create_permission(page: Operator) -> Response:
    form = page.form
    body = {"name": form.required("name"), "description": form.text("description")}
    if await page.submit(lambda: page.api.post("/permissions", body, once=page.once)) is None:
        return await _plans_page(page)
    return page.visit.redirect("/plans#permissions", f"The permission {body['name']} exists; no plan has it yet.")


@pages.post("/permissions/{permission_id}/delete")
async def delete_permission(page: Operator) -> Response:
    """The API refuses one that a route, plan or key uses, and says which."""
    path = f"/permissions/{segment(page.path('permission_id'))}"
    await page.submit(lambda: page.api.call("DELETE", path))
    if page.form.message or page.form.errors:
        return await _plans_page(page)
    return page.visit.redirect("/plans#permissions", "The permission is deleted.")


async def _plans_page(page: Operator) -> Response:
    plans = (await page.api.get("/plans"))["data"]
    permissions = (await page.api.get("/permissions"))["data"]
    return page.render("plans.html", status=page.form.status, plans=plans, permissions=permissions, form=page.form)


@pages.get("/prices")
async def show_prices(page: Operator) -> Response:
    return await _prices_page(page)


@pages.post("/prices")
async def quote_price(page: Operator) -> Response:
    """What a call would cost, whoever makes it."""
    form = page.form
    body: dict[str, Any] = {"route": form.required("route")}
    body |= {name: form.whole(name) for name in _COUNTS if form.text(name)}
    if model := form.text("model"):
        body["model"] = model
    answer = await page.submit(lambda: page.api.post("/prices/quote", body))
    return await _prices_page(page, answer=answer)


async def _prices_page(page: Operator, *, answer: Any = None) -> Response:
    prices = (await page.api.get("/prices"))["data"]
    routes = [(name, name) for name in dict.fromkeys(price["endpoint"] for price in prices)]
    context = {"prices": prices, "routes": routes, "answer": answer, "form": page.form}
    return page.render("prices.html", status=page.form.status, **context)


@pages.get("/plans/{plan}")
async def show_plan(page: Operator) -> Response:
    plan = await _plan(page)
    return await _plan_page(page, plan, Form(defaults=_fields(plan)))


@pages.post("/plans/{plan}")
async def change_plan(page: Operator) -> Response:
    """Shows the difference first; with `confirmed`, which tells that this one was shown, it saves."""
    plan, form = await _plan(page), page.form
    try:
        changes = _changes(plan, form)
    except Unreadable as unreadable:
        form.refuse(unreadable.field, str(unreadable))
        return await _plan_page(page, plan, form, status=422)
    if not changes:
        form.message = "Nothing would change."
        return await _plan_page(page, plan, form, status=422)
    if form.text("confirmed") != _digest(plan, changes):
        return await _plan_page(page, plan, form, changes=changes)
    body = {change.field: change.after for change in changes}
    if form.text("subscribers") in SUBSCRIBERS:
        body["subscribers"] = form.text("subscribers")
    path = f"/plans/{segment(plan['id'])}"
    saved = await page.submit(lambda: page.api.call("PATCH", path, body=body))
    if saved is None:
        return await _plan_page(page, plan, form, status=form.status)
    return page.visit.redirect(f"/plans/{segment(plan['id'])}", f"Version {saved['version']} of {saved['name']} holds.")


async def _plan_page(
    page: Operator, plan: Mapping[str, Any], form: Form, *, status: int = 200, changes: list[Change] | None = None
) -> Response:
    permissions = (await page.api.get("/permissions"))["data"]
    granted = form.listed("permissions") if form.is_sent else plan["permissions"]
    fields = {"numbers": NUMBERS, "flags": FLAGS, "permissions": permissions, "granted": granted}
    fields["subscribers"] = SUBSCRIBERS
    fields["digest"] = _digest(plan, changes or [])
    return page.render("plan.html", status=status, plan=plan, form=form, changes=changes or [], **fields)


def _digest(plan: Mapping[str, Any], changes: Sequence[Change]) -> str:
    """Of a difference and the version that it is one to: another of either is shown before it is saved."""
    return sha256(json.dumps([plan["version"], changes]).encode()).hexdigest()


async def _plan(page: Operator) -> dict[str, Any]:
    found: dict[str, Any] = await page.api.get(f"/plans/{segment(page.path('plan'))}")
    return found


def _fields(plan: Mapping[str, Any]) -> dict[str, object]:
    """The plan as the fields of its form."""
    features = "\n".join(f"{name}: {json.dumps(value)}" for name, value in plan["features"].items())
    tiers = "\n".join(map(_tier, plan["tiers"]))
    overage = plan["overage"] or {}
    prices = {"overage_credits": overage.get("credits"), "overage_price": overage.get("price"), "tiers": tiers}
    return {**plan, **prices, "features": features}


def _tier(tier: Mapping[str, Any]) -> str:
    flat = tier["flat_price"]
    return f"{tier['up_to'] or '*'}: {tier['unit_price']}" + (f" {flat}" if flat != "0" else "")


def _told(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, list):
        return ", ".join(_tier(each) if isinstance(each, dict) else str(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value)


def _changes(plan: Mapping[str, Any], form: Form) -> list[Change]:
    """What the form would change. Raises Unreadable."""
    features = _read_features(form.raw("features"))
    wanted: dict[str, object] = {name: form.whole(name) for name in NUMBERS}
    wanted |= {name: form.text(name) for name in TEXTS}
    wanted |= {name: form.is_checked(name) for name in FLAGS}
    wanted |= {"features": features, "permissions": sorted(form.listed("permissions"))}
    wanted |= {"overage": _read_overage(form, plan), "tiers": _read_tiers(form.raw("tiers"))}
    return [
        Change(name, plan[name], after)
        for name, after in wanted.items()
        if after != plan[name] and (after is not None or name in _NULLABLE)
    ]


def _read_overage(form: Form, plan: Mapping[str, Any]) -> dict[str, object] | None:
    """None without credits; what Stripe bills it by stays as it is."""
    if form.text("overage_credits") is None:
        return None
    kept = (plan["overage"] or {}).get("stripe_price_id")
    price = form.text("overage_price")
    return {"credits": form.whole("overage_credits"), "price": price, "stripe_price_id": kept}


def _read_tiers(text: str) -> list[dict[str, object]]:
    """A line for each, `up to: price of each` or with a flat price behind; `*` for all the rest. Raises Unreadable."""
    found: list[dict[str, object]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        up_to, colon, prices = line.partition(":")
        limit, amounts = up_to.strip().replace(",", ""), prices.split()
        if not colon or len(amounts) not in (1, 2) or not (limit == "*" or limit.isdecimal()):
            raise Unreadable("tiers", f"a line such as `10000: 0.010` or `*: 0.006`, not `{line}`")
        flat = amounts[1] if len(amounts) == 2 else "0"
        found.append({"up_to": None if limit == "*" else int(limit), "unit_price": amounts[0], "flat_price": flat})
    return found


def _read_features(text: str) -> dict[str, object]:
    """A line for each, `name: value`. Raises Unreadable."""
    found: dict[str, object] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        try:
            found[name.strip()] = json.loads(value) if colon else True
        except ValueError:
            raise Unreadable("features", f"a line such as `analysis: true`, not `{line}`") from None
    return found
