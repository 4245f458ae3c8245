"""Changes of a subscription's plan and seats at Stripe: at once and paid for, or by a schedule at the period's end.

A subscription may have items that sell something else, such as usage of another meter. Only the one that sells a plan
of the gateway is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import stripe

from gateway.payments.provider import PriceChange, ProviderRefused
from gateway.payments.stripe import objects
from gateway.payments.stripe.calls import idempotency_key, response


class SubscriptionChanges:
    """Every method raises ProviderUnavailable and ProviderRefused."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    async def change_now(self, subscription_id: str, change: PriceChange) -> str | None:
        """Changes the plan once the difference is paid; gives the page where the customer confirms the payment first.

        A payment that fails changes nothing, and its invoice is voided.
        """
        found = await self._retrieve(subscription_id)
        if _is_pending(found, change):
            return await self._confirmation_url(found["latest_invoice"])
        scheduled = await self._release(found)
        try:
            return await self._update_items(found, change)
        except ProviderRefused:
            if scheduled:
                await self._schedule({**found, "schedule": None}, scheduled, key=f"{change.key}-again")
            raise

    async def change_at_period_end(self, subscription_id: str, change: PriceChange) -> None:
        """Schedules the change, in place of one that is scheduled already."""
        found = await self._retrieve(subscription_id)
        items = objects.data(found.get("items"))
        own = own_item(items, change.sold_prices)
        others = [_phase_item(each) for each in items if each is not own] + added_items(items, change)
        await self._schedule(found, [_fields(change.price_id, change.quantity), *others], key=change.key)

    async def undo_scheduled(self, subscription_id: str) -> None:
        """Stripe refuses to cancel a subscription that a schedule manages, so a cancellation needs this too."""
        await self._release(await self._retrieve(subscription_id))

    async def _update_items(self, subscription: Mapping[str, Any], change: PriceChange) -> str | None:
        items = objects.data(subscription.get("items"))
        own = own_item(items, change.sold_prices)
        changed_items = [{"id": own["id"], **_fields(change.price_id, change.quantity)}, *added_items(items, change)]
        update: Any = {
            "items": changed_items,
            "proration_behavior": "always_invoice",
            # The items stay as they are until it is paid: https://docs.stripe.com/billing/subscriptions/pending-updates
            "payment_behavior": "pending_if_incomplete",
        }
        update_async = self._client.v1.subscriptions.update_async
        changed = await response(update_async(subscription["id"], update, idempotency_key("change", change.key)))
        return await self._confirmation_url(changed["latest_invoice"]) if changed.get("pending_update") else None

    async def _schedule(
        self, subscription: Mapping[str, Any], next_items: Sequence[Mapping[str, Any]], *, key: str
    ) -> None:
        """The first of `next_items` sells the plan, so a period of its price is one of the subscription."""
        schedules = self._client.v1.subscription_schedules
        schedule_id = objects.id_of(subscription.get("schedule"))
        if not schedule_id:
            begun: Any = {"from_subscription": subscription["id"]}
            schedule_id = (await response(schedules.create_async(begun, idempotency_key("schedule", key))))["id"]
        current = (await response(schedules.retrieve_async(schedule_id)))["current_phase"]
        recurring = (await response(self._client.v1.prices.retrieve_async(next_items[0]["price"])))["recurring"]
        phases = [
            {
                "items": [_phase_item(each) for each in objects.data(subscription.get("items"))],
                "start_date": current["start_date"],
                "end_date": current["end_date"],
            },
            # After one period the schedule ends, and the subscription goes on without it.
            {"items": next_items, "duration": {name: recurring[name] for name in ("interval", "interval_count")}},
        ]
        update: Any = {"phases": phases, "end_behavior": "release", "proration_behavior": "none"}
        await response(schedules.update_async(schedule_id, update, idempotency_key("phases", key)))

    async def _release(self, subscription: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Undoes a scheduled change; gives the items that were scheduled, empty for none."""
        schedule_id = objects.id_of(subscription.get("schedule"))
        if not schedule_id:
            return []
        schedules = self._client.v1.subscription_schedules
        scheduled = objects.next_phase(await response(schedules.retrieve_async(schedule_id)))
        await response(schedules.release_async(schedule_id))
        return [_phase_item(each) for each in scheduled]

    async def _retrieve(self, subscription_id: str) -> dict[str, Any]:
        return await response(self._client.v1.subscriptions.retrieve_async(subscription_id))

    async def _confirmation_url(self, invoice_id: str) -> str:
        """Where the customer confirms the payment; raises ProviderRefused where it has failed for another reason."""
        invoices = self._client.v1.invoices
        invoice = await response(invoices.retrieve_async(invoice_id))
        payments = self._client.v1.invoice_payments.list_async
        invoice["payments"] = await response(payments({"invoice": invoice_id}))
        intent_id = objects.intent_of(invoice)
        intent = await response(self._client.v1.payment_intents.retrieve_async(intent_id)) if intent_id else {}
        if intent.get("status") in ("requires_action", "processing"):
            return str(invoice["hosted_invoice_url"])
        await response(invoices.void_invoice_async(invoice_id))
        reason = (intent.get("last_payment_error") or {}).get("message") or "the payment failed"
        raise ProviderRefused(f"Stripe refuses: {reason}")


def own_item(items: Collection[Mapping[str, Any]], sold_prices: Collection[str]) -> Mapping[str, Any]:
    """The item that sells a plan of the gateway; the only one where there is but one. Raises ProviderRefused."""
    own = [each for each in items if objects.price_of_item(each) in sold_prices] if len(items) > 1 else list(items)
    if len(own) != 1:
        raise ProviderRefused(f"the subscription has {len(own)} items that sell a plan, so none can be changed")
    return own[0]


def added_items(items: Collection[Mapping[str, Any]], change: PriceChange) -> list[dict[str, Any]]:
    """The metered price that bills the plan's overage, unless the subscription has it.

    Raises ProviderRefused where it has another: Stripe does not bill what is reported after a metered price is removed,
    and two on one meter would bill it twice (https://docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup).
    """
    wanted = change.overage_price_id
    sold = {objects.price_of_item(each) for each in items}
    if wanted is None or wanted in sold:
        return []
    if others := sold & set(change.overage_prices):
        raise ProviderRefused(
            f"the subscription's overage is billed by {', '.join(sorted(others))}, that of the plan by {wanted}: "
            "end the subscription with its period, then subscribe to the plan"
        )
    return [{"price": wanted}]


def _phase_item(item: Mapping[str, Any]) -> dict[str, Any]:
    return _fields(objects.price_of_item(item), item.get("quantity"))


def _fields(price_id: str, quantity: int | None) -> dict[str, Any]:
    return {"price": price_id, **({} if quantity is None else {"quantity": quantity})}


def _is_pending(subscription: Mapping[str, Any], change: PriceChange) -> bool:
    """Whether this very change waits to be paid: a repeated request must not make another invoice."""
    pending = subscription.get("pending_update") or {}
    return any(
        objects.price_of_item(each) == change.price_id and each.get("quantity") == change.quantity
        for each in pending.get("subscription_items") or ()
    )
