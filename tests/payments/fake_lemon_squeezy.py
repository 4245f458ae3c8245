"""The part of Lemon Squeezy's API that the gateway uses, over JSON:API resources in memory in their documented form.

https://docs.lemonsqueezy.com/api. Methods stand for the acts of persons and of time: a payment, a renewal.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Resource = dict[str, Any]
STORE_ID = 7
MONTH = timedelta(days=30)


class FakeLemonSqueezy:
    """`prices` are amounts in cents by variant id. `limited` answers so many requests with 429 first.

    `key_refused` is what every request is answered with.
    """

    def __init__(self, prices: dict[str, int]) -> None:
        self.prices = dict(prices)
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.limited = 0
        self.discount = 0  # of orders, in cents, by a code
        self.key_refused: int | None = None
        self.found: dict[tuple[str, str], Resource] = {}
        self.webhooks: list[Resource] = []
        self._ids = itertools.count(1)
        self._delivered = 0
        self.app = Starlette(routes=[Route("/v1/{path:path}", self._serve, methods=["GET", "POST", "PATCH", "DELETE"])])

    def new_events(self) -> list[Resource]:
        delivered, self._delivered = self._delivered, len(self.webhooks)
        return self.webhooks[delivered:]

    # Acts of persons and of time.

    def pay_checkout(self, checkout_id: str, *, email: str | None = None) -> Resource:
        """The buyer pays at the checkout, perhaps under another address. Gives the subscription, else the order."""
        checkout = self.found["checkouts", checkout_id]
        bought, custom = checkout["attributes"]["checkout_data"], checkout["attributes"]["checkout_data"]["custom"]
        variant = checkout["relationships"]["variant"]["data"]["id"]
        buyer = email or bought["email"]
        customer_id = int(self._customer(buyer)["id"])
        order = self._order(customer_id, buyer, variant)
        self._emit("order_created", order, custom)
        if int(variant) >= 900:
            return order
        subscription = self._new(
            "subscriptions",
            customer_id=customer_id,
            order_id=int(order["id"]),
            variant_id=int(variant),
            user_email=buyer,
            status="active",
            cancelled=False,
            trial_ends_at=None,
            renews_at=self._at(MONTH),
            ends_at=None,
            first_subscription_item={"id": next(self._ids), "quantity": 1},
        )
        subscription["_custom"] = custom
        self._emit("subscription_created", subscription, custom)
        self._invoice(subscription, "initial", paid=True)
        return subscription

    def renew(self, subscription: Resource, *, succeeds: bool = True) -> Resource:
        self.now = max(self.now, datetime.fromisoformat(subscription["attributes"]["renews_at"]))
        self._touch(subscription, status="active" if succeeds else "past_due")
        self._touch(subscription, renews_at=self._at(MONTH if succeeds else timedelta(days=4)))
        invoice = self._invoice(subscription, "renewal", paid=succeeds)
        self._emit("subscription_updated", subscription, subscription["_custom"])
        return invoice

    def recover(self, subscription: Resource, invoice: Resource) -> None:
        self._touch(invoice, status="paid")
        began = datetime.fromisoformat(invoice["attributes"]["created_at"])
        self._touch(subscription, status="active", renews_at=(began + MONTH).isoformat())
        self._emit("subscription_payment_recovered", invoice, subscription["_custom"])
        self._emit("subscription_payment_success", invoice, subscription["_custom"])

    def expire(self, subscription: Resource) -> None:
        self._touch(subscription, status="expired", ends_at=self._at())
        self._emit("subscription_expired", subscription, subscription["_custom"])

    # The API.

    async def _serve(self, request: Request) -> Response:
        if self.limited:
            self.limited -= 1
            return JSONResponse({"errors": [{"detail": "Too many requests."}]}, 429, {"retry-after": "0"})
        if self.key_refused is not None:
            return JSONResponse({"errors": [{"detail": "Unauthenticated."}]}, self.key_refused)
        path = request.path_params["path"].split("/")
        body = json.loads(await request.body() or b"{}")
        try:
            found = self._answer(request.method, path, body.get("data", {}), dict(request.query_params))
        except KeyError:
            return JSONResponse({"errors": [{"detail": "The requested resource does not exist."}]}, 404)
        return JSONResponse(json.loads(json.dumps(found)))

    def _answer(self, method: str, path: list[str], given: Resource, wanted: dict[str, str]) -> Resource:
        if method == "GET":
            return (
                self._list(path[0], wanted) if len(path) == 1 else {"data": self._shown(self.found[path[0], path[1]])}
            )
        if method == "POST" and path[-1] == "refund":
            return {"data": self._refund(self.found[path[0], path[1]], given["attributes"].get("amount"))}
        if method == "POST" and path == ["customers"]:
            return {"data": self._customer(given["attributes"]["email"])}
        if method == "POST":
            made = self._new(path[0], **given["attributes"])
            made["attributes"]["url"] = f"https://store.test/checkout/{made['id']}"
            made["relationships"] = given["relationships"]
            return {"data": made}
        if path[0] == "subscription-items":
            return {"data": self._change_seats(path[1], **given["attributes"])}
        subscription = self.found["subscriptions", path[1]]
        if method == "DELETE":
            self._touch(
                subscription, status="cancelled", cancelled=True, ends_at=subscription["attributes"]["renews_at"]
            )
            self._emit("subscription_cancelled", subscription, subscription["_custom"])
        elif "variant_id" in given["attributes"]:
            self._touch(subscription, variant_id=given["attributes"]["variant_id"])
            self._invoice(subscription, "updated", paid=True, amount=2000)
            self._emit("subscription_plan_changed", subscription, subscription["_custom"])
        elif "pause" in given["attributes"]:
            pause = given["attributes"]["pause"]
            self._touch(subscription, status="paused" if pause else "active", pause=pause)
            name = "subscription_paused" if pause else "subscription_unpaused"
            self._emit(name, subscription, subscription["_custom"])
        else:
            self._touch(subscription, status="active", cancelled=False, ends_at=None)
            self._emit("subscription_resumed", subscription, subscription["_custom"])
        return {"data": self._shown(subscription)}

    def _change_seats(self, item_id: str, quantity: int, *, invoice_immediately: bool = False) -> Resource:
        """Charged at once where it is asked for, else with the renewal."""
        subscription = next(
            each
            for (kind, _), each in self.found.items()
            if kind == "subscriptions" and str(each["attributes"]["first_subscription_item"]["id"]) == item_id
        )
        of = subscription["attributes"]
        added = self.prices[str(of["variant_id"])] * (quantity - of["first_subscription_item"]["quantity"])
        self._touch(subscription, first_subscription_item={"id": int(item_id), "quantity": quantity})
        if invoice_immediately:
            self._invoice(subscription, "updated", paid=True, amount=added)
        return {"type": "subscription-items", "id": item_id, "attributes": {"quantity": quantity}}

    def _list(self, kind: str, wanted: dict[str, str]) -> Resource:
        filters = {name[7:-1]: value for name, value in wanted.items() if name.startswith("filter[")}
        found = [
            self._shown(each)
            for (of, _), each in reversed(self.found.items())
            if of == kind and all(str(each["attributes"].get(name)) == value for name, value in filters.items())
        ]
        size, number = int(wanted.get("page[size]", 10)), int(wanted.get("page[number]", 1))
        pages = max(1, -(-len(found) // size))
        return {"data": found[(number - 1) * size : number * size], "meta": {"page": {"lastPage": pages}}}

    def _customer(self, email: str) -> Resource:
        for (kind, _), each in self.found.items():
            if kind == "customers" and each["attributes"]["email"] == email:
                return each
        return self._new("customers", email=email, urls={"customer_portal": "https://store.test/billing"})

    def _order(self, customer_id: int, email: str, variant: str) -> Resource:
        amount = self.prices[variant]
        return self._new(
            "orders",
            customer_id=customer_id,
            user_email=email,
            currency="USD",
            subtotal=amount,
            discount_total=self.discount,
            tax=0,
            total=amount - self.discount,
            status="paid",
            refunded=False,
            refunded_amount=0,
            refunded_at=None,
            first_order_item={"variant_id": int(variant), "price": amount},
        )

    def _invoice(self, subscription: Resource, reason: str, *, paid: bool, amount: int | None = None) -> Resource:
        of = subscription["attributes"]
        price = self.prices[str(of["variant_id"])] if amount is None else amount
        invoice = self._new(
            "subscription-invoices",
            subscription_id=int(subscription["id"]),
            customer_id=of["customer_id"],
            user_email=of["user_email"],
            billing_reason=reason,
            card_brand="visa",
            currency="USD",
            status="paid" if paid else "pending",
            subtotal=price,
            discount_total=0,
            tax=0,
            total=price,
            refunded=False,
            refunded_amount=0,
            refunded_at=None,
            urls={"invoice_url": "https://store.test/invoice"},
        )
        name = "subscription_payment_success" if paid else "subscription_payment_failed"
        self._emit(name, invoice, subscription["_custom"])
        return invoice

    def _refund(self, found: Resource, amount: int | None) -> Resource:
        of = found["attributes"]
        back = of["total"] if amount is None else of["refunded_amount"] + amount
        status = "refunded" if back >= of["total"] else "partial_refund"
        self._touch(found, refunded=status == "refunded", refunded_amount=back, refunded_at=self._at(), status=status)
        custom: Resource = {}
        self._emit("order_refunded" if found["type"] == "orders" else "subscription_payment_refunded", found, custom)
        return self._shown(found)

    def _new(self, kind: str, **attributes: Any) -> Resource:
        named = str(next(self._ids))
        stamps = {"store_id": STORE_ID, "test_mode": True, "created_at": self._at(), "updated_at": self._at()}
        self.found[kind, named] = {"type": kind, "id": named, "attributes": {**stamps, **attributes}}
        return self.found[kind, named]

    def _touch(self, found: Resource, **changes: Any) -> None:
        self.now += timedelta(seconds=1)
        found["attributes"].update(changes, updated_at=self._at())

    def _at(self, later: timedelta = timedelta()) -> str:
        return (self.now + later).strftime("%Y-%m-%dT%H:%M:%S.000000Z")

    def _shown(self, found: Resource) -> Resource:
        return {name: value for name, value in found.items() if not name.startswith("_")}

    def _emit(self, name: str, about: Resource, custom: Resource) -> None:
        meta = {"event_name": name, "test_mode": True, "custom_data": custom}
        self.webhooks.append(json.loads(json.dumps({"meta": meta, "data": self._shown(about)})))


def signed(payload: Resource, secret: str) -> tuple[bytes, dict[str, str]]:
    body = json.dumps(payload).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return body, {"x-event-name": payload["meta"]["event_name"], "x-signature": digest}
