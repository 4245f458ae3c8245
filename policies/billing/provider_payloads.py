"""Decides what is kept of a provider's event: nothing that says who a customer is.

An event is processed by the id of its object, which is fetched anew, so personal data would only lie about here: an
account that is erased must leave none, and an event does not name the account. The provider keeps the whole event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Members of events, by the APIs' references (docs.stripe.com/api, docs.lemonsqueezy.com/api): persons, their means of
# payment, and links that open a page about them without a login.
_PERSONS = frozenset(
    {
        *("account_name", "address", "business_name", "city", "client_ip", "customer_address", "customer_details"),
        *("customer_email", "customer_name", "customer_phone", "customer_shipping", "customer_tax_ids", "email"),
        *("evidence", "first_name", "individual_name", "ip", "last_name", "name", "owner", "phone"),
        *("receipt_email", "region", "shipping", "shipping_details", "tax_ids", "tax_name", "tax_number", "user_email"),
        *("user_name", "zip"),
    }
)
_MEANS_OF_PAYMENT = frozenset(
    {
        *("billing_details", "card", "card_brand", "card_last_four", "collected_information", "custom_fields"),
        *("payment_method_details", "sepa_debit", "source", "us_bank_account"),
    }
)
_LINKS = frozenset(
    {
        *("client_secret", "hosted_invoice_url", "invoice_pdf", "invoice_url", "receipt_url", "url", "urls"),
        "hosted_verification_url",
    }
)
_PERSONAL = _PERSONS | _MEANS_OF_PAYMENT | _LINKS


def without_persons(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The event with null in place of what says who a customer is, at any depth."""
    return {name: None if name in _PERSONAL else _kept(value) for name, value in payload.items()}


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_persons(value)
    return [_kept(each) for each in value] if isinstance(value, list) else value
