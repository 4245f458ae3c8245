"""When a customer is told that credits run low."""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.account import alerts
from gateway.api.account.alerts import Alerts, AlertsPatch
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer

# What the form offers, besides what somebody chose by the API.
OFFERED = (50, 75, 80, 90, 100)

customers: PageRoutes[Customer] = PageRoutes()


@customers.get("/alerts")
async def show_alerts(page: Customer) -> Response:
    return await _render(page)


@customers.post("/alerts")
async def submit_alerts(page: Customer) -> Response:
    form = page.visit.form

    async def call() -> Alerts:
        percents = [int(word) if word.isdecimal() else word for word in form.listed("percents")]
        fields = {"percents": percents, "balance_below": form.whole("balance_below")}
        return await alerts.change_alerts(AlertsPatch.model_validate(fields), page.me)

    if await form.submit(call) is None:
        return await _render(page, sent=form)
    return page.visit.redirect("/alerts", "Saved.")


async def _render(page: Customer, *, sent: Form | None = None) -> Response:
    found = await alerts.get_alerts(page.me)
    chosen = {word for word in sent.listed("percents") if word.isdecimal()} if sent else set(map(str, found.percents))
    return page.visit.render(
        "portal/alerts.html",
        status=sent.status if sent else 200,
        form=sent or Form(defaults={"balance_below": found.balance_below}),
        offered=sorted({*OFFERED, *found.percents}),
        chosen=chosen,
    )
