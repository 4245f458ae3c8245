"""What a restricted key of Stripe must be allowed to do, and which of it a key is not.

Stripe checks a key's permissions before it looks for the object of a request, so a request for an object that does not
exist asks for the permission alone: 403 means that the key lacks it, 404 or 400 that it has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import stripe

from gateway.payments.provider import CredentialsRejected, ProviderRefused
from gateway.payments.stripe.calls import response

NOBODY = "gateway_permission_check"


@dataclass(frozen=True, slots=True)
class Permission:
    """A resource by its name in the dashboard, and what the key must do with it; a request to `path` needs that."""

    resource: str
    access: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    purpose: str = ""


PERMISSIONS = (
    Permission("Customers", "write", f"customers/{NOBODY}", purpose="buyers"),
    Permission("Checkout Sessions", "write", f"checkout/sessions/{NOBODY}/expire", purpose="checkouts"),
    Permission("Customer portal", "write", "billing_portal/sessions", {"customer": NOBODY}, "the portal"),
    Permission("Subscriptions", "write", f"subscriptions/{NOBODY}", purpose="changes and cancellations"),
    Permission(
        "Subscription schedules",
        "write",
        f"subscription_schedules/{NOBODY}/release",
        purpose="changes with the period's end",
    ),
    Permission("Invoices", "write", f"invoices/{NOBODY}/void", purpose="periods; changes that nobody pays are voided"),
    Permission("Charges and Refunds", "write", f"refunds/{NOBODY}", purpose="refunds, cards"),
    Permission("PaymentIntents", "write", f"payment_intents/{NOBODY}", purpose="payments of packs, top-ups"),
    Permission("SetupIntents", "read", f"setup_intents/{NOBODY}", purpose="cards for top-ups"),
    Permission("PaymentMethods", "read", f"payment_methods/{NOBODY}", purpose="cards for top-ups"),
    Permission("Disputes", "read", f"disputes/{NOBODY}", purpose="disputes"),
    Permission("Prices", "read", f"prices/{NOBODY}", purpose="price differences, schedules"),
    Permission("Coupons", "write", f"coupons/{NOBODY}", purpose="coupons"),
    Permission("Promotion codes", "write", f"promotion_codes/{NOBODY}", purpose="coupons"),
    Permission("Events", "read", f"events/{NOBODY}", purpose="what no webhook announced"),
    Permission("Meter events", "write", "billing/meter_events", purpose="plans with usage or overage"),
)


async def find_missing(client: stripe.StripeClient) -> tuple[str, ...]:
    """The permissions that the client's key lacks. Raises ProviderUnavailable."""
    return tuple([f"{each.resource}: {each.access}" for each in PERMISSIONS if not await _has(client, each)])


async def _has(client: stripe.StripeClient, permission: Permission) -> bool:
    try:
        await response(_requested(client, permission))
    except CredentialsRejected as rejected:
        if not isinstance(rejected.__cause__, stripe.PermissionError):
            raise
        return False
    except ProviderRefused:
        return True
    return True


async def _requested(client: stripe.StripeClient, permission: Permission) -> Any:
    method = "get" if permission.access == "read" else "post"
    found = await client.raw_request_async(method, f"/v1/{permission.path}", **permission.params)
    return client.deserialize(found, api_mode="V1")
