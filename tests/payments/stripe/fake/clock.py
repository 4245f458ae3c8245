"""Stripe's time: as it advances, what is due by then happens, in order.

An invoice is a draft for an hour; what nobody pays expires after 23 hours, a checkout after 24; a declined renewal is
tried again three times, then the subscription ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.payments.fake_stripe import FakeStripe

Object = dict[str, Any]
Due = tuple[int, Callable[[], None]]

HOUR, DAY = 3_600, 86_400
DRAFT, UNPAID, OPEN_CHECKOUT = HOUR, 23 * HOUR, 24 * HOUR
RETRIES = (3 * DAY, 8 * DAY, 15 * DAY)
_LIVING = ("active", "trialing", "past_due")


class FakeClock:
    def __init__(self, world: FakeStripe) -> None:
        self._world = world

    def advance(self, seconds: int, *, then: Callable[[], None] | None = None) -> None:
        """`then` is called after each thing that happens, and at the end."""
        world, until = self._world, self._world.now + seconds
        while due := min(((at, act) for at, act in self._due() if at <= until), key=lambda each: each[0], default=None):
            world.now = max(world.now, due[0])
            due[1]()
            if then is not None:
                then()
        world.now = until
        if then is not None:
            then()

    def _due(self) -> Iterator[Due]:
        world = self._world
        for session in world.list_all("checkout.session"):
            if session["status"] == "open":
                yield session["created"] + OPEN_CHECKOUT, lambda session=session: self._expire(session)  # type: ignore[misc] # bound at once
        for invoice in world.list_all("invoice"):
            yield from self._due_of_invoice(invoice)
        for subscription in world.list_all("subscription"):
            yield from self._due_of_subscription(subscription)

    def _due_of_invoice(self, invoice: Object) -> Iterator[Due]:
        subscription = self._world.objects[invoice["parent"]["subscription_details"]["subscription"]]
        if subscription["status"] not in _LIVING or invoice["billing_reason"] != "subscription_cycle":
            return
        if invoice["status"] == "draft":
            yield invoice["created"] + DRAFT, lambda: self._charge(invoice)
        elif invoice["status"] == "open":
            tries = invoice.get("_tries", 0)
            last = invoice["created"] + DRAFT + RETRIES[min(tries, len(RETRIES) - 1)]
            yield last, lambda: self._retry(invoice, subscription["id"], is_last=tries + 1 >= len(RETRIES))

    def _due_of_subscription(self, subscription: Object) -> Iterator[Due]:
        if subscription["status"] == "incomplete":
            yield subscription["created"] + UNPAID, lambda: self._give_up(subscription)
        if pending := subscription["pending_update"]:
            yield pending["expires_at"], lambda: self._world.changes.expire_pending(subscription["id"])
        if subscription["status"] not in _LIVING:
            return
        ends = subscription["items"]["data"][0]["current_period_end"]
        if subscription["status"] == "trialing" and not subscription.get("_is_warned"):
            yield ends - 3 * DAY, lambda: self._warn(subscription)
        yield ends, lambda: self._end_period(subscription)

    def _expire(self, session: Object) -> None:
        session["status"] = "expired"
        self._world.emit("checkout.session.expired", session)

    def _give_up(self, subscription: Object) -> None:
        """Nobody paid the first invoice: the subscription never began."""
        invoice = self._world.objects[subscription["latest_invoice"]]
        invoice["status"] = "void"
        subscription.update(status="incomplete_expired", ended_at=self._world.now)
        self._world.emit("invoice.voided", invoice)
        self._world.emit("customer.subscription.updated", subscription)

    def _warn(self, subscription: Object) -> None:
        subscription["_is_warned"] = True
        self._world.emit("customer.subscription.trial_will_end", subscription)

    def _end_period(self, subscription: Object) -> None:
        if subscription["cancel_at_period_end"]:
            self._world.end(subscription["id"])
            return
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        self._world.begin_renewal(subscription["id"])

    def _charge(self, invoice: Object) -> None:
        card = self._world.cards.get(invoice["customer"], "good")
        self._world.emit("invoice.finalized", invoice)
        self._world.charge_renewal(invoice, succeeds=card == "good")

    def _retry(self, invoice: Object, subscription_id: str, *, is_last: bool) -> None:
        invoice["_tries"] = invoice.get("_tries", 0) + 1
        if self._world.cards.get(invoice["customer"], "good") == "good":
            self._world.recover(invoice["id"])
        elif is_last:
            invoice["status"] = "uncollectible"
            self._world.end(subscription_id)
        else:
            self._world.emit("invoice.payment_failed", invoice)
