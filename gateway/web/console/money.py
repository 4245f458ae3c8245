"""Payments, refunds, invoices, and the webhooks of payment providers."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.web.console.in_process import is_uuid, segment
from gateway.web.console.operator import Operator
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

LISTS = {"payments": "Payments", "invoices": "Invoices", "events": "Webhooks"}
STATUSES = {
    "payments": ("pending", "completed", "failed", "refunded", "partially_refunded", "disputed"),
    "invoices": ("draft", "open", "paid", "void", "uncollectible"),
    "events": ("received", "processed", "ignored", "failed"),
}
_PATHS = {"payments": "/payments", "invoices": "/invoices", "events": "/webhook-events"}


@pages.get("/money")
async def show_money(page: Operator) -> Response:
    wanted = page.param("list")
    chosen = wanted if wanted in LISTS else "payments"
    status = page.param("status")
    filters: dict[str, Any] = {"status": status if status in STATUSES[chosen] else None}
    if chosen != "events":
        filters["user_id"] = page.param("user_id")
    wanted_id = page.param("id") or ""
    if is_uuid(wanted_id):
        found = {"data": [await page.api.get(f"{_PATHS[chosen]}/{wanted_id}")], "next_cursor": None}
    else:
        found = await page.api.get(_PATHS[chosen], **filters, cursor=page.param("cursor"), limit=30)
    form = Form(defaults={"status": filters["status"] or "", "user_id": filters.get("user_id")})
    runs = (await page.api.get("/webhook-events/replays"))["data"] if chosen == "events" else []
    context: dict[str, Any] = {"lists": LISTS, "chosen": chosen, "statuses": STATUSES[chosen], "page": found}
    context |= {"form": form, "run": runs[0] if runs else None, "is_single": is_uuid(wanted_id)}
    return page.render("money.html", **context)


@pages.get("/payments/{payment_id}")
async def show_payment(page: Operator) -> Response:
    return await _payment_page(page)


@pages.post("/payments/{payment_id}/refund")
async def refund(page: Operator) -> Response:
    form = page.form
    if not await page.prove():
        return await _payment_page(page, status=422)
    body = {"payment_id": page.path("payment_id"), "reason": form.required("reason")}
    if amount := form.text("amount"):
        body["amount"] = amount
    if await page.submit(lambda: page.api.post("/refunds", body, once=page.once)) is None:
        return await _payment_page(page, status=form.status)
    return page.visit.redirect(f"/payments/{segment(page.path('payment_id'))}", "The refund is under way.")


@pages.post("/events/{event_id}/replay")
async def replay(page: Operator) -> Response:
    event = await page.api.post(f"/webhook-events/{segment(page.path('event_id'))}/replay")
    done = event["status"] in ("processed", "ignored", "received")
    text = f"{event['event_type']} is {event['status']}."
    if event["error_message"]:
        text += f" {event['error_message']}"
    return page.visit.redirect("/money?list=events", text, tone="done" if done else "problem")


@pages.post("/replays")
async def replay_failed(page: Operator) -> Response:
    if await page.submit(lambda: page.api.post("/webhook-events/replays")) is None:
        return page.visit.redirect("/money?list=events", page.form.message, tone="problem")
    return page.visit.redirect("/money?list=events", "The events that failed are acted on again.")


@pages.post("/replays/{run_id}/cancel")
async def cancel_replay(page: Operator) -> Response:
    await page.api.post(f"/webhook-events/replays/{segment(page.path('run_id'))}/cancel")
    return page.visit.redirect("/money?list=events", "The replay is canceled; what was acted on stays so.")


async def _payment_page(page: Operator, *, status: int = 200) -> Response:
    payment = await page.api.get(f"/payments/{segment(page.path('payment_id'))}")
    return page.render("payment.html", status=status, payment=payment, form=page.form)
