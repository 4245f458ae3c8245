"""What Stripe's checkout page asks a buyer for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.payments.provider import CheckoutRequest
from gateway.payments.stripe import objects


@dataclass(frozen=True, slots=True)
class CheckoutOptions:
    """`requires_address` False: Stripe asks for the address where it needs it."""

    automatic_tax: bool = False
    tax_id_collection: bool = False
    promotion_codes: bool = False
    requires_address: bool = False

    def fields(self, *, has_customer: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.automatic_tax:
            fields["automatic_tax"] = {"enabled": True}
        if self.tax_id_collection:
            fields["tax_id_collection"] = {"enabled": True}
        if self.promotion_codes:
            fields["allow_promotion_codes"] = True
        if self.requires_address:
            fields["billing_address_collection"] = "required"
        # Stripe refuses both for a known customer unless it may keep what the buyer enters.
        keeps = {"address": self.automatic_tax, "name": self.tax_id_collection}
        if has_customer and any(keeps.values()):
            fields["customer_update"] = {name: "auto" for name, is_kept in keeps.items() if is_kept}
        return fields


def session_fields(
    request: CheckoutRequest, options: CheckoutOptions, *, promotion_code: str | None = None
) -> dict[str, Any]:
    """The fields of https://docs.stripe.com/api/checkout/sessions/create.

    With a discount of the gateway's, Stripe takes no code that the buyer enters on its page.
    """
    lines = [{"price": request.price_id, **({} if request.is_metered else {"quantity": request.quantity})}]
    if request.overage_price_id is not None:
        lines.append({"price": request.overage_price_id})
    tagged: dict[str, Any] = {"metadata": {objects.REFERENCE: request.reference}}
    if request.is_subscription and request.trial_days:
        tagged["trial_period_days"] = request.trial_days
    asked = options.fields(has_customer=request.customer_id is not None)
    if promotion_code is not None:
        asked.pop("allow_promotion_codes", None)
        asked["discounts"] = [{"promotion_code": promotion_code}]
    if request.expires_at is not None:
        asked["expires_at"] = int(request.expires_at.timestamp())
    return {
        "mode": "subscription" if request.is_subscription else "payment",
        "line_items": lines,
        "client_reference_id": request.reference,
        "success_url": request.success_url,
        "cancel_url": request.cancel_url,
        **({"customer": request.customer_id} if request.customer_id else {"customer_email": request.email}),
        "subscription_data" if request.is_subscription else "payment_intent_data": tagged,
        **asked,
    }
