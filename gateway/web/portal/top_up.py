"""Automatic top-ups: the customer says what may be charged, saves a card, and turns it off."""

from __future__ import annotations

from starlette.responses import Response

from gateway.api.account.billing import checkout, top_up
from gateway.api.account.billing.top_up import TopUpAgreement
from gateway.api.selling.top_ups import TopUp
from gateway.web.forms import Form
from gateway.web.pages import PageRoutes
from gateway.web.portal.customer import Customer

customers: PageRoutes[Customer] = PageRoutes()

FIELDS = ("pack", "threshold", "daily_limit", "monthly_limit")


@customers.get("/top-up")
async def show_top_up(page: Customer) -> Response:
    """A customer who comes back from saving a card sees it, before the provider's message is here."""
    found = await top_up.get_top_up(page.me)
    if found.status in ("awaiting_card", "stopped") and top_up.can_top_up(page.portal.checkout_service):
        asked = await Form().submit(
            lambda: top_up.confirm_card(page.me, page.portal.account, page.portal.checkout_service)
        )
        found = asked or found
    return await _render(page, Form(defaults={name: getattr(found, name) for name in FIELDS}), found)


@customers.post("/top-up")
async def agree(page: Customer) -> Response:
    form, portal = page.visit.form, page.portal

    async def call() -> TopUp:
        fields = {name: form.required(name) for name in FIELDS} | {"threshold": form.whole("threshold")}
        body = TopUpAgreement.model_validate(fields)
        return await top_up.agree_to_top_up(body, page.me, portal.checkout_service)

    agreed = await form.submit(call)
    if agreed is None:
        return await _render(page, form, await top_up.get_top_up(page.me))
    return await _card_page(page, form) if agreed.card is None else page.visit.redirect("/top-up", "It is on.")


@customers.post("/top-up/card")
async def save_card(page: Customer) -> Response:
    return await _card_page(page, page.visit.form)


@customers.post("/top-up/off")
async def turn_off(page: Customer) -> Response:
    await top_up.turn_off_top_up(page.me)
    return page.visit.redirect("/top-up", "It is off: nothing is charged by itself any more.")


async def _card_page(page: Customer, form: Form) -> Response:
    portal = page.portal
    link = await form.submit(lambda: top_up.save_card(page.me, portal.account, portal.checkout_service))
    if link is None:
        return await _render(page, form, await top_up.get_top_up(page.me))
    return page.visit.render("portal/to_provider.html", url=link.url, what="a card to top up with; nothing is paid yet")


async def _render(page: Customer, form: Form, found: TopUp) -> Response:
    service = page.portal.checkout_service
    packs = (await checkout.list_packs(page.me, service)).data
    return page.visit.render(
        "portal/top_up.html",
        status=form.status,
        form=form,
        top_up=found,
        can_top_up=top_up.can_top_up(service),
        packs=[(pack.id, f"{pack.name}, {pack.price} {pack.currency}") for pack in packs],
    )
