"""The part of Stripe's API that the gateway uses, over objects in memory in the form of API version 2026-10-28.

Methods stand for the acts of persons and of time: a buyer pays, a period ends, a bank disputes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Object = dict[str, Any]
MONTH = 30 * 86_400


class FakeStripe:
    """`prices` are amounts in cents by price id. `down` makes every request fail with 503, `key_refused` with that."""

    def __init__(self, prices: dict[str, int]) -> None:
        self.prices = prices
        self.metered: set[str] = set()
        self.now = int(time.time())
        self.down = False
        self.key_refused: int | None = None
        self.requests: list[tuple[str, str]] = []
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.meter_events: dict[str, Object] = {}
        self._delivered = 0
        self._answers: dict[str, Object] = {}
        self._numbers = itertools.count(1)
        self.app = Starlette(
            routes=[Route("/v1/{path:path}", self._serve, methods=["GET", "POST", "DELETE"])],
        )

    # Acts of persons and of time.

    def new_events(self) -> list[Object]:
        """The events since the last call."""
        delivered, self._delivered = self._delivered, len(self.events)
        return self.events[delivered:]

    def pay_checkout(self, session_id: str) -> None:
        """The buyer pays at the checkout."""
        session = self.objects[session_id]
        session.update(status="complete", payment_status="paid")
        reference = session["_tagged"].get("metadata", {})
        if session["mode"] == "payment":
            intent = self._paid_intent(session["customer"], session["_amount"], metadata=reference)
            session["payment_intent"] = intent["id"]
        else:
            session["subscription"] = self._begin(session, reference)["id"]
        self.emit("checkout.session.completed", session)

    def renew(self, subscription_id: str, *, succeeds: bool = True) -> Object:
        """The period ends: the next begins, and its invoice is paid or not. Gives the invoice."""
        subscription = self.objects[subscription_id]
        item = subscription["items"]["data"][0]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] += MONTH
        self.now = max(self.now, item["current_period_start"])
        invoice = self._invoice(subscription, "subscription_cycle", self._price(subscription))
        if not succeeds:
            subscription["status"] = "past_due"
            invoice["attempted"] = True
            self.emit("invoice.payment_failed", invoice)
        else:
            self._pay(invoice)
        self.emit("customer.subscription.updated", subscription)
        return invoice

    def begin_renewal(self, subscription_id: str) -> Object:
        """The period ends; the next one's invoice is a draft, which Stripe finalizes and charges an hour later."""
        subscription = self.objects[subscription_id]
        item = subscription["items"]["data"][0]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] += MONTH
        self.now = max(self.now, item["current_period_start"])
        invoice = self._invoice(subscription, "subscription_cycle", self._price(subscription))
        invoice["status"] = "draft"
        self.emit("customer.subscription.updated", subscription)
        return invoice

    def charge_renewal(self, invoice: Object, *, succeeds: bool = True) -> None:
        subscription = self.objects[invoice["parent"]["subscription_details"]["subscription"]]
        if succeeds:
            self._pay(invoice)
        else:
            invoice.update(status="open", attempted=True)
            subscription["status"] = "past_due"
            self.emit("invoice.payment_failed", invoice)
        self.emit("customer.subscription.updated", subscription)

    def recover(self, invoice_id: str) -> None:
        """A later attempt to charge succeeds."""
        invoice = self.objects[invoice_id]
        subscription = self.objects[invoice["parent"]["subscription_details"]["subscription"]]
        subscription["status"] = "active"
        self._pay(invoice)
        self.emit("customer.subscription.updated", subscription)

    def end(self, subscription_id: str) -> None:
        """Ends it: cancelled, at the end of its period, or unpaid."""
        subscription = self.objects[subscription_id]
        subscription.update(status="canceled", canceled_at=self.now, ended_at=self.now)
        self.emit("customer.subscription.deleted", subscription)

    def dispute(self, invoice_id: str, *, reason: str = "fraudulent") -> str:
        charge = self.charge_of(invoice_id)
        charge["disputed"] = True
        made = self._new("dp", "dispute", amount=charge["amount"], charge=charge["id"], status="needs_response")
        made["reason"] = reason
        self.emit("charge.dispute.created", made)
        return str(made["id"])

    def decide(self, dispute_id: str, status: str) -> None:
        self.objects[dispute_id]["status"] = status
        self.emit("charge.dispute.closed", self.objects[dispute_id])

    def charge_of(self, payment_id: str) -> Object:
        paying = self.objects[payment_id]
        intent = paying["_payments"][0]["payment"]["payment_intent"] if paying["object"] == "invoice" else payment_id
        return self.objects[self.objects[intent]["latest_charge"]]

    def refund(self, payment_id: str, amount: int | None = None) -> Object:
        charge = self.charge_of(payment_id)
        made = self._refund(charge["payment_intent"], amount)
        self.emit("charge.refunded", charge)
        return made

    def fail_refund(self, refund: Object) -> None:
        """The bank sends the money back: https://docs.stripe.com/refunds#failed-refunds."""
        refund["status"] = "failed"
        self.objects[refund["charge"]]["amount_refunded"] -= refund["amount"]
        self.emit("refund.failed", refund)

    # The API.

    async def _serve(self, request: Request) -> Response:
        self.requests.append((request.method, request.url.path))
        if self.down:
            return JSONResponse({"error": {"message": "down", "type": "api_error"}}, 503)
        if self.key_refused is not None:
            return JSONResponse({"error": {"message": "no", "type": "invalid_request_error"}}, self.key_refused)
        given = _nested(dict(await request.form()) if request.method == "POST" else dict(request.query_params))
        key = request.headers.get("idempotency-key", "")
        if request.method == "POST" and key in self._answers:
            return JSONResponse(self._answers[key])
        try:
            found = self._answer(request.method, request.path_params["path"].split("/"), given)
        except KeyError as missing:
            error = {
                "message": f"No such object: {missing}",
                "type": "invalid_request_error",
                "code": "resource_missing",
            }
            return JSONResponse({"error": error}, 404)
        answer = json.loads(json.dumps(found))
        if request.method == "POST" and key:
            self._answers[key] = answer
        return JSONResponse(answer)

    def _answer(self, method: str, path: list[str], given: Object) -> Object:
        expand = given.pop("expand", {})
        if method == "GET":
            return self._list(path[0], given) if len(path) == 1 else self._expanded(path[-1], list(expand.values()))
        if method == "DELETE":
            self.end(path[1])
            return self.objects[path[1]]
        makers: dict[str, Callable[[Object], Object]] = {
            "customers": lambda params: self._new(
                "cus", "customer", email=params["email"], metadata=params["metadata"]
            ),
            "checkout/sessions": self._session,
            "billing_portal/sessions": lambda _: self._new("bps", "billing_portal.session", url="https://portal.test"),
            "refunds": lambda params: self._asked_refund(params["payment_intent"], params.get("amount")),
            "billing/meter_events": self._meter_event,
        }
        if path[0] == "subscriptions":
            return self._update(self.objects[path[1]], given)
        return makers["/".join(path)](given)

    def _list(self, kind: str, wanted: Object) -> Object:
        if kind == "events":
            since = int(wanted["created"]["gte"])
            found = [event for event in reversed(self.events) if event["created"] >= since]
        elif kind == "invoice_payments":
            intent = (wanted.get("payment") or {}).get("payment_intent")
            found = [
                {**payment, "invoice": each["id"]}
                for each in self._all("invoice")
                for payment in each["_payments"]
                if wanted.get("invoice") == each["id"] or payment["payment"]["payment_intent"] == intent
            ]
        else:
            found = [each for each in self._all(kind.rstrip("s")) if each["charge"] == wanted["charge"]]
        places = {each["id"]: at for at, each in enumerate(found, start=1)}
        start = places[wanted["starting_after"]] if "starting_after" in wanted else 0
        limit = int(wanted.get("limit", 10))
        page = found[start : start + limit]
        return {"object": "list", "url": f"/v1/{kind}", "data": page, "has_more": len(found) > start + limit}

    def _expanded(self, object_id: str, names: list[str]) -> Object:
        found = {name: value for name, value in self.objects[object_id].items() if not name.startswith("_")}
        for name in names:
            if isinstance(found.get(name), str):
                found[name] = self.objects[found[name]]
        return found

    def _session(self, params: Object) -> Object:
        price = params["line_items"]["0"]
        kind = "subscription_data" if params["mode"] == "subscription" else "payment_intent_data"
        made = self._new(
            "cs",
            "checkout.session",
            mode=params["mode"],
            status="open",
            payment_status="unpaid",
            customer=params["customer"],
            client_reference_id=params["client_reference_id"],
            subscription=None,
            payment_intent=None,
            _tagged=params.get(kind, {}),
            _price=price["price"],
            _line_items=params["line_items"],
            _quantity=int(price.get("quantity", 1)),
            _amount=self.prices[price["price"]] * int(price.get("quantity", 1)),
        )
        made["url"] = f"https://checkout.test/{made['id']}"
        return made

    def _begin(self, session: Object, metadata: Object) -> Object:
        item = {
            "id": f"si_{session['id']}",
            "object": "subscription_item",
            "price": {"id": session["_price"], "object": "price"},
            "quantity": session["_quantity"],
            "current_period_start": self.now,
            "current_period_end": self.now + MONTH,
        }
        subscription = self._new(
            "sub",
            "subscription",
            customer=session["customer"],
            status="active",
            cancel_at_period_end=False,
            metadata=metadata,
            trial_start=None,
            trial_end=None,
            items={"object": "list", "data": [item]},
            latest_invoice=None,
        )
        invoice = self._invoice(subscription, "subscription_create", self._price(subscription))
        self.emit("customer.subscription.created", subscription)
        self._pay(invoice)
        return subscription

    def _update(self, subscription: Object, params: Object) -> Object:
        if "cancel_at_period_end" in params:
            subscription["cancel_at_period_end"] = params["cancel_at_period_end"] == "true"
        if "items" in params:
            item, change = subscription["items"]["data"][0], params["items"]["0"]
            difference = self.prices[change["price"]] - self.prices[item["price"]["id"]]
            item["price"] = {"id": change["price"], "object": "price"}
            if change["price"] in self.metered:
                assert "quantity" not in change, "Stripe refuses a quantity of a metered price"
                item.pop("quantity", None)
            else:
                item["quantity"] = int(change.get("quantity", item.get("quantity", 1)))
            self._pay(self._invoice(subscription, "subscription_update", max(0, difference)))
        self.emit("customer.subscription.updated", subscription)
        return subscription

    def _price(self, subscription: Object) -> int:
        item = subscription["items"]["data"][0]
        return self.prices[item["price"]["id"]] * int(item.get("quantity", 1))

    def _invoice(self, subscription: Object, reason: str, amount: int) -> Object:
        item = subscription["items"]["data"][0]
        line = {
            "id": f"il_{next(self._numbers)}",
            "object": "line_item",
            "amount": amount,
            "description": "1 x Plan",
            "quantity": item.get("quantity"),
            "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
            "parent": {"subscription_item_details": {"proration": reason == "subscription_update"}},
            "pricing": {"price_details": {"price": item["price"]["id"]}},
        }
        invoice = self._new(
            "in",
            "invoice",
            customer=subscription["customer"],
            status="open",
            attempted=False,
            billing_reason=reason,
            amount_due=amount,
            amount_paid=0,
            subtotal=amount,
            total=amount,
            total_excluding_tax=amount,
            number=f"F-{next(self._numbers):04}",
            lines={"object": "list", "data": [line]},
            parent={"type": "subscription_details", "subscription_details": {"subscription": subscription["id"]}},
            _payments=[],
            status_transitions={"finalized_at": self.now, "paid_at": None},
            hosted_invoice_url="https://invoice.test",
        )
        subscription["latest_invoice"] = invoice["id"]
        self.emit("invoice.finalized", invoice)
        return invoice

    def _pay(self, invoice: Object) -> None:
        intent = self._paid_intent(invoice["customer"], invoice["amount_due"], metadata={})
        payment = {"type": "payment_intent", "payment_intent": intent["id"]}
        invoice["_payments"] = [{"id": f"inpay_{invoice['id']}", "object": "invoice_payment", "payment": payment}]
        invoice.update(status="paid", attempted=True, amount_paid=invoice["amount_due"])
        invoice["status_transitions"]["paid_at"] = self.now
        self.emit("invoice.paid", invoice)

    def _paid_intent(self, customer: str, amount: int, *, metadata: Object) -> Object:
        intent = self._new(
            "pi", "payment_intent", customer=customer, amount=amount, status="succeeded", metadata=metadata
        )
        charge = self._new(
            "ch",
            "charge",
            customer=customer,
            amount=amount,
            amount_refunded=0,
            disputed=False,
            payment_intent=intent["id"],
            payment_method_details={"type": "card", "card": {"brand": "visa"}},
        )
        intent["latest_charge"] = charge["id"]
        return intent

    def _asked_refund(self, intent_id: str, amount: str | None) -> Object:
        made = self._refund(intent_id, int(amount) if amount else None)
        self.emit("charge.refunded", self.objects[made["charge"]])
        return made

    def _refund(self, intent_id: str, amount: int | None) -> Object:
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        back = charge["amount"] - charge["amount_refunded"] if amount is None else amount
        charge["amount_refunded"] += back
        return self._new("re", "refund", amount=back, charge=charge["id"], payment_intent=intent_id, status="succeeded")

    def _meter_event(self, params: Object) -> Object:
        return self.meter_events.setdefault(params["identifier"], {"object": "billing.meter_event", **params})

    def _all(self, kind: str) -> list[Object]:
        return [each for each in self.objects.values() if each["object"] == kind]

    def _new(self, prefix: str, kind: str, **fields: Any) -> Object:
        object_id = f"{prefix}_{id(self) % 10_000:04}{next(self._numbers)}"
        made = {"id": object_id, "object": kind, "created": self.now, "currency": "usd", "livemode": False, **fields}
        self.objects[object_id] = made
        return made

    def emit(self, event_type: str, about: Object) -> None:
        shown = {name: value for name, value in about.items() if not name.startswith("_")}
        event = {
            "id": f"evt_{id(self) % 10_000:04}{next(self._numbers)}",
            "object": "event",
            "type": event_type,
            "created": self.now,
            "livemode": False,
            "data": {"object": json.loads(json.dumps(shown))},
        }
        self.events.append(event)


