"""Lemon Squeezy's webhooks: their signature, what each event is about, and the one value the gateway makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gateway.payments.lemon_squeezy.objects import REFERENCE, changed_at
from gateway.payments.provider import MALFORMED, InvalidWebhook, checked, has_valid_signature
from policies.billing.payments import ObjectKind, ObjectRef, ProviderEvent

_ORDER, _SUBSCRIPTION, _INVOICE = ObjectKind.ORDER, ObjectKind.SUBSCRIPTION, ObjectKind.INVOICE

# https://docs.lemonsqueezy.com/help/webhooks/event-types
EVENT_TYPES: Mapping[str, ObjectKind] = MappingProxyType(
    {
        "order_created": _ORDER,
        "order_refunded": _ORDER,
        "subscription_created": _SUBSCRIPTION,
        "subscription_updated": _SUBSCRIPTION,
        "subscription_cancelled": _SUBSCRIPTION,
        "subscription_resumed": _SUBSCRIPTION,
        "subscription_expired": _SUBSCRIPTION,
        "subscription_paused": _SUBSCRIPTION,
        "subscription_unpaused": _SUBSCRIPTION,
        "subscription_plan_changed": _SUBSCRIPTION,
        "subscription_payment_success": _INVOICE,
        "subscription_payment_failed": _INVOICE,
        "subscription_payment_recovered": _INVOICE,
        "subscription_payment_refunded": _INVOICE,
    }
)


SIGNATURE_FIELD = "x-signature"


def verify_signature(body: bytes, header: str | None, *, secrets: Sequence[str]) -> None:
    """`X-Signature` is the digest of the body in hex. Raises InvalidWebhook.

    https://docs.lemonsqueezy.com/help/webhooks/signing-requests
    """
    if not header:
        raise InvalidWebhook("X-Signature is missing")
    if not has_valid_signature(body, [header.strip().lower()], secrets=secrets):
        raise InvalidWebhook("X-Signature was not made with a secret of this gateway")


def parse_event(payload: Mapping[str, Any], *, digest: str, store_id: str, is_test: bool) -> ProviderEvent:
    """Events have no ids here, so event, object and `digest` stand in. Raises InvalidWebhook for what is no event."""
    try:
        meta, found = payload["meta"], payload["data"]
        reference = (meta.get("custom_data") or {}).get(REFERENCE)
        return checked(
            ProviderEvent(
                id=f"{meta['event_name']}:{found['id']}:{digest}",
                type=meta["event_name"],
                subject=subject_of(meta["event_name"], found),
                occurred_at=changed_at(found),
                reference=reference if isinstance(reference, str) else None,
                unrelated_reason=_unrelated_reason(meta, found["attributes"], store_id=store_id, is_test=is_test),
            )
        )
    except MALFORMED as error:
        raise InvalidWebhook(f"not an event of Lemon Squeezy: {error!r}") from error


def subject_of(event_name: str, found: Mapping[str, Any]) -> ObjectRef | None:
    kind = EVENT_TYPES.get(event_name)
    if kind is ObjectKind.INVOICE and found["type"] == "subscriptions":
        kind = ObjectKind.SUBSCRIPTION
    return None if kind is None else ObjectRef(kind, str(found["id"]))


def _unrelated_reason(
    meta: Mapping[str, Any], attributes: Mapping[str, Any], *, store_id: str, is_test: bool
) -> str | None:
    event_is_test = bool(meta.get("test_mode") or attributes.get("test_mode"))
    if event_is_test is not is_test:
        return f"of {'test' if event_is_test else 'live'} mode, and this gateway is not"
    event_store_id = attributes.get("store_id")
    is_other = event_store_id is not None and str(event_store_id) != store_id
    return f"of store {event_store_id}" if is_other else None
