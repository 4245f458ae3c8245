"""Coupons: which there are, making and disabling them, and who used one."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.web.console.in_process import is_uuid
from gateway.web.console.operator import Operator
from gateway.web.forms import Form, end_of_day
from gateway.web.pages import PageRoutes

pages: PageRoutes[Operator] = PageRoutes()

KINDS = {"percent_off": "Percent off", "amount_off": "Amount off", "bonus_credits": "More credits with a pack"}


@pages.get("/coupons")
async def show_coupons(page: Operator) -> Response:
    return await _list(page, Form(defaults={"kind": "percent_off", "periods": 1, "once_per_account": True}))


@pages.post("/coupons")
async def make_coupon(page: Operator) -> Response:
    form = page.form
    made = await page.submit(lambda: page.api.post("/coupons", _body(form), once=page.once))
    if made is None:
        form.blame(dict.fromkeys(KINDS, "value"))
        return await _list(page, form)
    return page.visit.redirect("/coupons", f"Customers can enter {made['code']} from now on.")


@pages.get("/coupons/{coupon_id}")
async def show_coupon(page: Operator) -> Response:
    coupon_id = _id(page)
    coupon = await page.api.get(f"/coupons/{coupon_id}")
    used = await page.api.get("/coupon-redemptions", coupon_id=coupon_id, cursor=page.param("cursor"), limit=30)
    return page.render("coupon.html", coupon=coupon, page=used)


@pages.post("/coupons/{coupon_id}")
async def set_active(page: Operator) -> Response:
    body = {"is_active": page.form.is_checked("is_active")}
    coupon = await page.api.call("PATCH", f"/coupons/{_id(page)}", body=body)
    state = "can be entered again" if coupon["is_active"] else "is disabled: no new checkout takes it"
    return page.visit.redirect(f"/coupons/{coupon['id']}", f"{coupon['code']} {state}.")


async def _list(page: Operator, form: Form) -> Response:
    found = await page.api.get("/coupons", cursor=page.param("cursor"), limit=30)
    return page.render("coupons.html", status=form.status, page=found, form=form, kinds=list(KINDS.items()))


def _body(form: Form) -> dict[str, Any]:
    """What is left out holds for all: every plan and pack, without a limit."""
    body: dict[str, Any] = {"code": form.required("code"), "once_per_account": form.is_checked("once_per_account")}
    kind = form.raw("kind") if form.raw("kind") in KINDS else "percent_off"
    body[kind] = form.whole("value") if kind == "bonus_credits" else form.required("value")
    if kind == "amount_off":
        body["currency"] = form.required("currency").upper()
    body |= {name: form.whole(name) for name in ("periods", "max_redemptions") if form.text(name)}
    if description := form.text("description"):
        body["description"] = description
    if last_day := form.text("expires_at"):
        body["expires_at"] = end_of_day(last_day)
    return body | {name: form.listed(name) for name in ("plans", "packs") if form.text(name)}


def _id(page: Operator) -> str:
    found = page.path("coupon_id")
    if not is_uuid(found):
        raise HTTPException(404)
    return found
