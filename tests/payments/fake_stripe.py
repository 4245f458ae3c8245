"""The part of Stripe's API that the gateway uses, over objects in memory in the form of API version 2026-10-28.

Methods stand for the acts of persons and banks: a buyer pays, a bank disputes. `clock` advances time as Stripe's test
clocks do, and does what is due by then. Requests are answered in the version that they ask for, events have that of
`events_version`.
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

from tests.payments.stripe.fake.changes import FakeChanges, Refusal
from tests.payments.stripe.fake.changes import Object as Object
from tests.payments.stripe.fake.clock import DAY, FakeClock
from tests.payments.stripe.fake.dashboard import FakeDashboard
from tests.payments.stripe.fake.faults import Faults
from tests.payments.stripe.fake.promotions import FakePromotions
from tests.payments.stripe.fake.saved_cards import FakeSavedCards
from tests.payments.stripe.fake.versions import ENDIVE, in_version

MONTH = 30 * 86_400


class FakeStripe:
    """`prices` are amounts in cents by price id. `down` makes every request fail with 503, `key_refused` with that.

    `cards` says how the card of a customer behaves: "good" where it is not named, "declined", or "3ds", which asks
    for a confirmation of every payment that the customer did not start at a checkout. A key of the other mode than
    `is_live` sees nothing.
    """

    def __init__(self, prices: dict[str, int], *, is_live: bool = False) -> None:
        self.is_live = is_live
        self.prices = dict(prices)
        self.metered: set[str] = set()
        self.intervals: dict[str, tuple[str, int]] = {}
        self.cards: dict[str, str] = {}
        self.balances: dict[str, int] = {}
        self.sessions: list[Object] = []
        self.refunds_refused = False
        self.changes = FakeChanges(self)
        self.promotions = FakePromotions(self)
        self.saved = FakeSavedCards(self)
        self.dashboard = FakeDashboard(self)
        self.faults = Faults(self, self._serve)
        self.clock = FakeClock(self)
        self.events_version = ENDIVE
        self.answers_version: str | None = None
        self.now = int(time.time())
        self.down = False
        self.key_refused: int | None = None
        self.forbidden: set[str] = set()  # resources for which a restricted key has no permission
        self.requests: list[tuple[str, str]] = []
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.meter_events: dict[str, Object] = {}
        self._delivered = 0
        self._answers: dict[str, tuple[str, Object, int, int]] = {}
        self._numbers = itertools.count(1)
        self.app = Starlette(
            routes=[Route("/v1/{path:path}", self.faults.serve, methods=["GET", "POST", "DELETE"])],
        )

    # Acts of persons and of time.

    def forget(self, *, now: int) -> None:
        """Begins anew at that time, with the prices of before."""
        for kept in (self.objects, self.events, self.cards, self.balances):
            kept.clear()
        self._delivered, self.now = 0, now

    def new_events(self) -> list[Object]:
        """The events since the last call."""
        delivered, self._delivered = self._delivered, len(self.events)
        return self.events[delivered:]

    def pay_checkout(self, session_id: str) -> None:
        """The buyer pays at the checkout. Where a promotion code leaves nothing to pay, there is no payment."""
        session = self.objects[session_id]
        self.promotions.redeem(session)
        is_free = session["mode"] == "payment" and not session["_amount"]
        session.update(status="complete", payment_status="no_payment_required" if is_free else "paid")
        if session["mode"] == "subscription":
            session["subscription"] = self._begin(session, session["_tagged"].get("metadata", {}))["id"]
        elif not is_free:
            tagged = session["_tagged"].get("metadata", {})
            intent = self.pay_intent(session["customer"], session["_amount"], metadata=tagged)
            session["payment_intent"] = intent["id"]
        self.emit("checkout.session.completed", session)

    def enter_code(self, session_id: str, *, off: int) -> None:
        """The buyer has a promotion code, for so many cents."""
        session = self.objects[session_id]
        session["_off"] = off
        session["_amount"] -= off

    def complete_unpaid(self, session_id: str, *, intent_status: str = "processing") -> str:
        """The buyer completes the checkout of a subscription by a debit that takes days, or must confirm the payment.

        Gives the id of the subscription, which is incomplete.
        """
        session = self.objects[session_id]
        session.update(status="complete", payment_status="unpaid")
        subscription = self._subscription_of(session, session["_tagged"].get("metadata", {}), status="incomplete")
        session["subscription"] = subscription["id"]
        invoice = self.invoice(subscription, "subscription_create", self.lines_of(subscription))
        invoice["attempted"] = True
        self.attach_intent(invoice, self.open_intent(invoice, status=intent_status))
        self.emit("customer.subscription.created", subscription)
        self.emit("checkout.session.completed", session)
        return str(subscription["id"])

    def settle_debit(self, session_id: str, *, succeeds: bool) -> None:
        """What became of the payment of `complete_unpaid`."""
        session = self.objects[session_id]
        subscription = self.objects[session["subscription"]]
        invoice = self.objects[subscription["latest_invoice"]]
        if succeeds:
            session["payment_status"] = "paid"
            subscription["status"] = "active"
            self.pay(invoice)
        else:
            intent = self.objects[invoice["_payments"][0]["payment"]["payment_intent"]]
            intent.update(status="requires_payment_method", last_payment_error={"message": "insufficient funds"})
            self.emit("invoice.payment_failed", invoice)
        self.emit("customer.subscription.updated", subscription)
        self.emit(f"checkout.session.async_payment_{'succeeded' if succeeds else 'failed'}", session)

    def renew(self, subscription_id: str, *, succeeds: bool = True) -> Object:
        """The period ends: the next begins, and its invoice is paid or not. Gives the invoice."""
        invoice = self._next_period(subscription_id)
        self.charge_renewal(invoice, succeeds=succeeds)
        return invoice

    def begin_renewal(self, subscription_id: str) -> Object:
        """The period ends; the next one's invoice is a draft, which Stripe finalizes and charges an hour later."""
        invoice = self._next_period(subscription_id)
        invoice["status"] = "draft"
        self.emit("customer.subscription.updated", self.objects[subscription_id])
        return invoice

    def _next_period(self, subscription_id: str) -> Object:
        subscription = self.objects[subscription_id]
        self.changes.apply_schedule(subscription)
        for item in subscription["items"]["data"]:
            item["current_period_start"] = item["current_period_end"]
            item["current_period_end"] += MONTH
            self.now = max(self.now, item["current_period_start"])
        return self.invoice(subscription, "subscription_cycle", self.lines_of(subscription))

    def charge_renewal(self, invoice: Object, *, succeeds: bool = True) -> None:
        subscription = self.objects[invoice["parent"]["subscription_details"]["subscription"]]
        if (subscription["pause_collection"] or {}).get("behavior") == "void":
            invoice["status"] = "void"
            self.emit("invoice.voided", invoice)
        elif succeeds or not invoice["amount_due"]:
            self.pay(invoice)
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
        self.pay(invoice)
        self.emit("customer.subscription.updated", subscription)

    def end(self, subscription_id: str) -> None:
        """Ends it: cancelled, at the end of its period, or unpaid."""
        subscription = self.objects[subscription_id]
        subscription.update(status="canceled", canceled_at=self.now, ended_at=self.now)
        self.emit("customer.subscription.deleted", subscription)

    def delete_customer(self, customer_id: str) -> None:
        self.objects[customer_id]["deleted"] = True
        self.emit("customer.deleted", self.objects[customer_id])

    def add_item(self, subscription_id: str, price_id: str, *, first: bool = False, quantity: int | None = 1) -> Object:
        """The seller sells something else by the same subscription; metered usage has no quantity."""
        items = self.objects[subscription_id]["items"]["data"]
        added = {**items[0], "id": f"si_{next(self._numbers)}", "price": {"id": price_id, "object": "price"}}
        added.pop("quantity", None)
        items.insert(0 if first else len(items), added | ({} if quantity is None else {"quantity": quantity}))
        self.emit("customer.subscription.updated", self.objects[subscription_id])
        return added

    def dispute(self, invoice_id: str, *, reason: str = "fraudulent") -> str:
        charge = self.charge_of(invoice_id)
        charge["disputed"] = True
        made = self.new("dp", "dispute", amount=charge["amount"], charge=charge["id"], status="needs_response")
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
        if ("_live_" in request.headers["authorization"]) != self.is_live:
            return _failure("No such object; a similar one exists in the other mode", 404, code="resource_missing")
        if any(request.path_params["path"].startswith(each) for each in self.forbidden):
            return _failure("The provided key does not have the required permissions for this endpoint", 403)
        version = self.answers_version or request.headers.get("stripe-version", ENDIVE)
        given = _nested(dict(await request.form()) if request.method == "POST" else dict(request.query_params))
        key = request.headers.get("idempotency-key", "")
        asked = json.dumps([request.url.path, given], sort_keys=True)
        before, answer, status, answered_at = self._answers.get(key, ("", {}, 0, 0))
        if request.method == "POST" and key and self.now < answered_at + DAY:
            if before != asked:
                return _failure("Keys for idempotent requests can only be used with the same parameters", 400)
            return JSONResponse(answer, status, headers={"idempotent-replayed": "true"})
        try:
            status, found = 200, self._answer(request.method, request.path_params["path"].split("/"), given)
        except KeyError as missing:
            return _failure(f"No such object: {missing}", 404, code="resource_missing")
        except Refusal as refusal:
            status, found = refusal.status, {"error": refusal.error}
        answer = in_version(version, json.loads(json.dumps(found)), self.invoice_of_charge)
        # Stripe stores what an executed request led to, a refusal too, and repeats it for a day.
        if request.method == "POST" and key:
            self._answers[key] = asked, answer, status, self.now
        return JSONResponse(answer, status)

    def _answer(self, method: str, path: list[str], given: Object) -> Object:
        expand = given.pop("expand", {})
        if method == "GET":
            return self._list(path[0], given) if len(path) == 1 else self._expanded(path[-1], list(expand.values()))
        if method == "DELETE":
            self.changes.refuse_if_scheduled(self.objects[path[1]])
            self.end(path[1])
            return self.objects[path[1]]
        makers: dict[str, Callable[[Object], Object]] = {
            "customers": lambda params: self.new("cus", "customer", email=params["email"], metadata=params["metadata"]),
            "checkout/sessions": self._session,
            "billing_portal/sessions": self._portal,
            "coupons": self.promotions.create_coupon,
            "promotion_codes": self.promotions.create_code,
            "payment_intents": self.saved.charge,
            "refunds": lambda params: self._asked_refund(params["payment_intent"], params.get("amount")),
            "billing/meter_events": self._meter_event,
            "prices": self.dashboard.create_price,
            "webhook_endpoints": self.dashboard.create_webhook_endpoint,
        }
        if path[0] == "subscriptions":
            return self.changes.update(self.objects[path[1]], given)
        if path[0] == "subscription_schedules":
            return self.changes.schedule(path[1:], given)
        if path[0] == "invoices":
            return self.changes.void(self.objects[path[1]])
        if path[-1] == "expire":
            return self.promotions.expire_session(self.objects[path[2]])
        return makers["/".join(path)](given)

    def _list(self, kind: str, wanted: Object) -> Object:
        if kind == "events":
            since = int(wanted["created"]["gte"])
            found = [event for event in reversed(self.events) if event["created"] >= since]
        elif kind == "invoice_payments":
            intent = (wanted.get("payment") or {}).get("payment_intent")
            found = [
                {**payment, "invoice": each["id"]}
                for each in self.list_all("invoice")
                for payment in each["_payments"]
                if wanted.get("invoice") == each["id"] or payment["payment"]["payment_intent"] == intent
            ]
        elif kind == "payment_intents":
            found = self.saved.list_intents(wanted)
        elif kind == "invoices":
            found = [
                each
                for each in reversed(self.list_all("invoice"))
                if each["parent"]["subscription_details"]["subscription"] == wanted["subscription"]
            ]
        else:
            found = [each for each in self.list_all(kind.rstrip("s")) if each["charge"] == wanted["charge"]]
        places = {each["id"]: at for at, each in enumerate(found, start=1)}
        start = places[wanted["starting_after"]] if "starting_after" in wanted else 0
        limit = int(wanted.get("limit", 10))
        page = found[start : start + limit]
        return {"object": "list", "url": f"/v1/{kind}", "data": page, "has_more": len(found) > start + limit}

    def _expanded(self, object_id: str, names: list[str]) -> Object:
        if object_id in self.prices:
            return self.price(object_id)
        found = dict(self.objects[object_id])
        for name in names:
            if isinstance(found.get(name), str):
                found[name] = self.objects[found[name]]
        return found

    def _session(self, params: Object) -> Object:
        if params["mode"] == "setup":
            return self.saved.open_setup(params)
        self.check_customer(params["customer"])
        kept = params.get("customer_update", {})
        for option, needed in (("automatic_tax", "address"), ("tax_id_collection", "name")):
            if option in params and kept.get(needed) != "auto":
                raise Refusal(400, f"{option} needs customer_update[{needed}] = auto for a customer that exists")
        self.sessions.append(params)
        price = params["line_items"]["0"]
        kind = "subscription_data" if params["mode"] == "subscription" else "payment_intent_data"
        if any(each["price"] in self.metered and "quantity" in each for each in params["line_items"].values()):
            raise Refusal(400, "Quantity should not be specified where usage_type is metered")
        made = self.new(
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
            _off=0,
            amount_subtotal=self.prices[price["price"]] * int(price.get("quantity", 1)),
        )
        made["url"] = f"https://checkout.test/{made['id']}"
        self.promotions.apply(made, params)
        return made

    def _begin(self, session: Object, metadata: Object) -> Object:
        """A trial costs nothing."""
        days = int(session["_tagged"].get("trial_period_days", 0))
        subscription = self._subscription_of(session, metadata, status="trialing" if days else "active")
        if days:
            ends = self.now + days * DAY
            subscription.update(trial_start=self.now, trial_end=ends)
            subscription["items"]["data"][0]["current_period_end"] = ends
        lines = [line | ({"amount": 0} if days else {}) for line in self.lines_of(subscription)]
        invoice = self.invoice(subscription, "subscription_create", lines, off=session["_off"])
        self.emit("customer.subscription.created", subscription)
        self.pay(invoice)
        return subscription

    def _subscription_of(self, session: Object, metadata: Object, *, status: str) -> Object:
        item = {
            "id": f"si_{session['id']}",
            "object": "subscription_item",
            "price": {"id": session["_price"], "object": "price"},
            **({} if session["_price"] in self.metered else {"quantity": session["_quantity"]}),
            "current_period_start": self.now,
            "current_period_end": self.now + MONTH,
        }
        return self.new(
            "sub",
            "subscription",
            customer=session["customer"],
            status=status,
            cancel_at_period_end=False,
            metadata=metadata,
            trial_start=None,
            trial_end=None,
            items={"object": "list", "data": [item]},
            latest_invoice=None,
            schedule=None,
            pending_update=None,
            pause_collection=None,
        )

    def price(self, price_id: str) -> Object:
        interval, count = self.intervals.get(price_id, ("month", 1))
        usage = "metered" if price_id in self.metered else "licensed"
        recurring = {"interval": interval, "interval_count": count, "usage_type": usage}
        return {
            "id": price_id,
            "object": "price",
            "active": True,
            "currency": "usd",
            "livemode": self.is_live,
            "unit_amount": self.prices[price_id],
            "unit_amount_decimal": str(self.prices[price_id]),
            "billing_scheme": "per_unit",
            "recurring": recurring,
        }

    def lines_of(self, subscription: Object) -> list[Object]:
        """The lines of a whole period."""
        items = subscription["items"]["data"]
        return [self.line(each, self.prices[each["price"]["id"]] * int(each.get("quantity", 0))) for each in items]

    def line(self, item: Object, amount: int, *, is_proration: bool = False) -> Object:
        return {
            "id": f"il_{next(self._numbers)}",
            "object": "line_item",
            "amount": amount,
            "description": "1 x Plan",
            "quantity": item.get("quantity"),
            "period": {"start": item["current_period_start"], "end": item["current_period_end"]},
            "parent": {"subscription_item_details": {"proration": is_proration}},
            "pricing": {"price_details": {"price": item["price"]["id"]}},
        }

    def invoice(self, subscription: Object, reason: str, lines: list[Object], *, off: int = 0) -> Object:
        """Of negative totals the customer keeps the rest as balance, which pays later invoices; `off` is a discount."""
        subtotal = sum(line["amount"] for line in lines)
        customer, total = subscription["customer"], max(subtotal - off, min(subtotal, 0))
        balance = self.balances.get(customer, 0)
        used = min(balance, max(total, 0))
        self.balances[customer] = balance - used - min(total, 0)
        invoice = self.new(
            "in",
            "invoice",
            customer=customer,
            status="open",
            attempted=False,
            billing_reason=reason,
            amount_due=max(total, 0) - used,
            amount_paid=0,
            subtotal=subtotal,
            total=total,
            total_excluding_tax=total,
            number=f"F-{next(self._numbers):04}",
            lines={"object": "list", "data": lines},
            parent={"type": "subscription_details", "subscription_details": {"subscription": subscription["id"]}},
            _payments=[],
            status_transitions={"finalized_at": self.now, "paid_at": None},
            hosted_invoice_url="https://invoice.test",
        )
        subscription["latest_invoice"] = invoice["id"]
        self.emit("invoice.finalized", invoice)
        return invoice

    def pay(self, invoice: Object) -> None:
        if invoice["amount_due"]:
            self.attach_intent(invoice, self.pay_intent(invoice["customer"], invoice["amount_due"], metadata={}))
        invoice.update(status="paid", attempted=True, amount_paid=invoice["amount_due"])
        invoice["status_transitions"]["paid_at"] = self.now
        self.emit("invoice.paid", invoice)

    def attach_intent(self, invoice: Object, intent: Object) -> None:
        payment = {"type": "payment_intent", "payment_intent": intent["id"]}
        invoice["_payments"] = [{"id": f"inpay_{invoice['id']}", "object": "invoice_payment", "payment": payment}]

    def unpaid_intent(self, invoice: Object) -> Object:
        """As the customer's card leaves it: to be confirmed, or declined."""
        if self.cards[invoice["customer"]] != "declined":
            return self.open_intent(invoice, status="requires_action")
        error = {"code": "card_declined", "message": "Your card was declined."}
        return self.open_intent(invoice, status="requires_payment_method", error=error)

    def open_intent(self, invoice: Object, *, status: str, error: Object | None = None) -> Object:
        return self.new(
            "pi",
            "payment_intent",
            customer=invoice["customer"],
            amount=invoice["amount_due"],
            status=status,
            metadata={},
            last_payment_error=error,
            latest_charge=None,
        )

    def pay_intent(self, customer: str, amount: int, *, metadata: Object) -> Object:
        intent = self.new(
            "pi", "payment_intent", customer=customer, amount=amount, status="succeeded", metadata=metadata
        )
        charge = self.new(
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

    def _portal(self, params: Object) -> Object:
        self.check_customer(params["customer"])
        return self.new("bps", "billing_portal.session", url=f"https://portal.test?to={params['return_url']}")

    def check_customer(self, customer_id: str) -> None:
        if customer_id not in self.objects or self.objects[customer_id].get("deleted"):
            raise Refusal(400, f"No such customer: '{customer_id}'", code="resource_missing", param="customer")

    def _asked_refund(self, intent_id: str, amount: str | None) -> Object:
        if self.refunds_refused:
            raise Refusal(400, "Insufficient funds in your Stripe balance to refund this amount.")
        made = self._refund(intent_id, int(amount) if amount else None)
        self.emit("charge.refunded", self.objects[made["charge"]])
        return made

    def _refund(self, intent_id: str, amount: int | None) -> Object:
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        back = charge["amount"] - charge["amount_refunded"] if amount is None else amount
        charge["amount_refunded"] += back
        return self.new("re", "refund", amount=back, charge=charge["id"], payment_intent=intent_id, status="succeeded")

    def _meter_event(self, params: Object) -> Object:
        return self.meter_events.setdefault(params["identifier"], {"object": "billing.meter_event", **params})

    def store_answer(self, key: str, answer: Object, status: int) -> None:
        """What Stripe says to a repeated request, whatever it said to the first."""
        if key in self._answers:
            self._answers[key] = self._answers[key][0], answer, status, self.now

    def list_all(self, kind: str) -> list[Object]:
        return [each for each in self.objects.values() if each["object"] == kind]

    def new(self, prefix: str, kind: str, **fields: Any) -> Object:
        object_id = f"{prefix}_{id(self) % 10_000:04}{next(self._numbers)}"
        made = {
            "id": object_id,
            "object": kind,
            "created": self.now,
            "currency": "usd",
            "livemode": self.is_live,
            **fields,
        }
        self.objects[object_id] = made
        return made

    def invoice_of_charge(self, charge: Object) -> str | None:
        found = (each for each in self.list_all("invoice") if charge["payment_intent"] in str(each["_payments"]))
        return next((str(each["id"]) for each in found), None)

    def emit(self, event_type: str, about: Object) -> None:
        shown = {name: value for name, value in about.items() if name == "_payments" or not name.startswith("_")}
        event = {
            "id": f"evt_{id(self) % 10_000:04}{next(self._numbers)}",
            "object": "event",
            "type": event_type,
            "created": self.now,
            "livemode": self.is_live,
            "api_version": self.events_version,
            "data": {"object": in_version(self.events_version, json.loads(json.dumps(shown)), self.invoice_of_charge)},
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


def _failure(message: str, status: int, **more: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", **more}}, status)
