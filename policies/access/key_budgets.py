"""What a key may spend of its account's credits in a period, and what of that is left.

A period is the account's: that of its subscription. A call is of the period in which its record says it was admitted.
Keys that were rotated share one budget, so that a new secret is no new allowance.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from policies.model import Key, Refusal, Refused, Subscription
from policies.wording import counted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Cap(NamedTuple):
    """The cap of one key: what its `keys` keys spend from the budget from `since`, microseconds since the epoch, on."""

    credits: int
    budget_id: UUID
    since: int
    keys: int


def cap_of(key: Key | None, subscription: Subscription | None) -> Cap | None:
    """None where nothing caps the key."""
    if key is None or key.credit_cap is None or subscription is None or subscription.current_period_start is None:
        return None
    since = (subscription.current_period_start - _EPOCH) // _MICROSECOND
    return Cap(key.credit_cap, key.budget_id or key.id, since, key.budget_keys)


def left(cap: Cap, spent: int) -> int:
    """Of what the cap allows; 0 where more is spent, or was before the cap."""
    return max(0, cap.credits - spent)


def left_to_key(cap: Cap | None, spent: int | None) -> int | None:
    """The same for whoever shows it; None without a cap."""
    return None if cap is None else left(cap, spent or 0)


def exhausted(cap: Cap, required: int, *, available: int) -> Refused:
    return Refused(
        Refusal.INSUFFICIENT_CREDITS,
        f"This call needs {counted(required, 'credit')}; "
        f"the credit cap of this key, {cap.credits} a period, leaves {available}.",
        required=required,
        available=available,
    )
