"""A shop where paid plans of the demo are bought for no money: the part of Lemon Squeezy's API that the gateway calls.

It keeps what was bought in memory. Ids of variants tell their price, so the shop needs no list of products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from html import escape
from itertools import count
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.clock import now

STORE_ID = "1"
PERIOD = timedelta(days=30)
_CENTS = 10**7
_FILTERED = "filter["
Resource = dict[str, Any]

_PAGE = """<!doctype html><meta charset="utf-8"><title>Demo shop</title>
<h1>Demo shop</h1><p>{count} x {price} USD a month{off}, for {email}.
No money is taken: this page is part of the demo.</p>
<form method="post"><button>Pay</button></form><p>Or close this page, and nothing is bought.</p>"""


def variant_id(number: int, *, cents: int) -> str:
    """Of the plan of this number, from 1 on."""
    return str(number * _CENTS + cents)


def build() -> ASGIApp:
    """The shop at `/store` of its address; `/store/v1` is its API."""
    shop = _Shop()
    return Starlette(
        routes=[
            Route("/checkout/{id}", shop.show_checkout),
            Route("/checkout/{id}", shop.pay, methods=["POST"]),
            Route("/v1/{kind}", shop.list_or_create, methods=["GET", "POST"]),
            Route("/v1/{kind}/{id}", shop.get_or_change, methods=["GET", "PATCH", "DELETE"]),
            Route("/v1/{kind}/{id}/refund", shop.refund, methods=["POST"]),
        ]
    )


class _Shop:
    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Resource] = {}
        # An id of before a restart never returns.
        self._ids: Iterator[int] = count(int(now().timestamp()))

    async def show_checkout(self, request: Request) -> Response:
        checkout = self._get("checkouts", request.path_params["id"])
        price, amount = divmod(_cents(_variant(checkout)), 100)
        data = checkout["attributes"]["checkout_data"]
        page = _PAGE.format(
            count=_quantity(checkout),
            off=f", less {off / 100:.2f} USD" if (off := self._discount(checkout)) else "",
            price=f"{price}.{amount:02}",
            email=escape(data["email"]),
        )
        return HTMLResponse(page)

    async def pay(self, request: Request) -> Response:
        checkout = self._get("checkouts", request.path_params["id"])
        buyer = self._customer(checkout["attributes"]["checkout_data"]["email"])
        variant, quantity = _variant(checkout), _quantity(checkout)
        of_buyer = {"customer_id": int(buyer["id"]), "user_email": buyer["attributes"]["email"]}
        cents = _cents(variant) * quantity - self._discount(checkout)
        order = self._create("orders", **of_buyer, **_paid(cents), first_order_item={"variant_id": variant})
        subscription = self._create(
            "subscriptions",
            **of_buyer,
            order_id=int(order["id"]),
            variant_id=variant,
            status="active",
            cancelled=False,
            renews_at=(now() + PERIOD).isoformat(),
            ends_at=None,
            pause=None,
        )
        subscription["attributes"]["first_subscription_item"] = {"id": int(subscription["id"]), "quantity": quantity}
        self._invoice(subscription, "initial", cents)
        return RedirectResponse(checkout["attributes"]["product_options"]["redirect_url"], 303)

    async def list_or_create(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind == "prices":
            variant = int(request.query_params["filter[variant_id]"])
            price = {"unit_price": _cents(variant), "scheme": "standard", "renewal_interval_unit": "month"}
            return JSONResponse({"data": [{"type": kind, "id": str(variant), "attributes": price}]})
        if request.method == "GET":
            return JSONResponse({"data": self._list(kind, request.query_params), "meta": {"page": {"lastPage": 1}}})
        attributes = (await request.json())["data"]["attributes"]
        if kind == "customers":
            return JSONResponse({"data": self._customer(attributes["email"])})
        if kind == "discounts":
            return JSONResponse({"data": self._create(kind, **attributes)})
        made = self._create("checkouts", **attributes)
        made["attributes"]["url"] = f"{str(request.url).partition('/v1/')[0]}/checkout/{made['id']}"
        return JSONResponse({"data": made})

    async def get_or_change(self, request: Request) -> Response:
        kind, object_id = request.path_params["kind"], request.path_params["id"]
        if kind == "subscription-items":
            subscription = self._get("subscriptions", object_id)
            changes = (await request.json())["data"]["attributes"]
            self._change(subscription, first_subscription_item={"id": int(object_id), "quantity": changes["quantity"]})
            return JSONResponse({"data": subscription})
        found = self._get(kind, object_id)
        if request.method == "DELETE":
            self._change(found, status="cancelled", cancelled=True, ends_at=found["attributes"]["renews_at"])
        elif request.method == "PATCH":
            self._patch(found, (await request.json())["data"]["attributes"])
        return JSONResponse({"data": found})

    async def refund(self, request: Request) -> Response:
        found = self._get(request.path_params["kind"], request.path_params["id"])
        of = found["attributes"]
        wanted = (await request.json())["data"]["attributes"].get("amount", of["total"] - of["refunded_amount"])
        back = min(of["total"], of["refunded_amount"] + wanted)
        is_all = back == of["total"]
        status = "refunded" if is_all else "partial_refund"
        self._change(found, refunded=is_all, refunded_amount=back, refunded_at=now().isoformat(), status=status)
        return JSONResponse({"data": found})

    def _patch(self, subscription: Resource, changes: Mapping[str, Any]) -> None:
        of = subscription["attributes"]
        if "variant_id" in changes:
            before, after = of["variant_id"], changes["variant_id"]
            self._change(subscription, variant_id=after)
            left = (datetime.fromisoformat(of["renews_at"]) - now()) / PERIOD
            dearer = max(0, _cents(after) - _cents(before)) * of["first_subscription_item"]["quantity"]
            self._invoice(subscription, "updated", round(dearer * left))
        elif "pause" in changes:
            self._change(subscription, status="paused" if changes["pause"] else "active", pause=changes["pause"])
        else:
            self._change(subscription, status="active", cancelled=False, ends_at=None)

    def _invoice(self, subscription: Resource, reason: str, cents: int) -> None:
        of = subscription["attributes"]
        of_buyer = {name: of[name] for name in ("customer_id", "user_email")}
        bought = {"subscription_id": int(subscription["id"]), "billing_reason": reason, "discount_total": 0}
        self._create("subscription-invoices", **of_buyer, **bought, **_paid(cents), card_brand="demo")

    def _discount(self, checkout: Resource) -> int:
        """Cents off the first payment."""
        cents = _cents(_variant(checkout)) * _quantity(checkout)
        code = checkout["attributes"]["checkout_data"].get("discount_code")
        for found in self._list("discounts", {"filter[code]": str(code)}):
            off = found["attributes"]
            amount = int(off["amount"])
            return min(cents, round(cents * amount / 100) if off["amount_type"] == "percent" else amount)
        return 0

    def _customer(self, email: str) -> Resource:
        for each in self._list("customers", {"filter[email]": email}):
            return each
        return self._create("customers", email=email)

    def _list(self, kind: str, query: Mapping[str, str]) -> list[Resource]:
        wanted = {name[len(_FILTERED) : -1]: value for name, value in query.items() if name.startswith(_FILTERED)}
        return [
            each
            for (of, _), each in reversed(self._found.items())
            if of == kind and all(str(each["attributes"].get(name)) == value for name, value in wanted.items())
        ]

    def _get(self, kind: str, object_id: str) -> Resource:
        found = self._found.get((kind, object_id))
        if found is None:
            raise HTTPException(404)
        return found

    def _create(self, kind: str, **attributes: Any) -> Resource:
        object_id, at = str(next(self._ids)), now().isoformat()
        stamps = {"store_id": int(STORE_ID), "test_mode": True, "created_at": at, "updated_at": at}
        self._found[kind, object_id] = {"type": kind, "id": object_id, "attributes": {**stamps, **attributes}}
        return self._found[kind, object_id]

    def _change(self, found: Resource, **changes: Any) -> None:
        found["attributes"].update(changes, updated_at=now().isoformat())


def _paid(cents: int) -> dict[str, Any]:
    not_refunded = {"refunded": False, "refunded_amount": 0, "refunded_at": None}
    return {"currency": "USD", "subtotal": cents, "tax": 0, "total": cents, "status": "paid", **not_refunded}


def _cents(variant: int) -> int:
    return variant % _CENTS


def _variant(checkout: Resource) -> int:
    (variant,) = checkout["attributes"]["product_options"]["enabled_variants"]
    return int(variant)


def _quantity(checkout: Resource) -> int:
    for each in checkout["attributes"]["checkout_data"].get("variant_quantities", ()):
        return int(each["quantity"])
    return 1
