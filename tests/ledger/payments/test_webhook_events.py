"""Stored events of providers say nothing of who a customer is, and mean what they meant when they came."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.payments import webhook_events
from gateway.payments.lemon_squeezy import events as lemon_squeezy
from gateway.payments.stripe import events as stripe
from policies.billing.payments import ProviderEvent

PERSONAL = ("Ada", "Lovelace", "ada@", "+44", "St James", "GB123", "4242", "203.0.113", "https://")


def _stripe(event_type: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": f"evt_{event_type}", "object": "event", "type": event_type, "created": 1_790_000_000,
            "livemode": False, "data": {"object": found}}  # fmt: skip


_BILLING = {"address": {"line1": "12 St James's Square"}, "email": "ada@example.com", "name": "Ada", "phone": "+44 1"}
CHECKOUT = _stripe(
    "checkout.session.completed",
    {
        "id": "cs_1", "object": "checkout.session", "amount_total": 2000, "customer": "cus_1",
        "customer_details": {**_BILLING, "tax_ids": [{"type": "gb_vat", "value": "GB123"}]},
        "customer_email": "ada@example.com", "custom_fields": [{"key": "boss", "text": {"value": "Lovelace"}}],
        "collected_information": {"business_name": "Lovelace Ltd", "shipping_details": {"name": "Ada"}},
        "metadata": {"reference": "r1"}, "url": "https://checkout.stripe.com/c/pay/cs_1",
    },
)  # fmt: skip
INVOICE = _stripe(
    "invoice.paid",
    {
        "id": "in_1", "object": "invoice", "customer_name": "Ada Lovelace", "customer_phone": "+44 1",
        "customer_address": {"city": "St James"}, "customer_tax_ids": [{"value": "GB123"}],
        "hosted_invoice_url": "https://invoice.stripe.com/i/1", "invoice_pdf": "https://pay.stripe.com/1/pdf",
        "lines": {"data": [{"id": "il_1", "amount": 2000}]},
    },
)  # fmt: skip
REFUND = _stripe(
    "charge.refunded",
    {
        "id": "ch_1", "object": "charge", "amount_refunded": 500, "billing_details": _BILLING,
        "payment_method_details": {"card": {"last4": "4242"}}, "receipt_email": "ada@example.com",
        "receipt_url": "https://pay.stripe.com/receipts/1", "shipping": {"name": "Ada"},
    },
)  # fmt: skip
DISPUTE = _stripe(
    "charge.dispute.created",
    {"id": "dp_1", "object": "dispute", "charge": "ch_1",
     "evidence": {"customer_name": "Ada", "customer_purchase_ip": "203.0.113.9"}},
)  # fmt: skip
ORDER = {
    "meta": {"event_name": "order_created", "test_mode": True, "custom_data": {"gateway_checkout": "r1"}},
    "data": {
        "id": "7", "type": "orders",
        "attributes": {
            "store_id": 3, "test_mode": True, "total": 2000, "user_name": "Ada Lovelace",
            "user_email": "ada@example.com", "tax_number": "GB123", "updated_at": "2026-11-30T10:00:00Z",
            "urls": {"receipt": "https://app.lemonsqueezy.com/my-orders/7?signature=1"},
        },
    },
}  # fmt: skip
SUBSCRIPTION = {
    "meta": {"event_name": "subscription_created", "test_mode": True},
    "data": {
        "id": "8", "type": "subscriptions",
        "attributes": {"store_id": 3, "test_mode": True, "card_brand": "visa", "card_last_four": "4242",
                       "user_name": "Ada", "status": "active", "updated_at": "2026-11-30T10:00:00Z"},
    },
}  # fmt: skip


def _of_stripe(payload: Mapping[str, Any]) -> ProviderEvent:
    return stripe.parse_event(payload, is_live=False)


def _of_lemon_squeezy(payload: Mapping[str, Any]) -> ProviderEvent:
    return lemon_squeezy.parse_event(payload, digest="d", store_id="3", is_test=True)


@pytest.mark.parametrize(
    ("payload", "parse", "kept"),
    [
        (CHECKOUT, _of_stripe, '"amount_total": 2000'),
        (INVOICE, _of_stripe, '"amount": 2000'),
        (REFUND, _of_stripe, '"amount_refunded": 500'),
        (DISPUTE, _of_stripe, '"charge": "ch_1"'),
        (ORDER, _of_lemon_squeezy, '"gateway_checkout": "r1"'),
        (SUBSCRIPTION, _of_lemon_squeezy, '"status": "active"'),
    ],
)
async def test_stored_event_names_no_person_and_means_the_same(
    connection: AsyncConnection, payload: dict[str, Any], parse: Callable[[Mapping[str, Any]], ProviderEvent], kept: str
) -> None:
    event = parse(payload)
    event_id = await webhook_events.record(
        connection,
        "stripe",
        provider_event_id=event.id,
        event_type=event.type,
        payload=payload,
        occurred_at=event.occurred_at,
    )
    assert event_id is not None
    stored = await webhook_events.get(connection, event_id)
    assert stored is not None
    assert parse(stored.payload) == event
    written = json.dumps(stored.payload, ensure_ascii=False)
    assert [each for each in PERSONAL if each in written] == []
    assert kept in written, "what an operator looks for"
