"""Calls Stripe through its own SDK; `objects.py` and `events.py` parse what it sends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from hashlib import sha256
from typing import Any, cast

import stripe

from gateway.payments.provider import (
    ChangeEvent,
    ChangesPage,
    CheckoutRequest,
    CreatedCheckout,
    PriceChange,
    ProviderRefused,
    SavedCharge,
    parse_changes,
)
from gateway.payments.stripe import objects, saved_cards
from gateway.payments.stripe.calls import executed_once, idempotency_key, response, timeout
from gateway.payments.stripe.changes import SubscriptionChanges
from gateway.payments.stripe.events import EVENT_TYPES, SIGNATURE_FIELD, parse_event, verify_signature
from gateway.payments.stripe.permissions import find_missing
from gateway.payments.stripe.promotions import create_promotion_code
from gateway.payments.stripe.sessions import CheckoutOptions, session_fields
from policies.billing.payments import ObjectKind, ObjectRef, ProviderEvent, RemotePayment, Snapshot
from policies.billing.price_checks import RemotePrice
from policies.billing.providers import MeteredUsage, ProviderTraits

# The form of requests and responses, whatever the account's default version is.
API_VERSION = "2026-10-28.endive"
RETRIES = 2
PAGE = 100


class Stripe:
    """One Stripe account in the mode of its key: live (`sk_live_…`, `rk_live_…`) or test.

    `meter_event_name` is the event name of the meter that bills usage.
    """

    name = "stripe"
    traits = ProviderTraits(
        signature_field=SIGNATURE_FIELD,
        event_types=frozenset(EVENT_TYPES),
        # Stripe lists events for 30 days (https://docs.stripe.com/api/events/list); a day less is safe.
        changes_kept_for=timedelta(days=29),
        # https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: usage may be up to 35 days old,
        # and an identifier counts once within at least 24 hours. Less is safe: usage is reported by whole days.
        metered_usage=MeteredUsage(accepted_for=timedelta(days=33), deduplicated_for=timedelta(hours=23)),
        schedules_changes=True,
        expires_checkouts=True,
        charges_saved_cards=True,
    )

    def __init__(
        self,
        secret_key: str,
        *,
        api_base: str,
        webhook_secrets: Sequence[str],
        meter_event_name: str = "gateway_credits",
        checkout_options: CheckoutOptions | None = None,
    ) -> None:
        self._is_restricted = secret_key.startswith("rk_")
        self._is_live = secret_key.partition("_")[2].startswith("live_")
        self._secrets = tuple(webhook_secrets)
        self._meter_event_name = meter_event_name
        self._checkout_options = checkout_options or CheckoutOptions()
        if self._checkout_options.automatic_tax:  # which Stripe computes for checkouts and invoices only
            self.traits = replace(self.traits, charges_saved_cards=False)
        self._http = stripe.HTTPXClient(timeout=timeout())
        self._client = stripe.StripeClient(
            secret_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base, "meter_events": api_base},
            max_network_retries=RETRIES,
            http_client=self._http,
        )
        self._changes = SubscriptionChanges(self._client)

    async def create_customer(self, user_id: str, *, email: str, name: str | None, replaces: str | None = None) -> str:
        fields: Any = {"email": email, "metadata": {"gateway_user": user_id}, **({"name": name} if name else {})}
        # What is asked is part of the key, since Stripe refuses a different request under a known key. Under that of a
        # customer who was deleted since, Stripe gives that one again. Two customers of a user cost nobody anything.
        asked = sha256(json.dumps([email, name, replaces]).encode()).hexdigest()
        create = partial(self._client.v1.customers.create_async, fields)
        found = await executed_once(create, "customer", user_id, asked, or_failed_once=True)
        return str(found["id"])

    async def create_checkout(self, request: CheckoutRequest) -> CreatedCheckout:
        sessions = self._client.v1.checkout.sessions
        key = idempotency_key("checkout", request.reference, request.customer_id or "")
        promotion_code = None
        if request.discount is not None and request.customer_id is not None:
            promotion_code = await create_promotion_code(
                self._client, request.discount, customer_id=request.customer_id
            )
        fields = session_fields(request, self._checkout_options, promotion_code=promotion_code)
        created = await response(sessions.create_async(cast(Any, fields), key))
        return CreatedCheckout(created["id"], created["url"])

    async def expire_checkout(self, checkout_id: str) -> bool:
        sessions = self._client.v1.checkout.sessions
        try:
            await response(sessions.expire_async(checkout_id))
        except ProviderRefused:  # it is not open any more
            return bool((await response(sessions.retrieve_async(checkout_id)))["status"] == "expired")
        return True

    async def portal_url(self, customer_id: str, *, email: str | None, return_url: str) -> str:  # noqa: ARG002 - its customer is the account's alone
        portal = self._client.v1.billing_portal.sessions
        created = await response(portal.create_async({"customer": customer_id, "return_url": return_url}))
        return str(created["url"])

    async def change_plan(self, subscription_id: str, change: PriceChange) -> str | None:
        return await self._changes.change_now(subscription_id, change)

    async def schedule_change(self, subscription_id: str, change: PriceChange) -> None:
        await self._changes.change_at_period_end(subscription_id, change)

    async def unschedule_change(self, subscription_id: str) -> None:
        await self._changes.undo_scheduled(subscription_id)

    async def cancel(self, subscription_id: str, *, at_period_end: bool) -> None:
        await self._changes.undo_scheduled(subscription_id)
        subscriptions = self._client.v1.subscriptions
        if at_period_end:
            await response(subscriptions.update_async(subscription_id, {"cancel_at_period_end": True}))
        else:
            await response(subscriptions.cancel_async(subscription_id))

    async def resume(self, subscription_id: str) -> None:
        await response(self._client.v1.subscriptions.update_async(subscription_id, {"cancel_at_period_end": False}))

    async def pause_payments(self, subscription_id: str) -> None:
        await self._collect(subscription_id, {"behavior": "void"})

    async def resume_payments(self, subscription_id: str) -> None:
        await self._collect(subscription_id, "")

    async def _collect(self, subscription_id: str, pause: Any) -> None:
        await response(self._client.v1.subscriptions.update_async(subscription_id, {"pause_collection": pause}))

    async def create_setup(self, customer_id: str, *, return_url: str, cancel_url: str, key: str) -> CreatedCheckout:
        urls = {"return_url": return_url, "cancel_url": cancel_url}
        return await saved_cards.create_setup(self._client, customer_id, key=key, **urls)

    async def charge_saved(self, charge: SavedCharge) -> Snapshot:
        intent_id = await saved_cards.charge(self._client, charge)
        return Snapshot(payments=(await self._intent_payment(intent_id),))

    async def find_charge(self, charge: SavedCharge) -> Snapshot:
        intent_id = await saved_cards.find_charge(self._client, charge)
        return Snapshot() if intent_id is None else Snapshot(payments=(await self._intent_payment(intent_id),))

    async def refund(self, payment_id: str, *, amount: Decimal | None, currency: str, key: str) -> None:
        intent_id = payment_id
        if payment_id.startswith("in_"):
            intent_id = objects.intent_of(await self._invoice(payment_id))
        if not intent_id:
            raise ProviderRefused("nothing was paid that could be refunded")
        refund: Any = {"payment_intent": intent_id}
        if amount is not None:
            refund["amount"] = objects.minor_units(amount, currency)
        await executed_once(lambda key: self._client.v1.refunds.create_async(refund, key), "refund", key)

    async def report_usage(self, *, identifier: str, customer_id: str, value: int, at: datetime) -> None:
        usage: Any = {
            "event_name": self._meter_event_name,
            "identifier": identifier,
            "payload": {"stripe_customer_id": customer_id, "value": str(value)},
            "timestamp": int(at.timestamp()),
        }
        await response(self._client.v1.billing.meter_events.create_async(usage, idempotency_key("usage", identifier)))

    async def fetch_price(self, price_id: str) -> RemotePrice | None:
        try:
            return objects.read_price(
                await response(self._client.v1.prices.retrieve_async(price_id, {"expand": ["tiers"]}))
            )
        except ProviderRefused as refused:
            if refused.is_missing:
                return None
            raise

    async def missing_permissions(self) -> tuple[str, ...]:
        return await find_missing(self._client) if self._is_restricted else ()

    async def fetch(self, subject: ObjectRef) -> Snapshot:
        try:
            return await self._fetch(subject)
        except ProviderRefused as refused:
            if refused.is_missing:
                return Snapshot()
            raise

    async def fetch_payment(self, payment_id: str) -> Snapshot:
        if payment_id.startswith("in_"):
            return await self.fetch(ObjectRef(ObjectKind.INVOICE, payment_id))
        return Snapshot(payments=(await self._intent_payment(payment_id),))

    async def fetch_checkout(self, checkout_id: str, *, email: str, price_id: str, since: datetime) -> Snapshot:  # noqa: ARG002 - it finds a checkout by its id
        return await self.fetch(ObjectRef(ObjectKind.CHECKOUT, checkout_id))

    async def changed_since(self, since: datetime, *, page: str | None) -> ChangesPage:
        """Lists events, since Stripe's lists of objects cannot be filtered by time of change."""
        wanted: Any = {"created": {"gte": int(since.timestamp())}, "limit": PAGE}
        if page is not None:
            wanted["starting_after"] = page
        found = await response(self._client.v1.events.list_async(wanted))
        next_page = found["data"][-1]["id"] if found["has_more"] else None
        return parse_changes(
            found["data"], lambda each: ChangeEvent(self.parse(each, digest=""), each), next_page=next_page
        )

    def verify(self, body: bytes, headers: Mapping[str, str], *, now: datetime) -> None:
        verify_signature(body, headers.get(SIGNATURE_FIELD), secrets=self._secrets, now=now)

    def parse(self, payload: Mapping[str, Any], *, digest: str) -> ProviderEvent:  # noqa: ARG002 - its events have ids
        return parse_event(payload, is_live=self._is_live)

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call] # the SDK has no annotation

    async def _fetch(self, subject: ObjectRef) -> Snapshot:
        if subject.kind is ObjectKind.CHECKOUT:
            return await self._checkout(subject.id)
        if subject.kind is ObjectKind.SUBSCRIPTION:
            return await self._subscription(subject.id)
        if subject.kind is ObjectKind.INVOICE:
            return await self._invoice_snapshot(subject.id)
        if subject.kind is ObjectKind.CHARGE:
            return await self._charge(subject.id)
        if subject.kind is ObjectKind.INTENT:
            return Snapshot(payments=(await self._intent_payment(subject.id),))
        if subject.kind is ObjectKind.CARD:
            is_gone = await saved_cards.is_gone(self._client, subject.id)
            return Snapshot(gone_card_id=subject.id if is_gone else None)
        customer = await response(self._client.v1.customers.retrieve_async(subject.id))
        return Snapshot(gone_customer_id=subject.id if customer.get("deleted") else None)

    async def _checkout(self, session_id: str) -> Snapshot:
        session = await response(self._client.v1.checkout.sessions.retrieve_async(session_id))
        if session.get("mode") == "setup":
            return Snapshot(saved_card=await saved_cards.read_setup(self._client, session))
        if session.get("subscription"):
            found = await self._subscription(session["subscription"])
            return replace(found, checkout=objects.read_checkout(session, found.payments))
        if not session.get("payment_intent"):
            return Snapshot(payments=objects.read_free_checkout(session), checkout=objects.read_checkout(session))
        paid = await self._intent_payment(session["payment_intent"])
        if session.get("amount_subtotal") is not None:
            # The intent has the amount after a promotion code, and with tax.
            paid = replace(paid, subtotal=objects.amount(session["amount_subtotal"], paid.currency))
        return Snapshot((), (paid,), objects.read_checkout(session, [paid]))

    async def _subscription(self, subscription_id: str) -> Snapshot:
        found = await response(
            self._client.v1.subscriptions.retrieve_async(subscription_id, {"expand": ["latest_invoice"]})
        )
        if schedule_id := objects.id_of(found.get("schedule")):
            found["schedule"] = await response(self._client.v1.subscription_schedules.retrieve_async(schedule_id))
        invoices = await self._latest_invoices(found)
        payments = tuple([await self._invoice_payment(await self._invoice(each["id"])) for each in invoices])
        return Snapshot((objects.read_subscription(found, payments[-1] if payments else None),), payments)

    async def _latest_invoices(self, subscription: Mapping[str, Any]) -> list[Any]:
        """The latest and, where that is for a change within the period, the one before it that is for a period."""
        latest = subscription.get("latest_invoice")
        if not latest or objects.is_for_period(latest):
            return [latest] if latest else []
        of_subscription: Any = {"subscription": subscription["id"], "limit": PAGE}
        found = await response(self._client.v1.invoices.list_async(of_subscription))
        return [latest, *[each for each in found["data"] if objects.is_for_period(each)][:1]]

    async def _invoice_snapshot(self, invoice_id: str) -> Snapshot:
        invoice = await self._invoice(invoice_id)
        payment = await self._invoice_payment(invoice)
        if payment.subscription_id is None:
            return Snapshot()  # an invoice written by hand concerns no subscription here
        subscription = await self._subscription(payment.subscription_id)
        others = tuple(each for each in subscription.payments if each.id != invoice_id)
        return Snapshot(subscription.subscriptions, (*others, payment))

    async def _charge(self, charge_id: str) -> Snapshot:
        charge = await response(self._client.v1.charges.retrieve_async(charge_id))
        intent_id = charge.get("payment_intent")
        invoice_id = charge.get("invoice") or (intent_id and await self._invoice_of(intent_id))
        if invoice_id:
            return await self._invoice_snapshot(invoice_id)
        return Snapshot(payments=(await self._intent_payment(intent_id),)) if intent_id else Snapshot()

    async def _invoice_of(self, intent_id: str) -> str | None:
        wanted: Any = {"payment": {"type": "payment_intent", "payment_intent": intent_id}}
        found = await response(self._client.v1.invoice_payments.list_async(wanted))
        return next((each["invoice"] for each in found["data"]), None)

    async def _invoice(self, invoice_id: str) -> dict[str, Any]:
        """With its payments, which newer API versions list apart, and with all of its lines."""
        found = await response(self._client.v1.invoices.retrieve_async(invoice_id))
        if (found.get("lines") or {}).get("has_more"):
            found["lines"] = {"data": await self._lines(invoice_id)}
        if "payment_intent" not in found:
            of_invoice: Any = {"invoice": invoice_id}
            found["payments"] = await response(self._client.v1.invoice_payments.list_async(of_invoice))
        return found

    async def _lines(self, invoice_id: str) -> list[Any]:
        """An invoice has ten of its lines itself, and those for a period come last."""
        found: list[Any] = []
        wanted: Any = {"limit": PAGE}
        while True:
            page = await response(self._client.v1.invoices.line_items.list_async(invoice_id, wanted))
            found += page["data"]
            if not page["has_more"]:
                return found
            wanted["starting_after"] = found[-1]["id"]

    async def _invoice_payment(self, invoice: Mapping[str, Any]) -> RemotePayment:
        intents = [await self._intent(intent_id) for intent_id in objects.intents_of(invoice)]
        refunds, disputes = [], []
        for each in intents:
            of_charge = await self._refunds_and_disputes(objects.charge_of(each))
            refunds += of_charge[0]
            disputes += of_charge[1]
        intent = intents[0] if intents else None
        return objects.read_invoice_payment(invoice, intent=intent, refunds=refunds, disputes=disputes)

    async def _intent_payment(self, intent_id: str) -> RemotePayment:
        intent = await self._intent(intent_id)
        refunds, disputes = await self._refunds_and_disputes(objects.charge_of(intent))
        return objects.read_intent_payment(intent, refunds=refunds, disputes=disputes)

    async def _intent(self, intent_id: str) -> dict[str, Any]:
        return await response(self._client.v1.payment_intents.retrieve_async(intent_id, {"expand": ["latest_charge"]}))

    async def _refunds_and_disputes(self, charge: Mapping[str, Any] | None) -> tuple[list[Any], list[Any]]:
        """Requested only where the charge says that there are any."""
        if charge is None:
            return [], []
        of_charge: Any = {"charge": charge["id"], "limit": PAGE}
        refunds = await response(self._client.v1.refunds.list_async(of_charge)) if charge["amount_refunded"] else {}
        disputes = await response(self._client.v1.disputes.list_async(of_charge)) if charge.get("disputed") else {}
        return refunds.get("data", []), disputes.get("data", [])
