"""Coupons as Stripe has them: a coupon for the terms, and of it a promotion code for each checkout.

https://docs.stripe.com/billing/subscriptions/coupons. The promotion code is its customer's, can be used once, and ends
with the checkout, so that nobody uses it elsewhere.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import stripe

from gateway.payments.provider import Discount, ProviderRefused
from gateway.payments.stripe import objects
from gateway.payments.stripe.calls import idempotency_key, response


async def create_promotion_code(client: stripe.StripeClient, discount: Discount, *, customer_id: str) -> str:
    """Gives its id, the same for the same discount and customer. Raises ProviderUnavailable, ProviderRefused."""
    coupon_id = await _ensure_coupon(client, discount)
    fields: Any = {
        "promotion": {"type": "coupon", "coupon": coupon_id},
        "code": discount.code,
        "customer": customer_id,
        "max_redemptions": 1,
        "expires_at": int(discount.expires_at.timestamp()),
    }
    key = idempotency_key("promotion", discount.code, customer_id)
    return str((await response(client.v1.promotion_codes.create_async(fields, key)))["id"])


async def _ensure_coupon(client: stripe.StripeClient, discount: Discount) -> str:
    """The id is the gateway's, so that Stripe has one coupon of these terms, whoever makes it and when."""
    coupon_id = f"gateway-{discount.terms_id}-{discount.months or 'once'}"
    fields: Any = {"id": coupon_id, "name": discount.name[:40], **_off(discount), **_duration(discount)}
    try:
        await response(client.v1.coupons.create_async(fields))
    except ProviderRefused as refused:
        if not _is_there(refused):
            raise
    return coupon_id


def _off(discount: Discount) -> dict[str, Any]:
    if discount.percent_off is not None:
        return {"percent_off": float(discount.percent_off)}
    return {
        "amount_off": objects.minor_units(discount.amount_off or Decimal(0), discount.currency),
        "currency": discount.currency.lower(),
    }


def _duration(discount: Discount) -> dict[str, Any]:
    if discount.months is None:
        return {"duration": "once"}
    return {"duration": "repeating", "duration_in_months": discount.months}


def _is_there(refused: ProviderRefused) -> bool:
    return isinstance(refused.__cause__, stripe.StripeError) and refused.__cause__.code == "resource_already_exists"
