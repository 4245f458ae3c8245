"""Changes of subscriptions as Stripe makes them: prorated and paid for, pending until they are, or by a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]


class Refusal(Exception):  # noqa: N818 - an answer of the API
    def __init__(self, status: int, message: str, **more: str) -> None:
        super().__init__(message)
        kind = "card_error" if status == 402 else "invalid_request_error"
        self.status, self.error = status, {"message": message, "type": kind, **more}


class FakeChanges:
    def __init__(self, world: FakeStripe) -> None:
        self._world = world

    def update(self, subscription: Object, params: Object) -> Object:
        if "cancel_at_period_end" in params:
            self.refuse_if_scheduled(subscription)
            subscription["cancel_at_period_end"] = params["cancel_at_period_end"] == "true"
        if "pause_collection" in params:
            subscription["pause_collection"] = params["pause_collection"] or None
        if "items" in params:
            added = [each for each in params["items"].values() if "id" not in each]
            self._change_items(subscription, params["items"]["0"], behavior=params.get("payment_behavior", ""))
            self._add(subscription, added)
        self._world.emit("customer.subscription.updated", subscription)
        return _shown(subscription)

    def confirm(self, invoice_id: str) -> None:
        """The customer confirms the payment at the hosted page."""
        invoice = self._world.objects[invoice_id]
        subscription = self._of(invoice)
        self._world.pay(invoice)
        item = subscription["items"]["data"][0]
        for change in (subscription.pop("pending_update") or {}).get("subscription_items", ()):
            if "id" not in change:
                self._world.add_item(subscription["id"], change["price"]["id"], quantity=None)
                continue
            item = next(each for each in subscription["items"]["data"] if each["id"] == change["id"])
            _set(item, change["price"]["id"], change.get("quantity"))
        subscription["pending_update"] = None
        self._world.emit("customer.subscription.updated", subscription)

    def expire_pending(self, subscription_id: str) -> None:
        """Nobody confirms it for 23 hours."""
        subscription = self._world.objects[subscription_id]
        self.void(self._world.objects[subscription["latest_invoice"]])
        self._world.emit("customer.subscription.pending_update_expired", subscription)

    def void(self, invoice: Object) -> Object:
        subscription = self._of(invoice)
        invoice["status"] = "void"
        subscription["pending_update"] = None
        self._world.balances[invoice["customer"]] += max(invoice["total"], 0) - invoice["amount_due"]
        self._world.emit("invoice.voided", invoice)
        self._world.emit("customer.subscription.updated", subscription)
        return _shown(invoice)

    def schedule(self, path: list[str], params: Object) -> Object:
        if not path:
            return self._begin_schedule(self._world.objects[params["from_subscription"]])
        found = self._world.objects[path[0]]
        subscription = self._world.objects[found["subscription"] or found["released_subscription"]]
        if path[1:] == ["release"]:
            subscription["schedule"] = None
            found.update(status="released", released_subscription=found["subscription"], subscription=None)
        else:
            found["phases"] = _phases([params["phases"][str(at)] for at in range(len(params["phases"]))])
        self._world.emit("customer.subscription.updated", subscription)
        return found

    def apply_schedule(self, subscription: Object) -> None:
        """The period ends, and with it the present phase."""
        schedule = self._world.objects.get(subscription.get("schedule") or "")
        if schedule is None:
            return
        if len(schedule["phases"]) < 2:
            subscription["schedule"] = None
            schedule.update(status="released", released_subscription=schedule["subscription"], subscription=None)
            return
        phase = schedule["phases"][1]
        staying = {each["price"] for each in phase["items"]}
        replaced = [each for each in subscription["items"]["data"] if each["price"]["id"] not in staying]
        for after in phase["items"]:
            same = [each for each in subscription["items"]["data"] if each["price"]["id"] == after["price"]]
            if not same and not replaced:
                self._world.add_item(subscription["id"], after["price"], quantity=after.get("quantity"))
                continue
            _set((same or [replaced.pop()])[0], after["price"], after.get("quantity"))
        schedule["phases"] = [phase]
        schedule["current_phase"] = {name: phase[name] for name in ("start_date", "end_date")}

    def refuse_if_scheduled(self, subscription: Object) -> None:
        if subscription.get("schedule"):
            raise Refusal(400, f"The subscription is managed by the subscription schedule {subscription['schedule']}")

    def _begin_schedule(self, subscription: Object) -> Object:
        item = subscription["items"]["data"][0]
        phase = {
            "start_date": item["current_period_start"],
            "end_date": item["current_period_end"],
            "items": [_phase_item(each) for each in subscription["items"]["data"]],
        }
        span = {name: phase[name] for name in ("start_date", "end_date")}
        made = self._world.new(
            "sub_sched",
            "subscription_schedule",
            subscription=subscription["id"],
            released_subscription=None,
            status="active",
            current_phase=span,
            phases=[phase],
        )
        subscription["schedule"] = made["id"]
        return made

    def _change_items(self, subscription: Object, change: Object, *, behavior: str) -> None:
        world, customer = self._world, subscription["customer"]
        item = next(each for each in subscription["items"]["data"] if each["id"] == change["id"])
        price = change.get("price", item["price"]["id"])
        if price in world.metered and "quantity" in change:
            raise Refusal(400, "Quantity should not be specified where usage_type is metered")
        quantity = None if price in world.metered else int(change.get("quantity", item.get("quantity", 1)))
        before = dict(item)
        lines = self._proration(before, price, quantity)
        if not any(line["amount"] for line in lines):
            _set(item, price, quantity)
            return
        invoice = world.invoice(subscription, "subscription_update", lines)
        card = world.cards.get(customer, "good")
        if card == "good" or not invoice["amount_due"]:
            _set(item, price, quantity)
            world.pay(invoice)
            return
        world.attach_intent(invoice, world.unpaid_intent(invoice))
        if behavior != "pending_if_incomplete":
            self.void(invoice)
            raise Refusal(402, "Your card was declined.", code="card_declined")
        invoice["attempted"] = True
        pending = {"id": item["id"], "price": {"id": price}, **({} if quantity is None else {"quantity": quantity})}
        subscription["pending_update"] = {"expires_at": world.now + 23 * 3600, "subscription_items": [pending]}
        world.emit("invoice.payment_action_required" if card == "3ds" else "invoice.payment_failed", invoice)

    def _add(self, subscription: Object, added: list[Object]) -> None:
        """Metered prices, which cost nothing yet; with the rest of an update that waits to be paid."""
        pending = subscription["pending_update"]
        for each in added:
            if pending is None:
                self._world.add_item(subscription["id"], each["price"], quantity=None)
            else:
                pending["subscription_items"].append({"price": {"id": each["price"]}})

    def _proration(self, item: Object, price: str, quantity: int | None) -> list[Object]:
        """The unused time of the former price, and the remaining time of the new one, to the second."""
        world, span = self._world, item["current_period_end"] - item["current_period_start"]
        left = max(0, item["current_period_end"] - world.now)
        after = {**item, "price": {"id": price}, "quantity": quantity}
        unused = world.prices[item["price"]["id"]] * int(item.get("quantity", 0)) * left // span
        remaining = world.prices[price] * (quantity or 0) * left // span
        if unused == remaining:
            return []
        return [world.line(item, -unused, is_proration=True), world.line(after, remaining, is_proration=True)]

    def _of(self, invoice: Object) -> Object:
        found: Object = self._world.objects[invoice["parent"]["subscription_details"]["subscription"]]
        return found


def _set(item: Object, price: str, quantity: int | None) -> None:
    item["price"] = {"id": price, "object": "price"}
    item.pop("quantity", None)
    if quantity is not None:
        item["quantity"] = int(quantity)


def _phase_item(item: Object) -> Object:
    return {"price": item["price"]["id"], **({"quantity": item["quantity"]} if "quantity" in item else {})}


def _phases(given: list[Object]) -> list[Object]:
    """As Stripe lists them: of the form's phases, whose numbers are text, and with the dates that follow."""
    phases: list[Object] = []
    for each in given:
        items = [each["items"][str(at)] for at in range(len(each["items"]))]
        listed = [{**item, **({"quantity": int(item["quantity"])} if "quantity" in item else {})} for item in items]
        starts = int(each["start_date"]) if "start_date" in each else phases[-1]["end_date"]
        ends = int(each["end_date"]) if "end_date" in each else starts + 30 * 86_400
        phases.append({"start_date": starts, "end_date": ends, "items": listed})
    return phases


def _shown(found: Object) -> Object:
    return {name: value for name, value in found.items() if not name.startswith("_")}