def signed(payload: Object, secret: str, *, at: int | None = None) -> tuple[bytes, dict[str, str]]:
    """A delivery of the event, its signature by the official SDK."""
    body = json.dumps(payload)
    moment = int(time.time()) if at is None else at
    signature = stripe.WebhookSignature._compute_signature(f"{moment}.{body}", secret)
    return body.encode(), {"stripe-signature": f"t={moment},v1={signature}"}


def _nested(form: dict[str, Any]) -> Object:
    """`a[b][0]=c` as {"a": {"b": {"0": "c"}}}."""
    found: Object = {}
    for name, value in form.items():
        *path, last = name.replace("]", "").split("[")
        at = found
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return found


class DirectClient:
    """Calls the fake without HTTP, for tests with hundreds of lifecycles: `v1.invoices.retrieve_async` and so on."""

    def __init__(self, world: FakeStripe, path: tuple[str, ...] = ()) -> None:
        self._world = world
        self._path = path

    def __getattr__(self, name: str) -> DirectClient:
        return DirectClient(self._world, self._path if name == "v1" else (*self._path, name))

    async def __call__(self, *given: Any) -> _Response:
        *service, verb = self._path
        path = "/".join(service).split("/")
        params: Object = next((each for each in given if isinstance(each, dict)), {})
        if verb == "retrieve_async":
            expand = dict(enumerate(params.get("expand", [])))
            return _Response(self._world._answer("GET", [*path, given[0]], {"expand": expand}))
        if verb == "list_async":
            return _Response(self._world._answer("GET", path, dict(params)))
        return _Response(self._world._answer("POST", path, json.loads(json.dumps(params), object_hook=_numbered)))


class _Response:
    def __init__(self, found: Object) -> None:
        self._found = json.dumps(found)

    def to_dict(self) -> Object:
        answer: Object = json.loads(self._found)
        return answer


def _numbered(found: Object) -> Object:
    """Lists as a form has them: {"0": …}."""
    return {
        name: {str(at): each for at, each in enumerate(value)} if isinstance(value, list) else value
        for name, value in found.items()
    }
