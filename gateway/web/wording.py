"""What pages call the fields of their forms, and say of what the API refuses in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gateway.web.formats import words

# Of fields whose label is not their name; the templates have the same.
LABELS: Mapping[str, str] = {
    "allowed_ips": "Addresses that may use it",
    "balance_below": "When a call takes the balance below",
    "cached_input_tokens": "Cached of these",
    "client_ip": "Address of the client",
    "credit_cap": "Credits it may spend in a period",
    "daily_limit": "At most in a day",
    "email": "E-mail",
    "endpoint": "Route",
    "expires_at": "Last day (UTC)",
    "expires_on": "Last day (UTC)",
    "max_redemptions": "Uses in all",
    "monthly_limit": "At most in a month",
    "overage_credits": "Overage, in credits",
    "periods": "Periods of a plan",
    "plan_id": "Plan",
    "threshold": "When fewer credits are left than",
    "user_id": "Account id",
    "value": "How much",
}
# Messages of Pydantic, which are written for developers.
_PLAIN: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"(?:String|List) should have at least 1 (?:character|item).*", "required"),
        (r"(?:String|List) should have at (least|most) (\d+ (?:character|item)s?).*", r"must have at \1 \2"),
        (r"String should match pattern .*", "is not written as it has to be"),
        (r"Input should be a valid integer.*", "must be a whole number"),
        (r"Input should be a valid (?:decimal|number).*", "must be a number"),
        (r"Input should be a valid UUID.*", "must be an id"),
        (r"Input should be a valid (\w+).*", r"must be a \1"),
        (r"Input should be (greater|less) than or equal to (.+)", r"must be \2 or \1"),
        (r"Input should be (greater|less) than (.+)", r"must be \1 than \2"),
        (r"Input should be ('.+)", r"must be \1"),
    )
)


def label(field: str) -> str:
    return LABELS.get(field) or words(field)


def sentence(message: str) -> str:
    """A message of the API as a sentence for people: `required` becomes `Required.`"""
    for pattern, plain in _PLAIN:
        if found := pattern.fullmatch(message):
            message = found.expand(plain)
            break
    text = message[:1].upper() + message[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
