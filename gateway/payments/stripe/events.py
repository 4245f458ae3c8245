"""Stripe's events: their signature, what each type is about, and the one value the gateway makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from gateway.payments.provider import MALFORMED, InvalidWebhook, checked, has_valid_signature
from gateway.payments.stripe.objects import id_of, instant, subscription_of
from gateway.payments.stripe.saved_cards import TOP_UP
from policies.billing.payments import ObjectKind, ObjectRef, ProviderEvent

# https://docs.stripe.com/webhooks#replay-attacks: what Stripe's own libraries allow. They refuse old signatures only,
# and take one secret; a signature from the future is refused here too, and any secret in force is taken.
TOLERANCE_SECONDS = 300
SIGNATURE_FIELD = "stripe-signature"
MAX_SIGNATURES = 16  # Stripe sends one for each secret, of which there are two while one is rolled

_CHECKOUT, _SUBSCRIPTION, _INVOICE, _CHARGE = (
    ObjectKind.CHECKOUT,
    ObjectKind.SUBSCRIPTION,
    ObjectKind.INVOICE,
    ObjectKind.CHARGE,
)

# https://docs.stripe.com/api/events/types
EVENT_TYPES: Mapping[str, ObjectKind] = MappingProxyType(
    {
        "checkout.session.completed": _CHECKOUT,
        "checkout.session.async_payment_succeeded": _CHECKOUT,
        "checkout.session.async_payment_failed": _CHECKOUT,
        "checkout.session.expired": _CHECKOUT,
        "customer.subscription.created": _SUBSCRIPTION,
        "customer.subscription.updated": _SUBSCRIPTION,
        "customer.subscription.deleted": _SUBSCRIPTION,
        "customer.subscription.trial_will_end": _SUBSCRIPTION,
        "customer.subscription.paused": _SUBSCRIPTION,
        "customer.subscription.resumed": _SUBSCRIPTION,
        "customer.subscription.pending_update_applied": _SUBSCRIPTION,
        "customer.subscription.pending_update_expired": _SUBSCRIPTION,
        "subscription_schedule.updated": _SUBSCRIPTION,
        "subscription_schedule.released": _SUBSCRIPTION,
        "subscription_schedule.canceled": _SUBSCRIPTION,
        "subscription_schedule.aborted": _SUBSCRIPTION,
        "invoice.finalized": _INVOICE,
        "invoice.paid": _INVOICE,
        "invoice.payment_succeeded": _INVOICE,
        "invoice.payment_failed": _INVOICE,
        "invoice.payment_action_required": _INVOICE,
        "invoice.upcoming": _SUBSCRIPTION,
        "invoice.voided": _INVOICE,
        "invoice.marked_uncollectible": _INVOICE,
        "charge.refunded": _CHARGE,
        "refund.created": _CHARGE,
        "refund.updated": _CHARGE,
        "refund.failed": _CHARGE,
        "charge.dispute.created": _CHARGE,
        "charge.dispute.updated": _CHARGE,
        "charge.dispute.closed": _CHARGE,
        "customer.deleted": ObjectKind.CUSTOMER,
        # Of payments by saved cards alone: checkouts and invoices have events of their own.
        "payment_intent.succeeded": ObjectKind.INTENT,
        "payment_method.detached": ObjectKind.CARD,
    }
)


def verify_signature(body: bytes, header: str | None, *, secrets: Sequence[str], now: datetime) -> None:
    """`Stripe-Signature: t=…,v1=…[,v1=…]` signs `t.body`. Raises InvalidWebhook.

    https://docs.stripe.com/webhooks#verify-manually; several v1 come while Stripe rolls a secret.
    """
    signed_at, signatures = _signature_fields(header)
    if abs(now.timestamp() - signed_at) > TOLERANCE_SECONDS:
        raise InvalidWebhook(f"signed more than {TOLERANCE_SECONDS} seconds from now")
    if not has_valid_signature(f"{signed_at}.".encode() + body, signatures, secrets=secrets):
        raise InvalidWebhook("no signature was made with a secret of this gateway")


def parse_event(payload: Mapping[str, Any], *, is_live: bool) -> ProviderEvent:
    """Raises InvalidWebhook for what is no event of Stripe."""
    try:
        found = payload["data"]["object"]
        return checked(
            ProviderEvent(
                id=payload["id"],
                type=payload["type"],
                subject=subject_of(payload["type"], found),
                occurred_at=instant(payload.get("created")),
                unrelated_reason=_unrelated_reason(payload, is_live=is_live),
            )
        )
    except MALFORMED as error:
        raise InvalidWebhook(f"not an event of Stripe: {error!r}") from error


def subject_of(event_type: str, found: Mapping[str, Any]) -> ObjectRef | None:
    """What the event of this type with this `data.object` is about; None where it changes nothing here."""
    kind = EVENT_TYPES.get(event_type)
    if kind is ObjectKind.CHARGE and found.get("object") != "charge":
        object_id = id_of(found.get("charge"))  # refunds and disputes name theirs
    elif kind is ObjectKind.SUBSCRIPTION and found.get("object") == "invoice":
        object_id = subscription_of(found)
    elif kind is ObjectKind.SUBSCRIPTION and found.get("object") == "subscription_schedule":
        object_id = id_of(found.get("subscription")) or id_of(found.get("released_subscription"))
    elif kind is ObjectKind.INTENT and TOP_UP not in (found.get("metadata") or {}):
        object_id = ""
    else:
        object_id = id_of(found)
    return None if kind is None or not object_id else ObjectRef(kind, object_id)


def _unrelated_reason(payload: Mapping[str, Any], *, is_live: bool) -> str | None:
    if bool(payload.get("livemode")) != is_live:
        return f"of {'live' if payload.get('livemode') else 'test'} mode, and this gateway's key is not"
    return f"of the connected account {payload['account']}" if payload.get("account") else None


def _signature_fields(header: str | None) -> tuple[int, list[str]]:
    fields = [part.strip().partition("=") for part in (header or "").split(",")]
    times = [text for name, _, text in fields if name == "t"]
    signatures = [text for name, _, text in fields if name == "v1"]
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12) or not signatures:
        raise InvalidWebhook("Stripe-Signature must be t=…,v1=…")
    if len(signatures) > MAX_SIGNATURES:
        raise InvalidWebhook(f"Stripe-Signature has more than {MAX_SIGNATURES} signatures")
    return int(times[0]), signatures
