"""Cards that customers save for later, and payments by them while nobody is there.

https://docs.stripe.com/payments/save-and-reuse, https://docs.stripe.com/payments/save-during-payment#charge-saved
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import stripe

from gateway.payments.provider import CreatedCheckout, SavedCharge
from gateway.payments.stripe import objects
from gateway.payments.stripe.calls import idempotency_key, response
from policies.billing.payments import SavedCard

# The metadata field of payments that this module makes.
TOP_UP = "gateway_top_up"
_CLOCK_SKEW = timedelta(minutes=5)
_PAGE = 100


async def create_setup(
    client: stripe.StripeClient, customer_id: str, *, return_url: str, cancel_url: str, key: str
) -> CreatedCheckout:
    """Where the customer saves a card. Nothing is paid there."""
    fields: Any = {
        "mode": "setup",
        "customer": customer_id,
        "payment_method_types": ["card"],
        "success_url": return_url,
        "cancel_url": cancel_url,
    }
    created = await response(client.v1.checkout.sessions.create_async(fields, idempotency_key("setup", key)))
    return CreatedCheckout(created["id"], created["url"])


async def charge(client: stripe.StripeClient, wanted: SavedCharge) -> str:
    """The id of the payment intent. Raises ProviderRefused where the bank declines, or asks for the customer."""
    fields: Any = {
        "amount": objects.minor_units(wanted.amount, wanted.currency),
        "currency": wanted.currency.lower(),
        "customer": wanted.customer_id,
        "payment_method": wanted.card_id,
        "payment_method_types": ["card"],
        "off_session": True,
        "confirm": True,
        "description": wanted.description,
        "metadata": {objects.REFERENCE: wanted.reference, TOP_UP: "1"},
    }
    created = await response(
        client.v1.payment_intents.create_async(fields, idempotency_key("top-up", wanted.reference))
    )
    return str(created["id"])


async def find_charge(client: stripe.StripeClient, wanted: SavedCharge) -> str | None:
    """The id of the payment intent, if Stripe has one: a request without an answer may have been executed."""
    since = int((wanted.begun_at - _CLOCK_SKEW).timestamp())
    of_customer: Any = {"customer": wanted.customer_id, "created": {"gte": since}, "limit": _PAGE}
    while True:
        found = await response(client.v1.payment_intents.list_async(of_customer))
        for each in found["data"]:
            if (each.get("metadata") or {}).get(objects.REFERENCE) == wanted.reference:
                return str(each["id"])
        if not found["has_more"]:
            return None
        of_customer["starting_after"] = found["data"][-1]["id"]


async def read_setup(client: stripe.StripeClient, session: Mapping[str, Any]) -> SavedCard | None:
    """The card that was saved, which the customer still has."""
    if session["status"] != "complete" or not session.get("setup_intent"):
        return None
    intent_id = objects.id_of(session["setup_intent"])
    intent = await response(client.v1.setup_intents.retrieve_async(intent_id, {"expand": ["payment_method"]}))
    method, customer_id = intent.get("payment_method"), objects.id_of(session.get("customer"))
    if intent["status"] != "succeeded" or not method or objects.id_of(method.get("customer")) != customer_id:
        return None
    return SavedCard(method["id"], customer_id, session["id"], _title(method))


async def is_gone(client: stripe.StripeClient, method_id: str) -> bool:
    return not (await response(client.v1.payment_methods.retrieve_async(method_id))).get("customer")


def _title(method: Mapping[str, Any]) -> str:
    card = method.get("card") or {}
    return f"{card.get('brand') or method.get('type') or 'card'} {card.get('last4') or ''}".strip()
